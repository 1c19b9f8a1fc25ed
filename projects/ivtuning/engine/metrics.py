"""A run's figures: metrics.json, printed lines, TensorBoard and W&B, which a resumed run continues.

Every line of metrics.json up to a checkpoint is on the disk before it. A resumed run drops the later ones,
which it will write again, and knows the last values of each figure, of which the lines show the median. But
for the clocks, its file equals that of a run that was never interrupted. TensorBoard gets another file of
events at every start, and hides what was done twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

from ..utils.files import atomic_write
from .folder import METRICS, RunFolder
from .metrics_file import read_metrics
from .state import is_count, need
from .wandb_writer import WandbWriter

WINDOW = 20  # values of a figure, of which a line has the median
CLOCKS = {"time", "data_time", "eta_seconds"}


class Metrics(HookBase):
    """Write the figures every `period` iterations and after the last one. List it after what measures them.

    Args:
        folder: of the run.
        printed: whether they are printed as well.
        wandb: the project at Weights & Biases that gets them as well, "" = none.
    """

    def __init__(self, folder: RunFolder, period: int, printed: bool = True, wandb: str = ""):
        self.folder, self.period, self.printed, self.wandb = folder, period, printed, wandb
        self.file = folder.path / METRICS
        self._restored: dict[str, Any] = {"last_write": -1, "figures": {}}
        self._kept: list[str] = []
        self._writers: list[EventWriter] = []

    def read(self) -> dict[int, dict]:
        """The lines of the file, by iteration; without a last one that a killed process did not finish.

        Raises:
            UserError: another line is damaged.
        """
        return read_metrics(self.file) if self.file.is_file() else {}

    def _open(self) -> None:
        """Drop the lines after the checkpoint, and start the writers."""
        last = self._restored["last_write"]
        lines = [json.dumps(entry, sort_keys=True) + "\n" for i, entry in self.read().items() if i <= last]
        with atomic_write(self.file) as temp:
            temp.write_text("".join(lines), encoding="utf-8")
        folder = str(self.folder.path)
        resumed = {"purge_step": last + 1} if last >= 0 else {}
        self._writers = [JSONWriter(str(self.file), WINDOW), TensorboardXWriter(folder, WINDOW, **resumed)]
        for writer in self._writers:
            writer._last_write = last
        if self.wandb:
            self._writers.append(WandbWriter(self.wandb, self.folder.path, WINDOW, last))
        if self.printed:
            self._writers.insert(0, CommonMetricPrinter(self.trainer.max_iter, WINDOW))

    def _write(self, printed: bool) -> None:
        if comm.is_main_process():
            if not self._writers:
                self._open()
            for writer in self._writers:
                if printed or not isinstance(writer, CommonMetricPrinter):
                    writer.write()

    def before_train(self) -> None:
        storage = self.trainer.storage
        now = storage.iter
        for name, figure in self._restored["figures"].items():
            for value, iteration in figure["values"]:
                storage.iter = iteration
                storage.put_scalar(name, value, smoothing_hint=figure["smoothed"])
        storage.iter = now

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if following % self.period == 0 or following == self.trainer.max_iter:
            self.trainer.settle()
            self._write(printed=True)

    def after_train(self) -> None:
        if self.trainer.finished or self._writers:
            self._write(printed=False)  # it would print the last step again
        for writer in self._writers:
            writer.close()

    def state_dict(self) -> dict:
        storage = self.trainer.storage
        smoothed = storage.smoothing_hints()
        figures = {
            name: {"values": [list(v) for v in history.values()[-WINDOW:]], "smoothed": smoothed[name]}
            for name, history in storage.histories().items()
            if name not in CLOCKS
        }
        json_writer = next((w for w in self._writers if isinstance(w, JSONWriter)), None)
        last = json_writer._last_write if json_writer else self._restored["last_write"]
        return {"last_write": last, "figures": figures}

    def check_state(self, state: Any) -> None:
        """Check a saved state. Raises a UserError."""
        need(isinstance(state, Mapping) and isinstance(state.get("figures"), Mapping), "Metrics is no state")
        last = state.get("last_write")
        need(last == -1 or is_count(last), f"last_write of Metrics is {last!r}")
        for name, figure in state["figures"].items():
            fits = isinstance(figure, Mapping) and isinstance(figure.get("smoothed"), bool)
            values = figure.get("values") if fits else None
            need(isinstance(values, list) and all(map(_is_value, values)), f"{name} of Metrics is no figure")

    def load_state_dict(self, state: dict) -> None:
        self._restored = state


def _is_value(entry: Any) -> bool:
    """Whether `entry` is a pair of a number, which may be NaN, and an iteration."""
    pair = isinstance(entry, (list, tuple)) and len(entry) == 2
    return pair and isinstance(entry[0], float) and is_count(entry[1])
