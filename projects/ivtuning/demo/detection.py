"""The demo's boxes: Faster R-CNN on the pretrained trunk, four ways."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from omegaconf import DictConfig

from ..comparison.models import final
from ..engine import run
from .rows import COSTS, Table, layout
from .task import Task, single_modality_share

FIGURES = ("AP", "AP50", "AP-both", "AP-visible", "AP-infrared")
# Columns of both tables of boxes: header, key of the row, format.
COLUMNS = (
    ("", "name", "{}"),
    ("AP", "AP", "{:.1f}"),
    ("AP50", "AP50", "{:.1f}"),
    ("AP\nboth", "AP_both", "{:.1f}"),
    ("AP\nvis only", "AP_visible", "{:.1f}"),
    ("AP\nir only", "AP_infrared", "{:.1f}"),
    *COSTS,
)


def figures(results: dict) -> dict:
    """The figures of one row of boxes, upright or oriented, on 0..100."""
    return {key.replace("-", "_"): results["bbox"][key] for key in FIGURES}


TASK = Task(
    title="boxes",
    folder="",
    config="configs/synthetic/ivtuning.py",
    methods={"visible only": "visible", "infrared only": "infrared", "full": "Full", "IV-tuning": "IVTuning"},
    others=("model.sem_seg_head",),
    figures=figures,
    dataset="synthetic_val",
    drawn=("visible only", "IV-tuning"),
    threshold=0.5,
)


def train(configs: Mapping[str, DictConfig]) -> dict:
    """Train and evaluate all rows, and the last one with each image withheld in turn as well."""
    rows = TASK.train(configs)
    return {
        "rows": rows,
        "missing": [_without(configs["IV-tuning"], rows[-1], lost) for lost in ("infrared", "visible")],
        "single_modality_share": single_modality_share(TASK.dataset),
    }


def _without(cfg: DictConfig, row: dict, modality: str) -> dict:
    """The row of the same trained model, evaluated without one of the images, which its mean replaces."""
    cfg = copy.deepcopy(cfg)
    cfg.dataloader.test.mapper.drop = modality
    cfg.model.fill_missing = "mean"
    return {
        **row,
        "name": f"{row['name']}, no {modality}",
        **figures(run.evaluate_checkpoint(cfg, final(cfg))),
    }


def table(results: dict) -> Table:
    """The rows as a table, with their conditions below it."""
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
    return layout(results["rows"] + results["missing"], COLUMNS, notes)
