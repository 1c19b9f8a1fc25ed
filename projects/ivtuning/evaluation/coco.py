"""COCO average precision of paired detectors: overall, per class, by day and night, by modality.

The arithmetic is pycocotools', run by faster-coco-eval's C++ where it is installed. detectron2's own
fast path is not used: the PyPI build has no operators for it and the two releases call it differently.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from ..data.modalities import SHOWN_IN, TIMES
from ..errors import UserError, nearest
from ..utils.files import atomic_write

try:
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

ALL = (0, 1e10)
AREAS = {"": ALL, "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}  # square pixels, as COCO has them


class PairCOCOEvaluator(COCOEvaluator):
    """COCO box AP (and mask AP where the model predicts masks), on 0..100.

    `evaluate()` returns ``{"bbox": {...}, "segm": {...}}`` with

    - ``AP, AP50, AP75, APs, APm, APl`` and, per class, ``AP-<class>, AP50-<class>``;
    - ``AP-day, AP50-day, AP-night, AP50-night`` where the JSON's images carry ``time``;
    - ``AP-both, AP50-both, AP-visible, ...`` where its annotations carry ``modality``: only objects that
      both (or only that one) of the cameras show count; a detection that fits another object is neither
      right nor wrong. An annotation without the key counts as shown by both.

    A model that finds nothing scores 0.0; a figure without any ground truth is NaN.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, max_dets_per_image: int | None = None
    ):
        """
        Args:
            dataset_name: a registered dataset. Its metadata names the COCO JSON; a dataset without one is
                converted, which needs `output_dir`.
            output_dir: where ``coco_instances_results.json`` goes; None writes nothing.
            max_dets_per_image: highest-scoring detections of an image and class that count; None: COCO's 100.

        Raises:
            UserError: the dataset is not registered, or its JSON is missing.
        """
        json_file = getattr(MetadataCatalog.get(dataset_name), "json_file", None)
        if json_file is None and dataset_name not in DatasetCatalog.list():
            known = nearest(dataset_name, DatasetCatalog.list())
            raise UserError(
                f"dataset '{dataset_name}' is not registered{known}: register it before evaluation"
            )
        if json_file is not None and "://" not in str(json_file) and not Path(json_file).is_file():
            raise UserError(
                f"annotations of '{dataset_name}' are missing: no file {json_file}; prepare the dataset"
            )
        super().__init__(
            dataset_name, output_dir=output_dir, max_dets_per_image=max_dets_per_image, use_fast_impl=False
        )

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the detections of one batch: `inputs` as the mapper made them, `outputs` of the model."""
        first = len(self._predictions)
        super().process(inputs, outputs)
        found = (output["instances"] for output in outputs if "instances" in output)
        # A mask model that finds nothing must still report a mask AP of zero.
        for prediction, instances in zip(self._predictions[first:], found, strict=True):
            prediction["masks"] = instances.has("pred_masks")

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        """Figures of everything processed since `reset()`, computed on rank 0; ``{}`` on the others.

        Args:
            img_ids: evaluate these images alone; all images of the JSON if None.

        Raises:
            UserError: predictions name a class or an image that the dataset lacks.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        self._results = OrderedDict()
        self._eval_predictions(list(chain(*gathered)), img_ids)
        return copy.deepcopy(self._results)

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence[int] | None = None) -> None:
        """Fill `self._results`."""
        images = self._coco_api.imgs
        categories = self._category_ids()
        results = [dict(r) for p in predictions for r in p.get("instances", ())]
        for result in results:
            if not 0 <= result["category_id"] < len(categories):
                raise UserError(
                    f"the model predicts class {result['category_id']}, but {self._metadata.name} has only "
                    f"{len(categories)} classes (0..{len(categories) - 1}): set the model's num_classes"
                )
            if result["image_id"] not in images:
                raise UserError(
                    f"image id {result['image_id']} was predicted, but {self._metadata.json_file} lacks it: "
                    "evaluate on the dataset that the loader reads"
                )
            result["category_id"] = categories[result["category_id"]]
        if self._output_dir:
            _write_json(results, Path(self._output_dir) / "coco_instances_results.json")
        if not self._do_evaluation:
            self._logger.info("The annotation file holds no annotations: nothing to compare with")
            return

        ids = sorted(images if img_ids is None else set(img_ids) & set(images))
        self._results["bbox"] = self._figures("bbox", results, ids, categories)
        if any(p.get("masks") for p in predictions):
            if all("segmentation" in a for a in self._coco_api.dataset["annotations"]):
                self._results["segm"] = self._figures("segm", results, ids, categories)
            else:
                self._logger.warning("The model predicts masks, but the annotations have none: no mask AP")

    def _category_ids(self) -> list[int]:
        """The JSON's category id of each contiguous class."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return sorted(self._coco_api.cats)
        return sorted(mapping, key=mapping.get)

    def _figures(self, task: str, results: list[dict], ids: list[int], categories: list[int]) -> dict:
        """All figures of one task ("bbox" or "segm"); see the class."""
        truth, images = self._coco_api.dataset["annotations"], self._coco_api.imgs
        detections = self._index(_detections(results, task))
        limit = self._max_dets_per_image[-1]

        def run(annotations, image_ids, areas=(ALL,)):
            return precision(self._index(annotations), detections, task, image_ids, categories, areas, limit)

        every = run(_truth(truth), ids, AREAS.values())
        figures = {
            "AP": _mean(every[..., 0]),
            "AP50": _mean(every[0, ..., 0]),
            "AP75": _mean(every[5, ..., 0]),
        }
        figures |= {f"AP{a}": _mean(every[..., i]) for i, a in enumerate(AREAS) if a}
        rows = []
        for k, category in enumerate(categories):
            rows.append((self._coco_api.cats[category]["name"], every[:, :, k, 0]))
        if any("time" in images[i] for i in ids):
            for time in TIMES:
                some = [i for i in ids if images[i].get("time") == time]
                rows.append((time, run(_truth(truth), some)))
        if any("modality" in a for a in truth):
            rows += [(m, run(_truth(truth, m), ids)) for m in SHOWN_IN]
        rows = [(name, _mean(p), _mean(p[0])) for name, p in rows]
        self._logger.info(
            f"{task} results of {self._metadata.name}:\n{create_small_table(figures)}\n"
            + tabulate(rows, headers=["part", "AP", "AP50"], tablefmt="pipe", floatfmt=".3f")
        )
        for name, ap, ap50 in rows:
            figures |= {f"AP-{name}": ap, f"AP50-{name}": ap50}
        return figures

    def _index(self, annotations: list[dict]) -> COCO:
        """`annotations` on this dataset's images and categories."""
        api = COCO()
        api.dataset = {k: self._coco_api.dataset[k] for k in ("images", "categories")}
        # Ids from 1: the matcher takes id 0 for "unmatched".
        api.dataset["annotations"] = [a | {"id": i} for i, a in enumerate(annotations, 1)]
        with contextlib.redirect_stdout(io.StringIO()):
            api.createIndex()
        return api


def precision(truth: COCO, detections: COCO, task: str, image_ids, category_ids, areas, limit) -> np.ndarray:
    """Interpolated precision by COCO's rules.

    Args:
        task: "bbox" or "segm".
        areas: (low, high) object areas in square pixels.
        limit: detections of an image and class that count.

    Returns:
        (T=10 IoUs .50:.05:.95, R=101 recalls, classes, areas) float64 on 0..1; -1 without ground truth.
    """
    if not image_ids:  # the libraries read an empty list as "all images"
        return np.full((10, 101, len(category_ids), len(areas)), -1.0)
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, detections, task)
        run.params.imgIds, run.params.catIds = list(image_ids), list(category_ids)
        run.params.areaRng, run.params.areaRngLbl = [list(a) for a in areas], [str(a) for a in areas]
        run.params.maxDets = [limit]
        run.evaluate()
        run.accumulate()
    found = np.asarray(run.eval["precision"])[..., -1]
    # The libraries sort the category ids.
    return found[:, :, np.argsort(np.argsort(category_ids)), :]


def _truth(annotations: list[dict], modality: str | None = None) -> list[dict]:
    """Ground truth with all keys that the matcher reads; objects of other modalities set to ignore."""
    objects = []
    for a in annotations:
        a = {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3]} | a
        if modality is not None and a.get("modality", "both") != modality:
            # An area outside every range is ignored and still matched by ordinary IoU; the crowd flag,
            # which ignores too, would also swallow any false alarm inside the object.
            a["area"] = -1
        objects.append(a)
    return objects


def _detections(results: list[dict], task: str) -> list[dict]:
    """Results in the form that the matcher reads: area of the box or of the mask, in square pixels."""
    if task == "bbox":
        return [
            {k: r[k] for k in ("image_id", "category_id", "score", "bbox")}
            | {"area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0}
            for r in results
        ]
    return [r | {"area": float(mask_util.area(r["segmentation"])), "iscrowd": 0} for r in results]


def _mean(values: np.ndarray) -> float:
    """Mean of the valid precisions on 0..100; NaN where there is none."""
    values = values[values > -1]
    return 100 * float(values.mean()) if values.size else float("nan")


def _write_json(data, path: Path) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(data))
