"""Mean IoU and related figures of label maps: overall, per class and by time of day."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils.logger import create_small_table
from tabulate import tabulate
from torch import Tensor

from ..data.catalog import metadata
from ..data.datasets.segmentation import PROTOCOLS
from ..data.labels import read_labels
from ..data.modalities import TIMES
from ..errors import UserError
from ..utils.files import atomic_write
from .confusion import boundary_counts, confusion, label_map, mean, per_class, ratio, summary
from .predictions import check_image, gather_on_main


class PairSemSegEvaluator(SemSegEvaluator):
    """Figures on 0..100 from one confusion matrix of all pixels that are not ignored.

    `evaluate()` returns ``{"sem_seg": {...}}`` with

    - ``mIoU, fwIoU, mACC, pACC``: mean IoU; mean IoU weighted by the number of pixels of the classes; mean
      accuracy (recall) of the classes; pixel accuracy;
    - ``mIoU-day, mIoU-night`` where the set's records carry "time";
    - per class ``IoU-<class>`` and ``ACC-<class>``;
    - with `boundary`, ``mBoundaryIoU`` and ``BoundaryIoU-<class>``, see :func:`boundary_counts`.

    The IoU of a class without ground truth is NaN and not part of any mean, as in detectron2's main branch;
    in detectron2 0.6 and mmsegmentation it is 0 as soon as one pixel is predicted as that class. mIoU-day and
    mIoU-night leave out the classes that their own images lack.

    The ground truth is read through the data set's records, so it follows the protocol that the set is
    registered with. The computation is our own: the two releases of detectron2 give different mIoUs, and the
    newer one always computes a boundary IoU, by eroding label numbers rather than masks.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, boundary: bool = False):
        """
        Args:
            dataset_name: a registered segmentation set.
            output_dir: folder for ``sem_seg_predictions.json`` (COCO RLE of each class and image; slow) and
                ``sem_seg_evaluation.json`` (the figures and the confusion matrices, rows: ground truth);
                None writes nothing.
            boundary: also compute the boundary IoU, which is slow.

        Raises:
            UserError: the dataset is not registered, or not by
                :func:`ivtuning.data.datasets.segmentation.register_segmentation`.
        """
        self._protocol = metadata(dataset_name).get("protocol")
        if self._protocol not in PROTOCOLS:
            raise UserError(
                f"{dataset_name} has no label maps: evaluate on a set that register_segmentation registered"
            )
        super().__init__(dataset_name, output_dir=output_dir)
        self.dataset_name = dataset_name
        self._boundary = boundary
        self._records = {record["file_name"]: record for record in DatasetCatalog.get(dataset_name)}
        self.reset()

    def metric_names(self) -> list[str]:
        """Names of the figures of :meth:`evaluate`, such as "sem_seg/mIoU"."""
        names = ["mIoU", "fwIoU", "mACC", "pACC", *(["mBoundaryIoU"] if self._boundary else [])]
        if any("time" in record for record in self._records.values()):
            names += [f"mIoU-{time}" for time in TIMES]
        kinds = ("IoU", "ACC", *(["BoundaryIoU"] if self._boundary else []))
        return [f"sem_seg/{n}" for n in (*names, *(f"{k}-{c}" for k in kinds for c in self._class_names))]

    def reset(self) -> None:
        """Forget all images."""
        classes = self._num_classes
        # One entry for each time of day, and one for images of unknown time.
        self._confusion = np.zeros((len(TIMES) + 1, classes, classes), np.int64)
        self._images = np.zeros(len(TIMES) + 1, np.int64)
        self._bands = np.zeros((2, classes), np.int64)
        self._predictions: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count one batch.

        Args:
            inputs: dicts with "file_name".
            outputs: dicts with "sem_seg", (K, H, W) scores at the label map's size; the highest wins.

        Raises:
            UserError: an image of another data set, labels that cannot be read or have no class (see
                :func:`..data.labels.read_labels`), or scores of another size or that are not finite.
        """
        for x, output in zip(inputs, outputs, strict=True):
            name = x["file_name"]
            check_image(name, self._records, self.dataset_name)
            record = self._records[name]
            truth = read_labels(record)
            prediction = self._label_map(output["sem_seg"], truth.shape, name)
            time = record.get("time")
            part = TIMES.index(time) if time in TIMES else len(TIMES)
            self._confusion[part] += confusion(truth, prediction, self._num_classes)
            self._images[part] += 1
            if self._boundary:
                self._bands += boundary_counts(truth, prediction, self._num_classes)
            if self._output_dir:
                self._predictions += self.encode_json_sem_seg(prediction, name)

    def _label_map(self, scores: Tensor, shape: tuple[int, int], name: str) -> np.ndarray:
        if len(scores) != self._num_classes:
            raise UserError(
                f"the model has {len(scores)} classes, {self.dataset_name} {self._num_classes}: "
                f"set model.sem_seg_head.num_classes={self._num_classes}"
            )
        if tuple(scores.shape[1:]) != shape:
            raise UserError(
                f"the prediction for {name} is {tuple(scores.shape[1:])}, its label map {shape}: "
                "give the image its own height and width"
            )
        return label_map(scores, name)

    def evaluate(self) -> dict:
        """Figures of everything processed on all ranks since `reset()`, on rank 0; ``{}`` on the others.

        Raises:
            UserError: nothing was processed.
        """
        gathered = gather_on_main((self._confusion, self._images, self._bands, self._predictions))
        if gathered is None:
            return {}
        confusions, images, bands, predictions = (
            sum(part[1:], part[0]) for part in zip(*gathered, strict=True)
        )
        if not images.sum():
            raise UserError(f"no image of {self.dataset_name} was evaluated: check dataloader.test")

        parts = {"all": (images.sum(), confusions.sum(0))}
        if any("time" in record for record in self._records.values()):
            parts |= {time: (images[i], confusions[i]) for i, time in enumerate(TIMES)}
        means = {part: summary(matrix) for part, (_, matrix) in parts.items()}
        figures = dict(means["all"]) | {f"mIoU-{t}": means[t]["mIoU"] for t in TIMES if t in parts}
        columns = [per_class(matrix) for _, matrix in parts.values()]
        iou, acc = columns[0]
        figures |= self._named("IoU", iou) | self._named("ACC", acc)
        if self._boundary:
            band = 100 * ratio(*bands)
            band[np.isnan(iou)] = math.nan
            figures |= {"mBoundaryIoU": mean(band)} | self._named("BoundaryIoU", band)
        self._report(figures, parts, means, [iou, acc, *(c[0] for c in columns[1:])])
        if self._output_dir:
            self._write(figures, parts, predictions)
        return {"sem_seg": figures}

    def _named(self, kind: str, values: np.ndarray) -> dict[str, float]:
        return {f"{kind}-{name}": v for name, v in zip(self._class_names, values.tolist(), strict=True)}

    def _report(self, figures: dict, parts: dict, means: dict, columns: Sequence[np.ndarray]) -> None:
        """Log a table of the whole set and its parts, and one of the classes."""
        images, matrix = parts["all"]
        count = f"{images} of {len(self._records)}" if images < len(self._records) else images
        title = (
            f"semantic segmentation on {self.dataset_name}, protocol {self._protocol} "
            f"({self._num_classes} classes), {count} images"
        )
        keys = ["mIoU", "fwIoU", "mACC", "pACC", "mBoundaryIoU"]
        whole = create_small_table({key: figures[key] for key in keys if key in figures})
        if len(parts) > 1:
            rows = [[part, parts[part][0], *means[part].values()] for part in TIMES]
            whole += "\n\n" + tabulate(rows, ["part", "images", *keys[:4]], tablefmt="pipe", floatfmt=".3f")
        share = 100 * ratio(matrix.sum(1), matrix.sum())
        rows = [list(row) for row in zip(self._class_names, share, *columns, strict=True)]
        headers = ["class", "% of pixels", "IoU", "ACC", *(f"IoU {part}" for part in parts if part != "all")]
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f")
        self._logger.info(f"{title}:\n{whole}\n\n{table}")

    def _write(self, figures: dict, parts: dict, predictions: list[dict]) -> None:
        folder = Path(self._output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        summary_json = {
            "dataset": self.dataset_name,
            "protocol": self._protocol,
            "classes": list(self._class_names),
            "images": {part: int(images) for part, (images, _) in parts.items()},
            # JSON has no NaN.
            "figures": {key: None if math.isnan(value) else value for key, value in figures.items()},
            "confusion": {part: matrix.tolist() for part, (_, matrix) in parts.items()},
        }
        for name, data in (("sem_seg_predictions", predictions), ("sem_seg_evaluation", summary_json)):
            with atomic_write(folder / f"{name}.json") as temp:
                temp.write_text(json.dumps(data))
