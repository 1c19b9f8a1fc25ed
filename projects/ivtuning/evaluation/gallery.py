"""From dataset dicts and a model to a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances

from ..data.datasets import metadata
from ..data.images import read_pair
from ..engine.run import load_model
from ..progress import track
from .contact_sheet import Picture, write_contact_sheet
from .drawing import draw_pair, save_image


def draw_all(
    records: Sequence[dict],
    classes: Sequence[str],
    predict: Callable[[dict], Instances | Mapping[str, Instances]] | None,
    output: Path,
    threshold: float,
    grid: bool,
    facts: Mapping[str, object],
) -> Path:
    """Draw every dataset dict of `records` into `output` and index them.

    Args:
        predict: from a dataset dict to detectron2 `Instances` in pixels of the file, or to those of several
            models by name; None: no predictions.
        threshold, grid, facts: see :func:`draw_pair` and :func:`write_contact_sheet`.

    Returns:
        Path of the page.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Picture] = {}
    for record in track(records, "drawing"):
        images = read_pair(record, getattr(predict, "ir_range", None), record.get("missing"))
        # What is missing is drawn black.
        vis, ir = (np.zeros_like(b) if a is None else a for a, b in (images, images[::-1]))
        truth = record.get("annotations")
        found = predict(record) if predict else None
        stem = Path(record["file_name"]).stem
        if f"{stem}.png" in pictures:  # the same name in another folder
            stem = f"{stem}_{record['image_id']}"
        save_image(draw_pair(vis, ir, truth, found, classes, threshold), output / f"{stem}.png")
        pictures[f"{stem}.png"] = Picture(
            f"{stem}.png",
            f"{stem}, {record['time']}" if "time" in record else stem,
            None if truth is None else len(truth),
            int((found.scores >= threshold).sum()) if hasattr(found, "scores") else None,
        )
    return write_contact_sheet(output, list(pictures.values()), f"Pairs: {facts['source']}", facts, grid)


def read_dataset(name: str) -> tuple[list[dict], list[str]]:
    """Dataset dicts and class names of a registered dataset."""
    known = metadata(name)
    return DatasetCatalog.get(name), known.thing_classes


def load_predictor(cfg, weights: str | None, adapter: str | None):
    """The model of `cfg` as a callable from a dataset dict to `Instances` on the CPU."""
    mapper = instantiate(cfg.dataloader.test.mapper)
    model = load_model(cfg, weights or cfg.train.init_checkpoint, adapter).eval()

    @torch.inference_mode()
    def predict(record: dict):
        return model([mapper(record)])[0]["instances"].to("cpu")

    predict.ir_range = getattr(mapper, "ir_range", None)
    return predict
