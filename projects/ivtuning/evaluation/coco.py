"""COCO average precision of detectors: overall, per class, by time of day and by modality.

The computation is that of pycocotools, done by faster-coco-eval's C++ where it is installed. detectron2's own
evaluator is not used: it reads the JSON by itself. Its fast path lacks its operators in the PyPI build, and
the two releases call it differently.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import RotatedBoxes
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from ..data.catalog import metadata
from ..data.datasets import detection
from ..data.modalities import SHOWN_IN, TIMES
from ..data.oriented import is_oriented
from ..data.tasks import task_of
from ..errors import UserError
from ..utils.files import atomic_write
from . import miss_rate as pedestrians
from .matching import MAX_DETECTIONS
from .predictions import check_class, check_image, gather_on_main

try:
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

logger = logging.getLogger("ivtuning.evaluation")
ALL = (0, 1e10)
AREAS = {"": ALL, "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}  # square pixels, as in COCO


class PairCOCOEvaluator(DatasetEvaluator):
    """COCO box AP (and mask AP where the model predicts masks), on 0..100.

    `evaluate()` returns ``{"bbox": {...}, "segm": {...}}`` with

    - ``AP, AP50, AP75, APs, APm, APl`` and, per class, ``AP-<class>, AP50-<class>``;
    - ``AP-day, AP50-day, AP-night, AP50-night`` where the JSON's images carry ``time``;
    - ``AP-both, AP50-both, AP-visible, ...`` where its annotations carry ``modality``: AP on the objects that
      both cameras show, or the visible or the infrared camera alone. A detection of any other object is
      ignored. An annotation without the key counts as shown by both;
    - with `miss_rate`, ``MR, MR-all, MR-day, ...``: log-average miss rates, of which lower is better, see
      :func:`.miss_rate.miss_rates`.

    Without any detection, AP is 0.0 and MR is 100.0; without any ground truth, they are NaN.
    """

    ORIENTED = False  # whether it evaluates oriented boxes

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        max_dets_per_image: int | None = None,
        miss_rate: bool = False,
    ):
        """
        Args:
            dataset_name: a registered dataset. Its metadata names the COCO JSON; the dicts of a dataset
                without one are converted.
            output_dir: where ``coco_instances_results.json`` goes; None writes nothing.
            max_dets_per_image: how many of the highest-scoring detections of each class count in an image;
                None: COCO's 100.
            miss_rate: also compute the miss rates of boxes, which sets of pedestrians are compared by. All
                detections count in them.

        Raises:
            UserError: the dataset is not registered, has no boxes, or its JSON is missing or has a fault;
                miss rates of oriented boxes.
        """
        facts = MetadataCatalog.get(dataset_name) if dataset_name in MetadataCatalog.list() else None
        if facts is None or facts.get("json_file") is None:
            facts = metadata(dataset_name)
        if (task := task_of(facts)).name != "detection":
            raise UserError(
                f"{dataset_name} has {task.labels}, not boxes: use the config of another task for it"
            )
        if miss_rate and self.ORIENTED:
            raise UserError("miss rates are of upright boxes: leave out dataloader.evaluator.miss_rate")
        self._metadata = facts
        json_file = facts.get("json_file")
        # What the loader reads, so that training and evaluation count the same objects.
        content = convert_to_coco_dict(dataset_name) if json_file is None else detection.read_json(json_file)
        self._truth = content.get("annotations")
        if self._truth and is_oriented(self._truth) and not self.ORIENTED:
            raise UserError(
                f"{dataset_name} has oriented boxes: take a config with OrientedEvaluator, such as those of "
                "configs/DroneVehicle"
            )
        self._shared = {key: content[key] for key in ("images", "categories")}
        self._images = {image["id"]: image for image in content["images"]}
        # The ids of VOC's images are text, which the matcher refuses.
        self._numbers = {image: number for number, image in enumerate(sorted(self._images), 1)}
        self._names = {category["id"]: category["name"] for category in content["categories"]}
        labels = facts.get("thing_dataset_id_to_contiguous_id") or {i: i for i in self._names}
        if labels.keys() != self._names.keys():
            raise UserError(
                f"{json_file} has the category ids {sorted(self._names)}, but {dataset_name} is registered "
                f"with {sorted(labels)}: prepare the set again"
            )
        # The category ids in the order of the model's classes.
        self._categories = sorted(labels, key=labels.get)
        self._output_dir = output_dir
        self._limit = MAX_DETECTIONS if max_dets_per_image is None else max_dets_per_image
        self._miss_rate = miss_rate
        figures = PairCOCOEvaluator.metric_names(self)
        if twice := next((name for name in figures if figures.count(name) > 1), None):
            raise UserError(
                f"{dataset_name}: {twice} would be the figure of a class and of a part of the set: rename "
                "the class"
            )
        self.reset()

    def metric_names(self) -> list[str]:
        """Names of the figures of :meth:`evaluate`, such as "bbox/AP"; those of masks where there are any."""
        truth = self._truth or ()
        parts = [self._names[category] for category in self._categories]
        parts += TIMES if any("time" in image for image in self._images.values()) else ()
        parts += SHOWN_IN if any("modality" in a for a in truth) else ()
        names = ["AP", "AP50", "AP75", *(f"AP{a}" for a in AREAS if a)]
        names += [f"{ap}-{part}" for part in parts for ap in ("AP", "AP50")]
        tasks = ["bbox", *(["segm"] if all("segmentation" in a for a in truth) else [])]
        rates = pedestrians.metric_names(self._shared["images"], truth) if self._miss_rate else []
        return [f"{task}/{name}" for task in tasks for name in names] + [f"bbox/{name}" for name in rates]

    def reset(self) -> None:
        """Forget all detections."""
        self._predictions: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the detections of one batch: `inputs` as the mapper made them, `outputs` of the model."""
        for x, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                instances = output["instances"].to("cpu")
                if isinstance(instances.pred_boxes, RotatedBoxes):
                    raise UserError("the model predicts oriented boxes: take a config with OrientedEvaluator")
                results = instances_to_coco_json(instances, x["image_id"])
                # A mask model without detections must still report a mask AP of 0.
                self._predictions.append({"instances": results, "masks": instances.has("pred_masks")})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        """Figures of everything processed since `reset()`, computed on rank 0; ``{}`` on the others.

        Args:
            img_ids: evaluate only these images; None: all images of the JSON.

        Raises:
            UserError: predictions name a class or an image that the dataset lacks.
        """
        gathered = gather_on_main(self._predictions)
        if gathered is None:
            return {}
        self._results = OrderedDict()
        self._eval_predictions(list(chain(*gathered)), img_ids)
        return copy.deepcopy(self._results)

    @property
    def truth(self) -> dict:
        """Content of the COCO JSON that is evaluated against; empty "annotations" where it has none."""
        return {**self._shared, "annotations": self._truth or []}

    @property
    def classes(self) -> dict[int, str]:
        """Names by category id, in the order of the model's classes."""
        return {category: self._names[category] for category in self._categories}

    @property
    def max_dets_per_image(self) -> int:
        """How many detections of each class count in an image."""
        return self._limit

    def precision_by_recall(self, results: list[dict]) -> np.ndarray:
        """Interpolated precision of boxes, whose means are the figures of :meth:`evaluate`.

        Args:
            results: in the form of COCO's results, as ``coco_instances_results.json`` has them.

        Returns:
            (10 IoUs .50:.05:.95, 101 recalls 0:.01:1, classes) float64 in 0..1; -1 for classes without ground
            truth.
        """
        truth, found = self._index(_truth(self._truth or [])), self._index(_detections(results, "bbox"))
        ids = list(self._numbers.values())
        return precision(truth, found, "bbox", ids, self._categories, (ALL,), self._limit)[..., 0]

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence[int] | None = None) -> None:
        """Fill `self._results`."""
        results = [dict(r) for p in predictions for r in p["instances"]]
        source = self._metadata.get("json_file", self._metadata.name)
        for result in results:
            check_class(result["category_id"], len(self._categories), self._metadata.name)
            check_image(result["image_id"], self._images, source)
            result["category_id"] = self._categories[result["category_id"]]
        if self._output_dir:
            with atomic_write(Path(self._output_dir) / "coco_instances_results.json") as temp:
                temp.write_text(json.dumps(results))
        if self._truth is None:
            logger.info("The annotation file has no annotations: nothing to evaluate")
            return

        ids = sorted(self._images if img_ids is None else set(img_ids) & set(self._images))
        self._results["bbox"] = self._figures("bbox", results, ids)
        if self._miss_rate:
            rates = pedestrians.miss_rates([self._images[i] for i in ids], self._truth, results)
            table = tabulate(list(rates.items()), ["objects", "miss rate"], tablefmt="pipe", floatfmt=".2f")
            logger.info(f"log-average miss rates of {self._metadata.name}:\n{table}")
            self._results["bbox"] |= rates
        if any(p["masks"] for p in predictions):
            if all("segmentation" in a for a in self._truth):
                self._results["segm"] = self._figures("segm", results, ids)
            else:
                logger.warning("The model predicts masks, but not all annotations have one: no mask AP")

    def _figures(self, task: str, results: list[dict], ids: list[int]) -> dict:
        """Compute and log all figures of one task, "bbox" or "segm"."""
        truth, images, categories = self._truth, self._images, self._categories
        detections = self._index(_detections(results, task))

        def run(annotations, image_ids, areas=(ALL,)):
            numbers = [self._numbers[image] for image in image_ids]
            return precision(
                self._index(annotations), detections, task, numbers, categories, areas, self._limit
            )

        overall = run(_truth(truth), ids, AREAS.values())
        figures = {
            "AP": mean_precision(overall[..., 0]),
            "AP50": mean_precision(overall[0, ..., 0]),
            "AP75": mean_precision(overall[5, ..., 0]),
        }
        figures |= {f"AP{a}": mean_precision(overall[..., i]) for i, a in enumerate(AREAS) if a}
        rows = []
        for k, category in enumerate(categories):
            rows.append((self._names[category], overall[:, :, k, 0]))
        if any("time" in images[i] for i in ids):
            for time in TIMES:
                some = [i for i in ids if images[i].get("time") == time]
                rows.append((time, run(_truth(truth), some)))
        if any("modality" in a for a in truth):
            rows += [(m, run(_truth(truth, m), ids)) for m in SHOWN_IN]
        rows = [(name, mean_precision(p), mean_precision(p[0])) for name, p in rows]
        logger.info(
            f"{task} results of {self._metadata.name}:\n{create_small_table(figures)}\n"
            + tabulate(rows, headers=["part", "AP", "AP50"], tablefmt="pipe", floatfmt=".3f")
        )
        for name, ap, ap50 in rows:
            figures |= {f"AP-{name}": ap, f"AP50-{name}": ap50}
        return figures

    def _index(self, annotations: list[dict]) -> COCO:
        """A COCO index of `annotations` with this data set's images and categories."""
        api = COCO()
        # Ids start at 1: to the matcher, id 0 means "unmatched".
        numbered = [
            a | {"id": i, "image_id": self._numbers[a["image_id"]]} for i, a in enumerate(annotations, 1)
        ]
        api.dataset = {**self._shared, "annotations": numbered}
        with contextlib.redirect_stdout(io.StringIO()):
            api.createIndex()
        return api


def precision(
    truth: COCO,
    detections: COCO,
    task: str,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    areas: Collection[tuple[float, float]],
    limit: int,
) -> np.ndarray:
    """Interpolated precision by COCO's rules.

    Args:
        task: "bbox" or "segm".
        areas: ranges (low, high) of the objects' areas, in square pixels.
        limit: how many detections count for each image and class.

    Returns:
        (10 IoUs .50:.05:.95, 101 recalls, classes, areas) float64 on 0..1; -1 without ground truth.
    """
    if not image_ids:  # to the libraries, an empty list means "all images"
        return np.full((10, 101, len(category_ids), len(areas)), -1.0)
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, detections, task)
        run.params.imgIds, run.params.catIds = list(image_ids), list(category_ids)
        run.params.areaRng, run.params.areaRngLbl = [list(a) for a in areas], [str(a) for a in areas]
        run.params.maxDets = [limit]
        run.evaluate()
        run.accumulate()
    by_category = np.asarray(run.eval["precision"])[..., -1]
    # The libraries sort the category ids.
    return by_category[:, :, np.argsort(np.argsort(category_ids)), :]


def _truth(annotations: list[dict], modality: str | None = None) -> list[dict]:
    """Ground truth with all keys that the matcher reads; objects of other modalities are ignored."""
    objects = []
    for a in annotations:
        a = {"iscrowd": 0} | a
        a.setdefault("area", _area(a))
        if modality is not None and a.get("modality", "both") != modality:
            # An object with an area outside every range is ignored but still matched by its IoU. The crowd
            # flag, which ignores too, would also match any false positive inside the object.
            a["area"] = -1
        objects.append(a)
    return objects


def _area(annotation: dict) -> float:
    """Square pixels of an object's mask, or of its box where it has none."""
    mask = annotation.get("segmentation")
    if isinstance(mask, list) and mask:
        corners = (np.reshape(polygon, (-1, 2)) for polygon in mask)
        return sum(abs(float(np.cross(c, np.roll(c, -1, axis=0)).sum())) / 2 for c in corners)
    if isinstance(mask, dict):
        packed = isinstance(mask["counts"], str | bytes)
        return float(mask_util.area(mask if packed else mask_util.frPyObjects(mask, *mask["size"])))
    return annotation["bbox"][2] * annotation["bbox"][3]


def _detections(results: list[dict], task: str) -> list[dict]:
    """Results in the form that the matcher reads, with the area of the box or mask in square pixels."""
    if task == "bbox":
        return [
            {k: r[k] for k in ("image_id", "category_id", "score", "bbox")}
            | {"area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0}
            for r in results
        ]
    return [r | {"area": float(mask_util.area(r["segmentation"])), "iscrowd": 0} for r in results]


def mean_precision(values: np.ndarray) -> float:
    """Mean of the valid precisions, those of -1 left out, on 0..100; NaN without any."""
    values = values[values > -1]
    return 100 * float(values.mean()) if values.size else float("nan")
