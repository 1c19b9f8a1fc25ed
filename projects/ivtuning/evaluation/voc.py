"""Average precision as Pascal VOC defines it, at an IoU of 0.5."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_ap, voc_eval
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from ..data.catalog import metadata
from ..errors import UserError
from ..utils.text import read_text
from .predictions import check_class, check_image, gather_on_main


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """AP at IoU 0.5 on 0..100, by both of VOC's rules; computed by detectron2, but from exact scores.

    `evaluate()` returns ``{"bbox": {...}}`` with ``AP50_11point`` (mean precision at 11 recalls, VOC 2007),
    ``AP50_area`` (area under the curve, since VOC 2010) and both of each class, ``AP50_11point-<class>`` ...

    As in VOC's development kit, boxes include their last pixel, a detection needs an IoU above 0.5, each
    object counts once, and objects marked difficult are ignored. The AP of a class without objects is NaN and
    not part of the mean.

    Args:
        dataset_name: a registered VOC set, such as "voc_2007_test".

    Raises:
        UserError: the set is unknown, not a VOC set, or its files are missing.
    """

    def __init__(self, dataset_name: str):
        facts = metadata(dataset_name)
        if facts.get("dirname") is None or facts.get("split") is None:
            raise UserError(
                f"{dataset_name} is not in VOC's layout: give a set such as voc_2007_test, or evaluate with "
                "PairCOCOEvaluator"
            )
        images = Path(facts.dirname) / "ImageSets" / "Main" / f"{facts.split}.txt"
        if not images.is_file():
            raise UserError(
                f"{dataset_name}: {images} is missing: unpack the release there, or set DETECTRON2_DATASETS "
                "to its root"
            )
        super().__init__(dataset_name)

    def metric_names(self) -> list[str]:
        """Names of the figures of :meth:`evaluate`, such as "bbox/AP50_area"."""
        keys = ("AP50_11point", "AP50_area")
        return [f"bbox/{key}{part}" for part in ("", *(f"-{c}" for c in self._class_names)) for key in keys]

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the detections of one batch: `inputs` as the mapper made them, `outputs` of the model."""
        for x, output in zip(inputs, outputs, strict=True):
            detections = output["instances"].to(self._cpu_device)
            # VOC counts pixels from 1 and includes the last one.
            boxes = detections.pred_boxes.tensor.double() + torch.tensor([1, 1, 0, 0])
            labels, scores = detections.pred_classes.tolist(), detections.scores.tolist()
            rows = zip(labels, scores, boxes.tolist(), strict=True)
            for label, score, box in rows:
                self._predictions[label].append(" ".join(map(str, (x["image_id"], score, *box))))

    def evaluate(self) -> dict:
        """Figures of everything processed since `reset()`, computed on rank 0; ``{}`` on the others.

        Raises:
            UserError: predictions name a class or an image that the set lacks.
        """
        gathered = gather_on_main(self._predictions)
        if gathered is None:
            return {}
        lines = defaultdict(list)  # of the detections of each class
        for predictions in gathered:
            for label, part in predictions.items():
                lines[label] += part
        images = [line.strip() for line in read_text(self._image_set_path).splitlines()]
        self._check(lines, set(images))
        rows = [
            (name, *self._average_precision(name, lines[i], images))
            for i, name in enumerate(self._class_names)
        ]
        return {"bbox": self._figures(rows)}

    def _check(self, predictions: dict[int, list[str]], images: set[str]) -> None:
        for label, lines in predictions.items():
            check_class(label, len(self._class_names), self._dataset_name)
            for line in lines:
                check_image(line.split(" ", 1)[0], images, self._image_set_path)

    def _average_precision(self, name: str, lines: list[str], images: list[str]) -> tuple[float, float]:
        """AP of one class by 11 points and by area, on 0..100; NaN without objects."""
        objects = (o for image in images for o in parse_rec(self._anno_file_template.format(image)))
        if not any(o["name"] == name and not o["difficult"] for o in objects):
            return np.nan, np.nan
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{name}.txt").write_text("\n".join(lines))
            recall, precision, by_points = voc_eval(
                f"{folder}/{{}}.txt",
                self._anno_file_template,
                self._image_set_path,
                name,
                ovthresh=0.5,
                use_07_metric=True,
            )
        return 100 * float(by_points), 100 * float(voc_ap(recall, precision))

    def _figures(self, rows: list[tuple[str, float, float]]) -> dict[str, float]:
        """Log all figures and return them, the means first and then those of each class."""
        keys = ("AP50_11point", "AP50_area")
        values = np.array([row[1:] for row in rows])
        valid = values[~np.isnan(values).any(1)]
        means = valid.mean(0).tolist() if len(valid) else [float("nan")] * 2
        figures = dict(zip(keys, means, strict=True))
        self._logger.info(
            f"bbox results of {self._dataset_name}:\n{create_small_table(figures)}\n"
            + tabulate(rows, headers=["class", *keys], tablefmt="pipe", floatfmt=".3f")
        )
        for name, *both in rows:
            figures |= {f"{key}-{name}": value for key, value in zip(keys, both, strict=True)}
        return figures
