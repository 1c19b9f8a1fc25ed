"""Galleries: a folder of pictures of pairs with their annotations and predictions, and its index page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
from ..data.tasks import task_of
from ..errors import UserError
from ..utils.progress import track
from .contact_sheet import Picture, write_contact_sheet
from .painters import BoxPainter, ClassPainter, LabelPainter, Painter
from .panels import RGB, Drawing, picture_stems, save_image

SIDE = 800  # greatest width and height of the images that a page lays over each other, in pixels


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
    pictures: list[Picture] = []
    stems = picture_stems(records)
    for record, stem in zip(track(records, "drawing"), stems, strict=True):
        vis, ir = painter.read(record, getattr(predict, "ir_range", None))
        drawing, fields = painter.draw(record, vis, ir, predict(record) if predict else None)
        save_image(drawing.picture(), output / f"{stem}.png")
        time = record.get("time")
        fields |= {"time": time, "sides": _save_sides(drawing, output, stem)}
        pictures.append(Picture(f"{stem}.png", f"{stem}, {time}" if time else stem, **fields))
    title = f"Pairs: {facts['source']}"
    return write_contact_sheet(output, pictures, title, {**facts, **painter.facts()}, grid)


def _save_sides(drawing: Drawing, output: Path, stem: str) -> dict[str, str]:
    """Write the two drawn images of a pair as thumbnails; return their files by modality."""
    files = {}
    for name, image in drawing.sides().items():
        file = f"thumbs/{name}/{stem}.jpg"
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        thumb = image.copy()
        thumb.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        save_image(np.asarray(thumb), output / file)
        files[name] = file
    return files


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
    return records, facts.get(task_of(facts).classes, [])


def painter_of(name: str, threshold: float, labels: str = "auto") -> Painter:
    """The painter of a registered dataset. Until the set has been read, its classes are shown as numbers.

    Args:
        threshold: least score of a drawn box.
        labels: what is written at boxes, see :func:`.boxes.draw_objects`.

    Raises:
        UserError: an unknown name.
    """
    facts = metadata(name)
    task = task_of(facts)
    classes = facts.get(task.classes, [])
    if task.name == "segmentation":
        return LabelPainter(classes, facts.get("stuff_colors", []), facts.get("protocol"))
    if task.name == "classification":
        return ClassPainter(classes)
    return BoxPainter(classes, threshold, labels)


def painter_of_config(cfg: DictConfig | None, threshold: float, labels: str = "auto") -> Painter:
    """The painter for predictions of `cfg`'s model: that of the set it is evaluated on; boxes without one."""
    if cfg is not None:
        with contextlib.suppress(UserError, OmegaConfBaseException):
            names = cfg.dataloader.evaluator.dataset_name
            name = names if isinstance(names, str) else names[0]  # of one kind and classes
            with contextlib.suppress(UserError):
                # This registers its class names. If it is not on this machine, pictures show numbers.
                if is_present(name):
                    read_dataset(name)
            return painter_of(name, threshold, labels)
    return BoxPainter([], threshold, labels)


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
