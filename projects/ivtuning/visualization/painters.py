"""Painters: how the pairs of each task are drawn, and how their predictions are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor

from ..data.images import read_pair
from ..data.labels import IGNORE, read_labels
from ..data.mappers.classification import ClassificationMapper
from ..data.modalities import MODALITIES, absent_modality
from ..errors import UserError
from ..evaluation.confusion import confusion, summary
from ..evaluation.saliency import labels_of
from .boxes import draw_pair
from .label_maps import caption, draw_label_maps
from .panels import RGB, Drawing, Panel, class_name, enlargement
from .query_pictures import draw_queries
from .scores import IOU, Outcomes, score_boxes, score_class, score_labels

Pixels: TypeAlias = np.ndarray | None  # (H, W, 3) uint8; None if the image is missing

# What a prediction that is not boxes holds.
KINDS = {np.ndarray: "label maps", Tensor: "class scores"}


class Painter(Protocol):
    """Draws the pairs of one task."""

    def read(self, record: dict, ir_range: Sequence[float] | None) -> tuple[Pixels, Pixels]:
        """The visible and the infrared image of a dataset dict; see :func:`draw_records`."""
        # Gray visible images can be drawn in any case; the mapper of a model decides about them.
        return read_pair(record, ir_range, absent_modality(record), True)

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[Drawing, dict]:
        """Draw a dataset dict; return the drawing and the fields of its :class:`Picture`.

        `prediction` is the prediction of a model, a dict of several models' by name, or None. Of several
        models, the last one is scored.
        """

    def facts(self) -> dict:
        """Lines for the page's header that concern all drawn pairs."""


class BoxPainter(Painter):
    """Draws boxes and masks, see :func:`draw_pair`. A missing image is black."""

    def __init__(self, classes: Sequence[str], threshold: float, labels: str = "auto"):
        self.classes, self.threshold, self.labels = classes, threshold, labels
        self._scored = False

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[Drawing, dict]:
        _check(prediction, Instances, record)
        vis, ir = _fill(vis, ir)
        truth = record.get("annotations")
        drawing = draw_pair(vis, ir, truth, prediction, self.classes, self.threshold, self.labels)
        fields: dict[str, Any] = {"truth": None if truth is None else len(truth)}
        if hasattr(prediction, "scores"):
            fields["predictions"] = int((prediction.scores >= self.threshold).sum())
        judged = _last(prediction)
        if truth is not None and judged is not None:
            self._scored = True
            fields |= score_boxes(truth, judged, self.classes, self.threshold)
            if isinstance(prediction, Mapping):
                fields["remark"] = f"{list(prediction)[-1]}: {fields['remark']}"
        else:
            ids = []
            if truth is not None:
                ids = [a["category_id"] for a in truth]
            elif judged is not None:
                ids = judged.pred_classes[judged.scores >= self.threshold].tolist()
            fields["classes"] = {class_name(k, self.classes): Outcomes() for k in ids}
        return drawing, fields

    def facts(self) -> dict:
        """What the pictures' scores are, if they have any."""
        words = f"F1 of the boxes, at IoU {IOU:g} and scores from {self.threshold:g}"
        return {"score of a picture": words} if self._scored else {}


class QueryPainter(BoxPainter):
    """Draws the best queries of a pair, at most `count`, see :func:`draw_queries`."""

    def __init__(self, classes: Sequence[str], threshold: float, count: int, labels: str = "auto"):
        super().__init__(classes, threshold, labels)
        self.count = count

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[Drawing, dict]:
        shown = prediction.best(self.count, self.threshold)
        vis, ir = _fill(vis, ir)
        drawing = draw_queries(vis, ir, prediction, shown, self.classes, self.labels)
        ids = shown.scores.argmax(1).tolist()
        classes = {class_name(k, self.classes): Outcomes() for k in ids}
        return drawing, {"predictions": len(ids), "classes": classes}

    def facts(self) -> dict:
        return {"queries": f"at most {self.count} of a pair"}


class LabelPainter(Painter):
    """Draws label maps, see :func:`draw_label_maps`. `protocol` is the set's evaluation protocol or None."""

    def __init__(self, classes: Sequence[str] = (), colors: Sequence[RGB] = (), protocol: str | None = None):
        self.classes, self.colors, self.protocol = classes, colors, protocol
        self._confusion: dict[str, np.ndarray] = {}

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[Drawing, dict]:
        _check(prediction, np.ndarray, record)
        truth = read_labels(record) if "sem_seg_file_name" in record else None
        drawing = draw_label_maps(vis, ir, truth, prediction, self.classes, self.colors)
        if truth is None or prediction is None:
            shown = truth if prediction is None else _last(prediction)
            ids = [] if shown is None else np.setdiff1d(labels_of(shown), IGNORE).tolist()
            return drawing, {"classes": {class_name(k, self.classes): Outcomes() for k in ids}}
        models = prediction if isinstance(prediction, Mapping) else {"": prediction}
        for name, values in models.items():
            labels = labels_of(values)
            if (largest := int(labels.max(initial=0))) >= len(self.classes):
                raise UserError(
                    f"the model predicts class {largest} for {record['file_name']}, but the set has only "
                    f"{len(self.classes)} classes: give a model of this set, or a set of the model's"
                )
            matrix = confusion(truth, labels, len(self.classes))
            self._confusion[name] = matrix + self._confusion.get(name, 0)
        scores = (f"{name} {caption(truth, labels, len(self.classes))}" for name, labels in models.items())
        return drawing, {"remark": "; ".join(scores).strip(), **score_labels(matrix, self.classes)}

    def facts(self) -> dict:
        """The protocol, what the pictures' scores are, and each model's mean IoU over all drawn pixels."""
        facts = {"protocol": f"{self.protocol} ({len(self.classes)} classes)"} if self.protocol else {}
        if self._confusion:
            facts["score of a picture"] = "mean IoU of the classes in its ground truth"
        for name, matrix in self._confusion.items():
            facts[f"mIoU here {name}".strip()] = f"{summary(matrix)['mIoU']:.1f}"
        return facts


class ClassPainter(Painter):
    """Draws images or pairs with one class, captioned with it and the model's most probable one."""

    def __init__(self, classes: Sequence[str] = ()):
        self.classes = classes
        self._correct: dict[str, list[bool]] = {}

    def read(self, record: dict, ir_range: Sequence[float] | None) -> tuple[Pixels, Pixels]:
        if "ir_file_name" in record or "missing" in record:
            return super().read(record, ir_range)
        image = ClassificationMapper(is_train=False, ir_range=ir_range)(record)["image"]
        return image.permute(1, 2, 0).numpy(), None

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[Drawing, dict]:
        _check(prediction, Tensor, record)
        images = [_enlarged(image) for image in (vis, ir) if image is not None]
        label = record.get("label")
        truth = "" if label is None else class_name(label, self.classes)
        fields: dict[str, Any] = {"classes": {} if label is None else {truth: Outcomes()}}

        def row(note: str = "") -> list[Panel]:
            if len(images) == 1:
                return [Panel(images[0], truth, note)]
            # The page lays the panels that are called visible and infrared over each other.
            return [Panel(i, n, t) for i, n, t in zip(images, MODALITIES, (truth, note), strict=True)]

        rows, notes = [] if prediction is not None else [row()], []
        models = prediction if isinstance(prediction, Mapping) else {"": prediction}
        for name, scores in models.items() if prediction is not None else ():
            best = int(scores.argmax())
            notes.append(f"{name} {class_name(best, self.classes)} {scores[best]:.2f}".strip())
            rows.append(row(notes[-1]))
            if label is not None:
                self._correct.setdefault(name, []).append(best == label)
        if prediction is not None:
            fields |= score_class(label, _last(prediction), self.classes)
        fields["remark"] = "; ".join(filter(None, [truth, *(f"predicted {n}" for n in notes)]))
        return Drawing(rows), fields

    def facts(self) -> dict:
        """What the pictures' scores are, and the share of images whose class each model finds."""
        scores = {"score of a picture": "probability of its class"} if self._correct else {}
        return scores | {
            f"top-1 accuracy here {name}".strip(): f"{100 * sum(hits) / len(hits):.1f}"
            for name, hits in self._correct.items()
        }


def _enlarged(image: np.ndarray) -> Image.Image:
    """An image (H, W, 3) as large as panels need it."""
    height, width = image.shape[:2]
    scale = enlargement(width)
    return Image.fromarray(image).resize((scale * width, scale * height), Image.Resampling.BICUBIC)


def _fill(vis: Pixels, ir: Pixels) -> list[np.ndarray]:
    """Both images, with black in place of a missing one."""
    return [np.zeros_like(b) if a is None else a for a, b in ((vis, ir), (ir, vis))]


def _last(prediction: Any) -> Any:
    """The prediction that is scored: of several models', that of the last one."""
    return list(prediction.values())[-1] if isinstance(prediction, Mapping) else prediction


def _check(prediction, kind: type, record: dict) -> None:
    """Raise UserError if a prediction is not of the type `kind`."""
    for one in prediction.values() if isinstance(prediction, Mapping) else [prediction]:
        if one is not None and not isinstance(one, kind):
            what = next((name for type_, name in KINDS.items() if isinstance(one, type_)), "boxes")
            raise UserError(
                f"the model predicts {what}, which cannot be drawn on the dataset of {record['file_name']}: "
                "name one of the config's own task"
            )
