"""COCO average precision of detectors: overall, per class, by time of day and by modality.

The computation is that of pycocotools, done by faster-coco-eval's C++ where it is installed. detectron2's own
fast path is not used: the PyPI build lacks its operators, and the two releases call it differently.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from ..data.modalities import SHOWN_IN, TIMES
from ..errors import UserError, nearest
from ..utils.files import atomic_write
from .predictions import check_class, check_image, gather_on_main

try:
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

ALL = (0, 1e10)
AREAS = {"": ALL, "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}  # square pixels, as in COCO


class PairCOCOEvaluator(COCOEvaluator):
    """COCO box AP (and mask AP where the model predicts masks), on 0..100.

    `evaluate()` returns ``{"bbox": {...}, "segm": {...}}`` with

    - ``AP, AP50, AP75, APs, APm, APl`` and, per class, ``AP-<class>, AP50-<class>``;
    - ``AP-day, AP50-day, AP-night, AP50-night`` where the JSON's images carry ``time``;
    - ``AP-both, AP50-both, AP-visible, ...`` where its annotations carry ``modality``: AP on the objects that
      both cameras show, or the visible or the infrared camera alone. A detection of any other object is
      ignored. An annotation without the key counts as shown by both.

    Without any detection, AP is 0.0; without any ground truth, it is NaN.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, max_dets_per_image: int | None = None
    ):
        """
        Args:
            dataset_name: a registered dataset. Its metadata names the COCO JSON; a dataset without one is
                converted, which needs `output_dir`.
            output_dir: where ``coco_instances_results.json`` goes; None writes nothing.
            max_dets_per_image: how many of the highest-scoring detections of each class count in an image;
                None: COCO's 100.

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
        detections = (output["instances"] for output in outputs if "instances" in output)
        # A mask model without detections must still report a mask AP of 0.
        for prediction, instances in zip(self._predictions[first:], detections, strict=True):
            prediction["masks"] = instances.has("pred_masks")

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

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence[int] | None = None) -> None:
        """Fill `self._results`."""
        images = self._coco_api.imgs
        categories = self._category_ids()
        results = [dict(r) for p in predictions for r in p.get("instances", ())]
        for result in results:
            check_class(result["category_id"], len(categories), self._metadata.name)
            check_image(result["image_id"], images, self._metadata.json_file)
            result["category_id"] = categories[result["category_id"]]
        if self._output_dir:
            with atomic_write(Path(self._output_dir) / "coco_instances_results.json") as temp:
                temp.write_text(json.dumps(results))
        if not self._do_evaluation:
            self._logger.info("The annotation file has no annotations: nothing to evaluate")
            return

        ids = sorted(images if img_ids is None else set(img_ids) & set(images))
        self._results["bbox"] = self._figures("bbox", results, ids, categories)
        if any(p.get("masks") for p in predictions):
            if all("segmentation" in a for a in self._coco_api.dataset["annotations"]):
                self._results["segm"] = self._figures("segm", results, ids, categories)
            else:
                self._logger.warning("The model predicts masks, but the annotations have none: no mask AP")

    def _category_ids(self) -> list[int]:
        """The category ids in the JSON, in the order of the model's classes."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return sorted(self._coco_api.cats)
        return sorted(mapping, key=mapping.get)

    def _figures(self, task: str, results: list[dict], ids: list[int], categories: list[int]) -> dict:
        """Compute and log all figures of one task, "bbox" or "segm"."""
        truth, images = self._coco_api.dataset["annotations"], self._coco_api.imgs
        detections = self._index(_detections(results, task))
        limit = self._max_dets_per_image[-1]

        def run(annotations, image_ids, areas=(ALL,)):
            return precision(self._index(annotations), detections, task, image_ids, categories, areas, limit)

        overall = run(_truth(truth), ids, AREAS.values())
        figures = {
            "AP": _mean(overall[..., 0]),
            "AP50": _mean(overall[0, ..., 0]),
            "AP75": _mean(overall[5, ..., 0]),
        }
        figures |= {f"AP{a}": _mean(overall[..., i]) for i, a in enumerate(AREAS) if a}
        rows = []
        for k, category in enumerate(categories):
            rows.append((self._coco_api.cats[category]["name"], overall[:, :, k, 0]))
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
        """A COCO index of `annotations` with this data set's images and categories."""
        api = COCO()
        api.dataset = {k: self._coco_api.dataset[k] for k in ("images", "categories")}
        # Ids start at 1: to the matcher, id 0 means "unmatched".
        api.dataset["annotations"] = [a | {"id": i} for i, a in enumerate(annotations, 1)]
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
        a = {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3]} | a
        if modality is not None and a.get("modality", "both") != modality:
            # An object with an area outside every range is ignored but still matched by its IoU. The crowd
            # flag, which ignores too, would also match any false positive inside the object.
            a["area"] = -1
        objects.append(a)
    return objects


def _detections(results: list[dict], task: str) -> list[dict]:
    """Results in the form that the matcher reads, with the area of the box or mask in square pixels."""
    if task == "bbox":
        return [
            {k: r[k] for k in ("image_id", "category_id", "score", "bbox")}
            | {"area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0}
            for r in results
        ]
    return [r | {"area": float(mask_util.area(r["segmentation"])), "iscrowd": 0} for r in results]


def _mean(values: np.ndarray) -> float:
    """Mean of the valid precisions, on 0..100; NaN without any."""
    values = values[values > -1]
    return 100 * float(values.mean()) if values.size else float("nan")
