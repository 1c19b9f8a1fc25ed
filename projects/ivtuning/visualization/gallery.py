"""From dataset dicts and a model to a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances

from ..data.datasets import segmentation  # noqa: F401  (registers its sets)
from ..data.datasets.detection import metadata
from ..data.images import read_pair
from ..data.labels import read_labels
from ..data.modalities import absent_modality
from ..engine.run import load_model
from ..errors import UserError
from ..evaluation.confusion import confusion, label_map, summary
from ..heads.dino.trace import find_decoder, trace_queries
from ..utils.progress import track
from .boxes import draw_pair
from .contact_sheet import Picture, write_contact_sheet
from .label_maps import caption, draw_label_maps
from .panels import RGB, save_image
from .query_pictures import draw_queries

Pixels = np.ndarray | None  # (H, W, 3) uint8; None: missing


class Painter(Protocol):
    """Draws the pairs of one kind of task."""

    def draw(self, record: dict, vis: Pixels, ir: Pixels, found) -> tuple[np.ndarray, dict]:
        """The picture of a dataset dict, and the fields of its :class:`Picture`.

        `found` is what a model predicts, that of several models by name, or None.
        """

    def facts(self) -> dict:
        """Lines for the page's header, about all that was drawn."""


class BoxPainter:
    """Boxes and masks; see :func:`draw_pair`. What is missing is drawn black."""

    def __init__(self, classes: Sequence[str], threshold: float):
        self.classes, self.threshold = classes, threshold

    def draw(self, record, vis, ir, found):
        _check(found, Instances, record)
        vis, ir = _fill(vis, ir)
        truth = record.get("annotations")
        picture = draw_pair(vis, ir, truth, found, self.classes, self.threshold)
        fields = {"truth": None if truth is None else len(truth)}
        if hasattr(found, "scores"):
            fields["predictions"] = int((found.scores >= self.threshold).sum())
        return picture, fields

    def facts(self):
        return {}


class QueryPainter(BoxPainter):
    """The best queries of a pair, at most `count`; see :func:`draw_queries`."""

    def __init__(self, classes: Sequence[str], threshold: float, count: int):
        super().__init__(classes, threshold)
        self.count = count

    def draw(self, record, vis, ir, found):
        shown = found.best(self.count, self.threshold)
        picture = draw_queries(*_fill(vis, ir), found, shown, self.classes)
        return picture, {"predictions": len(shown.scores)}

    def facts(self):
        return {"queries": f"at most {self.count} of a pair"}


class LabelPainter:
    """Label maps, see :func:`draw_label_maps`; `protocol` is that of the set, if there is one."""

    def __init__(self, classes: Sequence[str] = (), colors: Sequence[RGB] = (), protocol: str | None = None):
        self.classes, self.colors, self.protocol = classes, colors, protocol
        self._confusion: dict[str, np.ndarray] = {}

    def draw(self, record, vis, ir, found):
        _check(found, np.ndarray, record)
        truth = read_labels(record) if "sem_seg_file_name" in record else None
        picture = draw_label_maps(vis, ir, truth, found, self.classes, self.colors)
        if truth is None or found is None:
            return picture, {}
        models = found if isinstance(found, Mapping) else {"": found}
        for name, labels in models.items():
            matrix = confusion(truth, labels, len(self.classes))
            self._confusion[name] = matrix + self._confusion.get(name, 0)
        scores = (f"{name} {caption(truth, labels, len(self.classes))}" for name, labels in models.items())
        return picture, {"score": "; ".join(scores).strip()}

    def facts(self):
        """Protocol, and the mean IoU of each model over all pixels that were drawn."""
        facts = {"protocol": f"{self.protocol} ({len(self.classes)} classes)"} if self.protocol else {}
        for name, matrix in self._confusion.items():
            facts[f"mIoU here {name}".strip()] = f"{summary(matrix)['mIoU']:.1f}"
        return facts


def _fill(vis: Pixels, ir: Pixels) -> list[np.ndarray]:
    """Both images; black for a missing one."""
    return [np.zeros_like(b) if a is None else a for a, b in ((vis, ir), (ir, vis))]


def _check(found, kind: type, record: dict) -> None:
    for one in found.values() if isinstance(found, Mapping) else [found]:
        if one is not None and not isinstance(one, kind):
            what = "label maps" if isinstance(one, np.ndarray) else "boxes"
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
    """Draw every dataset dict of `records` into `output` and index them.

    Args:
        predict: from a dataset dict to what `painter` draws: detectron2 `Instances` in pixels of the file, or
            class ids (H, W) uint8; or those of several models by name. None: no predictions.
        grid, facts: see :func:`write_contact_sheet`; `facts` has "source".

    Returns:
        Path of the page.

    Raises:
        UserError: a pair that cannot be read, or predictions of another kind than the painter's.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Picture] = {}
    for record in track(records, "drawing"):
        vis, ir = read_pair(record, getattr(predict, "ir_range", None), absent_modality(record))
        picture, fields = painter.draw(record, vis, ir, predict(record) if predict else None)
        stem = Path(record["file_name"]).stem
        if f"{stem}.png" in pictures:  # the same name in another folder
            stem = f"{stem}_{record['image_id']}"
        save_image(picture, output / f"{stem}.png")
        title = f"{stem}, {record['time']}" if "time" in record else stem
        pictures[f"{stem}.png"] = Picture(f"{stem}.png", title, **fields)
    title = f"Pairs: {facts['source']}"
    return write_contact_sheet(output, list(pictures.values()), title, {**facts, **painter.facts()}, grid)


def read_dataset(name: str) -> tuple[list[dict], list[str]]:
    """Dataset dicts and class names of a registered dataset."""
    known = metadata(name)
    records = DatasetCatalog.get(name)
    return records, known.stuff_classes if known.get("evaluator_type") == "sem_seg" else known.thing_classes


def painter_of(name: str, threshold: float) -> Painter:
    """What draws a registered dataset. Until the set has been read, its classes have numbers for names.

    Raises:
        UserError: an unknown name.
    """
    known = metadata(name)
    if known.get("evaluator_type") == "sem_seg":
        return LabelPainter(known.get("stuff_classes", []), known.get("stuff_colors", []), known.protocol)
    return BoxPainter(known.get("thing_classes", []), threshold)


def load_predictor(cfg, weights: str | None, adapter: str | None, queries: bool = False):
    """The model of `cfg` as a callable from a dataset dict to what :func:`draw_records` takes, on the CPU.

    Args:
        queries: give the :class:`.queries.Trace` of the model's decoder, not its predictions.

    Raises:
        UserError: queries of a model that has none.
    """
    mapper = instantiate(cfg.dataloader.test.mapper)
    model = load_model(cfg, weights or cfg.train.init_checkpoint, adapter).eval()
    if queries:
        find_decoder(model)  # before any picture is drawn

    @torch.inference_mode()
    def predict(record: dict):
        if queries:
            return trace_queries(model, [mapper(record)])[0]
        output = model([mapper(record)])[0]
        if "sem_seg" in output:
            return label_map(output["sem_seg"], record["file_name"])
        return output["instances"].to("cpu")

    predict.ir_range = getattr(mapper, "ir_range", None)
    return predict
