"""The demo's boxes: Faster R-CNN on the pretrained trunk, four ways."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from ..engine import run
from ..predictor import Predictor
from ..visualization.gallery import draw_records, painter_of, read_dataset
from .rows import COSTS, Table, final, layout, train_row

CONFIG = "configs/synthetic/ivtuning.py"
# The table's rows, and the method of each.
ROWS = {"visible only": "visible", "infrared only": "infrared", "full": "Full", "IV-tuning": "IVTuning"}
PICTURES = 16
FIGURES = ("AP", "AP50", "AP-both", "AP-visible", "AP-infrared")


def own(overrides: Sequence[str]) -> list[str]:
    """The `overrides` whose keys a detector's config has."""
    return [o for o in overrides if not o.startswith("model.sem_seg_head")]


def row(name: str, cfg: DictConfig) -> dict:
    """Train and evaluate one row."""
    return train_row(name, cfg, _figures)


def without(cfg: DictConfig, row: dict, modality: str) -> dict:
    """The row of the same trained model, evaluated without one of the images, which its mean replaces."""
    cfg = copy.deepcopy(cfg)
    cfg.dataloader.test.mapper.drop = modality
    cfg.model.fill_missing = "mean"
    return {
        **row,
        "name": f"{row['name']}, no {modality}",
        **_figures(run.evaluate_checkpoint(cfg, final(cfg))),
    }


def _figures(results: dict) -> dict:
    return {key.replace("-", "_"): results["bbox"][key] for key in FIGURES}


def table(results: dict) -> Table:
    """The rows as a table, with their conditions below it."""
    columns = [
        ("", "name", "{}"),
        ("AP", "AP", "{:.1f}"),
        ("AP50", "AP50", "{:.1f}"),
        ("AP\nboth", "AP_both", "{:.1f}"),
        ("AP\nvis only", "AP_visible", "{:.1f}"),
        ("AP\nir only", "AP_infrared", "{:.1f}"),
        *COSTS,
    ]
    first, last = results["rows"][0], results["rows"][-1]
    notes = [
        f"64 pairs; {results['single_modality_share']:.1%} of their objects show in one modality only.",
        f"Trunk: pretrained on visible images for {results['pretraining']['iterations']} iterations; then "
        f"{first['iterations']} iterations a row, one seed.",
        "IV-tuning's stem and tuner have a higher learning rate than all the rest: docs/defaults.md.",
        "both | vis only | ir only: AP on the objects that both images show, or only one of them.",
        "no infrared, no visible: the same model with one of the two images missing (filled with its mean).",
        f"Adapter: stem and tuner (full: the whole trunk too); neck and heads add {last['task_mb']:.2f} MB.",
    ]
    return layout(results["rows"] + results["missing"], columns, notes)


def draw(configs: dict[str, DictConfig], output: Path) -> Path:
    """Predictions of the visible-only and the tuned model on every fourth pair of the validation set."""
    models = {name: Predictor(configs[name], final(configs[name])) for name in ("visible only", "IV-tuning")}
    records, _ = read_dataset("synthetic_val")
    return draw_records(
        records[:: max(1, len(records) // PICTURES)],
        painter_of("synthetic_val", threshold=0.5),
        lambda record: {name: predict(record) for name, predict in models.items()},
        output,
        grid=True,
        facts={"source": "synthetic_val", "models": "visible only, IV-tuning", "threshold": "0.5"},
    )
