"""What the rows of all tables share: a config, a run, its costs and the layout of the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from omegaconf import DictConfig
from tabulate import tabulate

from ..comparison.models import keep_adapter
from ..config import load_config
from ..engine import run
from ..pages import Html, joined, table, tag

# Columns that every table ends with: header, key of the row, format.
COSTS = (
    ("trained in\nbackbone", "backbone_trainable", "{:,}"),
    ("of\nbase", "ratio_of_base", "{:.1%}"),
    ("of\ntotal", "ratio_of_total", "{:.1%}"),
    ("adapter\nMB", "adapter_mb", "{:.2f}"),
    ("train\ns", "train_seconds", "{:.0f}"),
)


def load(file: str, output: Path, overrides: Sequence[str], method: str | None = None) -> DictConfig:
    """The config `file` with `overrides`, for a run in the folder `output`, which need not exist yet."""
    chosen = [f"method={method}"] if method else []
    return load_config(file, [*chosen, *overrides, f"train.output_dir={output}"])


def train_row(name: str, cfg: DictConfig, figures: Callable[[dict], dict]) -> dict:
    """Train `cfg`, write its adapter, and count what it trained.

    Args:
        figures: picks the row's figures from the results of the evaluation; the first is noted in the
        adapter.
    """
    start = time.time()
    scores = figures(run.train(cfg, progress=name, replace=True))
    seconds = time.time() - start
    metric, value = next(iter(scores.items()))
    facts = {"dataset": cfg.dataloader.train.dataset.names, metric: f"{value:.2f}"}
    return {
        "name": name,
        **scores,
        **keep_adapter(cfg, facts),
        "iterations": int(cfg.train.max_iter),
        "train_seconds": round(seconds, 1),
    }


@dataclass(frozen=True)
class Table:
    """A table with `notes` below it. Lines of a head end with a line break."""

    heads: Sequence[str]
    body: Sequence[Sequence[str]]
    notes: Sequence[str]

    def text(self) -> str:
        """The table for a terminal."""
        table = tabulate(self.body, self.heads, stralign="right", disable_numparse=True)
        return "\n".join([table, "", *self.notes])

    def html(self) -> Html:
        """The table for a page."""
        heads = [Html(escape(head)) for head in self.heads]  # with their line breaks
        return joined(table(heads, self.body), *(tag("p", note) for note in self.notes))


def layout(rows: Sequence[Mapping], columns: Sequence[tuple[str, str, str]], notes: Sequence[str]) -> Table:
    """`rows` as a table of `columns` (head, key, format), the first of which has the rows' names."""
    body = [[form.format(row[key]) for _, key, form in columns] for row in rows]
    return Table([head for head, _, _ in columns], body, notes)
