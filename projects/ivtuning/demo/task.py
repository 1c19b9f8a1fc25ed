"""A task of the demo: rows that differ in their method, and pictures of what they predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from ..comparison.models import final
from ..predictor import Predictor
from ..visualization.gallery import draw_records, painter_of, read_dataset
from .rows import load, train_row

# The rows that every task has, and their methods.
METHODS = {"visible only": "visible", "full": "Full", "IV-tuning": "IVTuning"}
PICTURES = 16


@dataclass(frozen=True)
class Task:
    """What the demo trains for one table.

    Attributes:
        title: of the table and of the pictures.
        folder: of the rows' runs, and of the pictures below the demo's pictures; "" is the demo's own folder.
        config: the file that all rows share.
        methods: the method of each row, by its name.
        others: what keys of other tasks' models start with.
        figures: picks a row's figures from the results of its evaluation; the first is noted in its adapter.
        dataset: the set that is drawn.
        drawn: the rows whose predictions are drawn.
        threshold: least score of a drawn box; None for label maps.
    """

    title: str
    folder: str
    config: str
    methods: Mapping[str, str]
    others: tuple[str, ...]
    figures: Callable[[dict], dict]
    dataset: str
    drawn: Sequence[str]
    threshold: float | None = None

    def own(self, overrides: Sequence[str]) -> list[str]:
        """The `overrides` whose keys this task's config has."""
        return [o for o in overrides if not o.startswith(self.others)]

    def load(self, output: Path, overrides: Sequence[str]) -> dict[str, DictConfig]:
        """The config of each row, for runs in folders of their own below `output`."""
        return {
            name: load(
                self.config, output / self.folder / name.replace(" ", "_"), self.own(overrides), method
            )
            for name, method in self.methods.items()
        }

    def train(self, configs: Mapping[str, DictConfig]) -> list[dict]:
        """Train and evaluate all rows, see :func:`.rows.train_row`."""
        return [train_row(name, cfg, self.figures) for name, cfg in configs.items()]

    def draw(self, configs: Mapping[str, DictConfig], pictures: Path) -> Path:
        """Draw predictions on pairs from all over the set, in `folder` of `pictures`; return their page."""
        models = {name: Predictor(configs[name], final(configs[name])) for name in self.drawn}
        records, _ = read_dataset(self.dataset)
        facts = {"source": self.dataset, "models": ", ".join(models)}
        return draw_records(
            spread(records, PICTURES),
            painter_of(self.dataset, self.threshold or 0.0),
            lambda record: {name: predict(record) for name, predict in models.items()},
            pictures / self.folder,
            grid=True,
            facts=facts if self.threshold is None else {**facts, "threshold": f"{self.threshold:g}"},
        )


def spread(records: Sequence[dict], number: int) -> list[dict]:
    """At most `number` of the records, from the first to the last.

    Their distances vary by one, since every second pair of a set may be a night scene.
    """
    chosen = np.linspace(0, len(records) - 1, min(number, len(records))).round().astype(int)
    return [records[i] for i in chosen]


def single_modality_share(dataset: str) -> float:
    """The share of a set's objects, in 0..1, that show in one of the two images only."""
    records, _ = read_dataset(dataset)
    return float(np.mean([a["modality"] != "both" for record in records for a in record["annotations"]]))
