"""Hooks that detectron2 lacks: an average of the weights, a best checkpoint that outlives a resume, a bar."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..checkpoint.checkpointer import BEST
from ..checkpoint.shards import share
from ..errors import UserError
from ..evaluation.predictions import lower_is_better
from ..utils.files import atomic_write
from ..utils.progress import track
from ..utils.text import read_json
from .state import check_tensors, is_count, is_number, need


class EMA(HookBase):
    """Exponential moving average of the trained parameters.

    After every step ``average <- decay * average + (1 - decay) * weight``. Only trained parameters have an
    average; buffers stay the model's.

    Args:
        model: the model, before or after wrapping in DDP.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        model = getattr(model, "module", model)
        self.decay = decay
        self.live = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.live.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        torch._foreach_lerp_(
            list(self.average.values()), [p.detach() for p in self.live.values()], 1 - self.decay
        )

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.live.items():
            held = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name] = held

    def state_dict(self) -> dict:
        return {"average": self.average}

    def check_state(self, state: Any) -> None:
        """Check a saved state. Raises a UserError."""
        need(isinstance(state, Mapping), "the EMA's state is no dict")
        check_tensors(state.get("average"), self.average, "the average of the weights")

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        for name, value in state["average"].items():
            self.average[name].copy_(share(value, self.average[name]))


class BestCheckpoint(HookBase):
    """Save "model_best" whenever `metric` improves.

    The best value is kept in "best.json" beside it, so that a resumed run continues from it. (The trainer's
    state would lack the last evaluation, which comes after the last checkpoint.) List it after the evaluation
    hook. `read_record` is called before a run goes on.

    Args:
        checkpointer: writes the file.
        metric: name in the event storage, such as "bbox/AP". Larger is better,
            except where :func:`..evaluation.predictions.lower_is_better` says so; NaN is ignored.
        period: iterations between evaluations, 0 = only after training.
        ema: the average to save instead of the live weights, where there is one.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str, period: int, ema: EMA | None = None):
        self.checkpointer, self.metric, self.period, self.ema = checkpointer, metric, period, ema
        self.sign = -1 if lower_is_better(metric) else 1
        self.best = -self.sign * math.inf
        self.record = Path(checkpointer.save_dir, "best.json")

    def read_record(self) -> None:
        """Go on from the best value of the run so far.

        Raises:
            UserError: the record is damaged.
        """
        if not self.record.is_file():
            return
        best = read_json(self.record)
        whole = isinstance(best, dict) and is_number(best.get("value")) and is_count(best.get("iteration"))
        if not (whole and isinstance(best.get("metric"), str)):
            raise UserError(
                f"{self.record}: no record of a metric, its value and an iteration: remove it, and the best "
                "checkpoint is chosen anew from the next evaluation on"
            )
        if best["metric"] == self.metric:
            self.best = best["value"]

    def _improved(self) -> float | None:
        """The metric, if this iteration measured it and it is the best so far."""
        latest = self.trainer.storage.latest().get(self.metric)
        # The storage still holds the metric of an older evaluation.
        if latest is None or latest[1] != self.trainer.iter or not math.isfinite(latest[0]):
            return None
        return float(latest[0]) if self.sign * (latest[0] - self.best) > 0 else None

    def _check(self) -> None:
        # Only the main process has metrics, but all of them take part in saving.
        value = comm.all_gather(self._improved())[0]
        if value is None:
            return
        with self.ema.applied() if self.ema else contextlib.nullcontext():
            self.checkpointer.save_model(
                BEST.removesuffix(".pth"), iteration=int(self.trainer.iter), metric=value
            )
        if not comm.is_main_process():
            return
        self.best = value
        with atomic_write(self.record) as temp:
            temp.write_text(
                json.dumps({"metric": self.metric, "value": value, "iteration": int(self.trainer.iter)})
                + "\n"
            )
        logging.getLogger(__name__).info("best %s so far: %.4f", self.metric, value)

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if self.period > 0 and following % self.period == 0 and following != self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._check()


class ProgressBar(HookBase):
    """A bar with ETA and the current loss, on the main process."""

    def __init__(self, label: str):
        self.label = label

    def before_train(self) -> None:
        if comm.is_main_process():
            self.bar = track((), self.label, total=self.trainer.max_iter)
            self.bar.update(self.trainer.start_iter)

    def after_step(self) -> None:
        if comm.is_main_process():
            history = self.trainer.storage.history("total_loss")
            self.bar.set_postfix_str(f"loss {history.median(20):.3f}", refresh=False)
            self.bar.update()

    def after_train(self) -> None:
        if comm.is_main_process():
            self.bar.close()
