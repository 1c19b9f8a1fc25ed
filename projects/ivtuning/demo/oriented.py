"""The demo's oriented boxes: Oriented R-CNN on the same trunk, for vehicles seen from a drone, three ways."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from . import detection
from .rows import Table, layout
from .task import METHODS, Task, single_modality_share

TASK = Task(
    title="oriented boxes",
    folder="oriented",
    config="configs/synthetic/oriented_rcnn_ivtuning.py",
    methods=METHODS,
    others=detection.TASK.others,
    figures=detection.figures,
    dataset="synthetic_drone_val",
    drawn=("visible only", "IV-tuning"),
    threshold=0.5,
)


def train(configs: Mapping[str, DictConfig]) -> dict:
    """Train and evaluate all rows."""
    return {"rows": TASK.train(configs), "single_modality_share": single_modality_share(TASK.dataset)}


def table(results: dict) -> Table:
    """The rows as a table, with their conditions below it."""
    rows, share = results["oriented"]["rows"], results["oriented"]["single_modality_share"]
    notes = [
        f"32 pairs of a drone's view, cars and trucks; {share:.1%} of them show in one modality only.",
        f"The same trunk, which has seen none of these views; {rows[0]['iterations']} iterations a row on 96 "
        "pairs, one seed, recipe of the boxes.",
        "AP, AP50: mean over IoUs .50:.95, and at 0.5, of the oriented boxes themselves.",
        f"Adapter: as above; neck and heads add {rows[-1]['task_mb']:.2f} MB.",
    ]
    return layout(rows, detection.COLUMNS, notes)
