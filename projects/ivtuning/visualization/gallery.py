"""Galleries: a folder of pictures of pairs with their annotations and predictions, and its index page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor

from ..data.catalog import is_present
from ..data.datasets import classification, segmentation  # noqa: F401  (register their sets)
from ..data.datasets.detection import metadata
from ..data.images import read_pair
from ..data.labels import read_labels
from ..data.mappers.classification import ClassificationMapper
from ..data.modalities import absent_modality
from ..errors import UserError
from ..evaluation.confusion import confusion, summary
from ..utils.progress import track
from .boxes import draw_pair
from .contact_sheet import Picture, write_contact_sheet
from .label_maps import caption, draw_label_maps
from .panels import RGB, Panel, class_name, enlargement, lay_out, picture_stems, save_image
from .query_pictures import draw_queries

Pixels: TypeAlias = np.ndarray | None  # (H, W, 3) uint8; None if the image is missing

# What a prediction that is not boxes holds.
KINDS = {np.ndarray: "label maps", Tensor: "class scores"}
# Where the metadata of a set has its class names, by the kind of its evaluator; boxes' are "thing_classes".
CLASSES_OF = {"sem_seg": "stuff_classes", "classification": "classes"}


class Painter(Protocol):
    """Draws the pairs of one task."""

    def read(self, record: dict, ir_range: Sequence[float] | None) -> tuple[Pixels, Pixels]:
        """The visible and the infrared image of a dataset dict; see :func:`draw_records`."""
        # Gray visible images can be drawn in any case; the mapper of a model decides about them.
        return read_pair(record, ir_range, absent_modality(record), True)

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[np.ndarray, dict]:
        """Draw a dataset dict; return the picture and the fields of its :class:`Picture`.

        `prediction` is the prediction of a model, a dict of several models' by name, or None.
        """

    def facts(self) -> dict:
        """Lines for the page's header that concern all drawn pairs."""


class BoxPainter(Painter):
    """Draws boxes and masks, see :func:`draw_pair`. A missing image is black."""

    def __init__(self, classes: Sequence[str], threshold: float):
        self.classes, self.threshold = classes, threshold

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[np.ndarray, dict]:
        _check(prediction, Instances, record)
        vis, ir = _fill(vis, ir)
        truth = record.get("annotations")
        picture = draw_pair(vis, ir, truth, prediction, self.classes, self.threshold)
        fields = {"truth": None if truth is None else len(truth)}
        if hasattr(prediction, "scores"):
            fields["predictions"] = int((prediction.scores >= self.threshold).sum())
        return picture, fields

    def facts(self) -> dict:
        return {}


class QueryPainter(BoxPainter):
    """Draws the best queries of a pair, at most `count`, see :func:`draw_queries`."""

    def __init__(self, classes: Sequence[str], threshold: float, count: int):
        super().__init__(classes, threshold)
        self.count = count

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[np.ndarray, dict]:
        shown = prediction.best(self.count, self.threshold)
        vis, ir = _fill(vis, ir)
        picture = draw_queries(vis, ir, prediction, shown, self.classes)
        return picture, {"predictions": len(shown.scores)}

    def facts(self) -> dict:
        return {"queries": f"at most {self.count} of a pair"}


class LabelPainter(Painter):
    """Draws label maps, see :func:`draw_label_maps`. `protocol` is the set's evaluation protocol or None."""

    def __init__(self, classes: Sequence[str] = (), colors: Sequence[RGB] = (), protocol: str | None = None):
        self.classes, self.colors, self.protocol = classes, colors, protocol
        self._confusion: dict[str, np.ndarray] = {}

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[np.ndarray, dict]:
        _check(prediction, np.ndarray, record)
        truth = read_labels(record) if "sem_seg_file_name" in record else None
        picture = draw_label_maps(vis, ir, truth, prediction, self.classes, self.colors)
        if truth is None or prediction is None:
            return picture, {}
        models = prediction if isinstance(prediction, Mapping) else {"": prediction}
        for name, labels in models.items():
            matrix = confusion(truth, labels, len(self.classes))
            self._confusion[name] = matrix + self._confusion.get(name, 0)
        scores = (f"{name} {caption(truth, labels, len(self.classes))}" for name, labels in models.items())
        return picture, {"score": "; ".join(scores).strip()}

    def facts(self) -> dict:
        """The protocol, and the mean IoU of each model over all drawn pixels."""
        facts = {"protocol": f"{self.protocol} ({len(self.classes)} classes)"} if self.protocol else {}
        for name, matrix in self._confusion.items():
            facts[f"mIoU here {name}".strip()] = f"{summary(matrix)['mIoU']:.1f}"
        return facts


class ClassPainter(Painter):
    """Draws images of a classification set, captioned with their class and the model's most probable one."""

    def __init__(self, classes: Sequence[str] = ()):
        self.classes = classes
        self._correct: dict[str, list[bool]] = {}

    def read(self, record: dict, ir_range: Sequence[float] | None) -> tuple[Pixels, Pixels]:
        image = ClassificationMapper(is_train=False, ir_range=ir_range)(record)["image"]
        return image.permute(1, 2, 0).numpy(), None

    def draw(self, record: dict, vis: Pixels, ir: Pixels, prediction: Any) -> tuple[np.ndarray, dict]:
        _check(prediction, Tensor, record)
        size = (enlargement(vis.shape[1]) * vis.shape[1], enlargement(vis.shape[1]) * vis.shape[0])
        image = Image.fromarray(vis).resize(size, Image.Resampling.BICUBIC)
        label = record.get("label")
        truth = "" if label is None else class_name(label, self.classes)
        rows, notes = [] if prediction is not None else [[Panel(image, truth)]], []
        models = prediction if isinstance(prediction, Mapping) else {"": prediction}
        for name, scores in models.items() if prediction is not None else ():
            best = int(scores.argmax())
            notes.append(f"{name} {class_name(best, self.classes)} {scores[best]:.2f}".strip())
            rows.append([Panel(image, truth, notes[-1])])
            if label is not None:
                self._correct.setdefault(name, []).append(best == label)
        return lay_out(rows), {"score": "; ".join(filter(None, [truth, *(f"predicted {n}" for n in notes)]))}

    def facts(self) -> dict:
        """The share of drawn images whose most probable class is theirs, of each model."""
        return {
            f"top-1 accuracy here {name}".strip(): f"{100 * sum(hits) / len(hits):.1f}"
            for name, hits in self._correct.items()
        }


def _fill(vis: Pixels, ir: Pixels) -> list[np.ndarray]:
    """Both images, with black in place of a missing one."""
    return [np.zeros_like(b) if a is None else a for a, b in ((vis, ir), (ir, vis))]


def _check(prediction, kind: type, record: dict) -> None:
    """Raise UserError if a prediction is not of the type `kind`."""
    for one in prediction.values() if isinstance(prediction, Mapping) else [prediction]:
        if one is not None and not isinstance(one, kind):
            what = next((name for type_, name in KINDS.items() if isinstance(one, type_)), "boxes")
            raise UserError(
                f"the model predicts {what}, which cannot be drawn on the dataset of {record['file_name']}: "
                "name one of the config's own task"
            )


def draw_records(
    records: Sequence[dict],
    painter: Painter,
    predict: Callable[[dict], object] | None,
    output: Path,
    grid: bool,
    facts: Mapping[str, object],
) -> Path:
    """Draw every dataset dict of `records` into the folder `output`, and write its index page.

    Args:
        predict: maps a dataset dict to the prediction that `painter` draws, or to those of several models by
            name; such as :class:`ivtuning.predictor.Predictor`. If it has an `ir_range`, 16-bit infrared
            images are shown in that range. None: no predictions.
        grid, facts: see :func:`write_contact_sheet`; `facts` has "source".

    Returns:
        Path of the page.

    Raises:
        UserError: a pair that cannot be read, or predictions of another task than the painter's.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Picture] = {}
    stems = picture_stems(records)
    for record, stem in zip(track(records, "drawing"), stems, strict=True):
        vis, ir = painter.read(record, getattr(predict, "ir_range", None))
        picture, fields = painter.draw(record, vis, ir, predict(record) if predict else None)
        save_image(picture, output / f"{stem}.png")
        title = f"{stem}, {record['time']}" if "time" in record else stem
        pictures[f"{stem}.png"] = Picture(f"{stem}.png", title, **fields)
    title = f"Pairs: {facts['source']}"
    return write_contact_sheet(output, list(pictures.values()), title, {**facts, **painter.facts()}, grid)


def read_dataset(name: str) -> tuple[list[dict], list[str]]:
    """The dataset dicts and the class names of a registered dataset.

    Raises:
        UserError: an unknown name, or a fault of the set's files.
    """
    facts = metadata(name)
    try:
        records = DatasetCatalog.get(name)
    except ImportError as error:  # LVIS
        raise UserError(f"{name} needs the package {error.name}: install it") from error
    except FileNotFoundError as error:  # of detectron2's own sets
        raise UserError(
            f"{name}: {error.filename} is missing: unpack the release there, or set DETECTRON2_DATASETS to "
            "its root"
        ) from error
    return records, facts.get(CLASSES_OF.get(facts.get("evaluator_type"), "thing_classes"), [])


def painter_of(name: str, threshold: float) -> Painter:
    """The painter of a registered dataset. Until the set has been read, its classes are shown as numbers.

    Raises:
        UserError: an unknown name.
    """
    facts = metadata(name)
    if facts.get("evaluator_type") == "sem_seg":
        return LabelPainter(
            facts.get("stuff_classes", []), facts.get("stuff_colors", []), facts.get("protocol")
        )
    if facts.get("evaluator_type") == "classification":
        return ClassPainter(facts.get("classes", []))
    return BoxPainter(facts.get("thing_classes", []), threshold)


def painter_of_config(cfg: DictConfig | None, threshold: float) -> Painter:
    """The painter for predictions of `cfg`'s model: that of the set it is evaluated on; boxes without one."""
    if cfg is not None:
        with contextlib.suppress(UserError, OmegaConfBaseException):
            names = cfg.dataloader.evaluator.dataset_name
            name = names if isinstance(names, str) else names[0]  # of one kind and classes
            with contextlib.suppress(UserError):
                # This registers its class names. If it is not on this machine, pictures show numbers.
                if is_present(name):
                    read_dataset(name)
            return painter_of(name, threshold)
    return BoxPainter([], threshold)


def painter_of_prediction(
    prediction: Instances | np.ndarray | Tensor,
    classes: Sequence[str],
    colors: Sequence[RGB],
    threshold: float,
) -> Painter:
    """The painter of one model's predictions. Colors are those of label maps."""
    if isinstance(prediction, np.ndarray):
        return LabelPainter(classes, colors)
    if isinstance(prediction, Instances):
        return BoxPainter(classes, threshold)
    return ClassPainter(classes)
