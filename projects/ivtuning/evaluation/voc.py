"""Average precision as Pascal VOC defines it, at an IoU of 0.5."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_ap, voc_eval
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from ..data.catalog import metadata
from ..errors import UserError


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """AP at IoU 0.5 on 0..100, by both of VOC's rules; detectron2's arithmetic, without its rounded scores.

    `evaluate()` returns ``{"bbox": {...}}`` with ``AP50_11point`` (mean precision at 11 recalls, VOC 2007),
    ``AP50_area`` (area under the curve, since VOC 2010) and both of each class, ``AP50_11point-<class>`` ...

    As in VOC's kit, boxes are inclusive pixels, a detection must overlap by more than 0.5, one object counts
    once, and objects marked difficult are neither right nor wrong. A class without objects is NaN and no part
    of the mean.

    Args:
        dataset_name: a registered VOC set, such as "voc_2007_test".

    Raises:
        UserError: the set is unknown, no VOC set, or not on this machine.
    """

    def __init__(self, dataset_name: str):
        known = metadata(dataset_name)
        if known.get("dirname") is None or known.get("split") is None:
            raise UserError(
                f"{dataset_name} is not in VOC's layout: give a set such as voc_2007_test, or evaluate with "
                "PairCOCOEvaluator"
            )
        images = Path(known.dirname) / "ImageSets" / "Main" / f"{known.split}.txt"
        if not images.is_file():
            raise UserError(
                f"{dataset_name}: no {images}: put VOC there as it was released, or point "
                "DETECTRON2_DATASETS to its root"
            )
        super().__init__(dataset_name)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the detections of one batch: `inputs` as the mapper made them, `outputs` of the model."""
        for x, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to(self._cpu_device)
            # From corners to inclusive pixels, counted from 1.
            boxes = found.pred_boxes.tensor.double() + torch.tensor([1, 1, 0, 0])
            rows = zip(found.pred_classes.tolist(), found.scores.tolist(), boxes.tolist(), strict=True)
            for label, score, box in rows:
                self._predictions[label].append(" ".join(map(str, (x["image_id"], score, *box))))

    def evaluate(self) -> dict:
        """Figures of everything processed since `reset()`, computed on rank 0; ``{}`` on the others.

        Raises:
            UserError: predictions name a class or an image that the set lacks.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        found = defaultdict(list)
        for predictions in gathered:
            for label, lines in predictions.items():
                found[label] += lines
        images = [line.strip() for line in Path(self._image_set_path).read_text().splitlines()]
        self._check(found, set(images))
        rows = [
            (name, *self._average_precision(name, found[i], images))
            for i, name in enumerate(self._class_names)
        ]
        return {"bbox": self._figures(rows)}

    def _check(self, found: dict[int, list[str]], images: set[str]) -> None:
        classes = len(self._class_names)
        if found and not 0 <= max(found) < classes:
            raise UserError(
                f"the model predicts class {max(found)}, but {self._dataset_name} has only {classes} classes "
                f"(0..{classes - 1}): set the model's num_classes"
            )
        predicted = {line.split(" ", 1)[0] for lines in found.values() for line in lines}
        if unknown := sorted(predicted - images):
            raise UserError(
                f"image id {unknown[0]} was predicted, but {self._image_set_path} lacks it: evaluate on the "
                "data set that the loader reads"
            )

    def _average_precision(self, name: str, lines: list[str], images: list[str]) -> tuple[float, float]:
        """AP of one class by 11 points and by area, 0..100; NaN without objects."""
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
        """The means and, class by class, the rest."""
        keys = ("AP50_11point", "AP50_area")
        values = np.array([row[1:] for row in rows])
        known = values[~np.isnan(values).any(1)]
        means = known.mean(0).tolist() if len(known) else [float("nan")] * 2
        figures = dict(zip(keys, means, strict=True))
        self._logger.info(
            f"bbox results of {self._dataset_name}:\n{create_small_table(figures)}\n"
            + tabulate(rows, headers=["class", *keys], tablefmt="pipe", floatfmt=".3f")
        )
        for name, *both in rows:
            figures |= {f"{key}-{name}": value for key, value in zip(keys, both, strict=True)}
        return figures
