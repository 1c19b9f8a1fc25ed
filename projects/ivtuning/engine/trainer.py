"""The training step: precision, gradient accumulation, clipping, and a stop at what is not finite."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase, hooks
from detectron2.utils import comm
from torch import nn
from torch.distributed.tensor import DTensor

from ..checkpoint.shards import share_optimizer
from ..errors import Stopped, UserError
from .hooks import BestCheckpoint
from .losses import LossReading, guarded_step, not_finite
from .metrics import Metrics
from .parallel import local_gradients
from .precision import autocast_dtype
from .saving import Checkpoints
from .signals import StopRequest
from .state import check_optimizer, check_scaler, check_schedule, is_count, need


class NonFiniteLoss(UserError, FloatingPointError):
    """The loss or its gradient became infinite or NaN; the message names the files of the batch."""


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed Python, numpy and torch by the step alone, so that a resumed run draws what the whole run drew."""
    state = int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


class Trainer(TrainerBase):
    """One optimizer step per iteration over `gradient_accumulation` batches of the loader.

    On CUDA the host runs ahead of the device and never waits for a loss: it reads those of a step while the
    device computes the next one. A hook that needs the losses of the step that has just been done calls
    :meth:`settle`. A loss that is not finite turns this and all later steps off on the device, and so does a
    gradient (with fp16 the loss scaling handles it: that step is skipped).

    Args:
        model: returns a dict of losses in training mode; see :mod:`.parallel` for several processes.
        loader: infinite iterable of batches (lists of dicts with "file_name").
        optimizer: over the trained parameters.
        precision: "fp32", "bf16" (CUDA or CPU) or "fp16" (CUDA, with loss scaling).
        gradient_accumulation: batches per step; their gradients are averaged, as in one larger batch.
        clip_grad_norm: largest L2 norm of the gradient, 0 = no clipping.
        seed: for every random draw in a step.
        stop: signals that end the run when a step is done.

    Attributes:
        finished (bool): whether all steps are done.
        stopping (bool): whether the run ends with this step, by a signal.
        ahead (int): steps whose losses may be unread when the next one begins; 0 on a CPU.

    Raises:
        NonFiniteLoss: at most `ahead` steps after the one whose loss or gradient is infinite or NaN. The
            weights are those of the last step before that one.
        Stopped: after the step in which a signal came.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        precision: str = "fp32",
        gradient_accumulation: int = 1,
        clip_grad_norm: float = 0.0,
        seed: int = 0,
        stop: StopRequest | None = None,
    ):
        super().__init__()
        self.device = next(model.parameters()).device
        self.dtype = autocast_dtype(precision, self.device)
        model.train()
        self.model, self.optimizer = model, optimizer
        self.batches = iter(loader)
        self.gradient_accumulation = gradient_accumulation
        self.clip_grad_norm = clip_grad_norm
        self.seed = seed
        self.stop = stop or StopRequest()
        self.stopping = self._evaluation_due = self._begun = False
        self.ahead = 1 if self.device.type == "cuda" else 0
        self._unread: deque[LossReading] = deque()
        self._found_inf = torch.zeros((), device=self.device)  # 1 from the first step on that is not finite
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the steps from `start_iter` to `max_iter`, then the hooks' last work."""
        self.finished = start_iter >= max_iter
        super().train(start_iter, max_iter)

    @contextlib.contextmanager
    def at(self, iteration: int) -> Iterator[None]:
        """Inside, it is again the end of the step `iteration`."""
        now = self.iter
        self.iter = self.storage.iter = iteration
        yield
        self.iter = self.storage.iter = now

    def before_train(self) -> None:
        super().before_train()
        if self._evaluation_due:
            self._evaluation_due = False  # in the checkpoint that is written again as well
            with self.at(self.start_iter - 1):
                for hook in self._hooks:
                    if isinstance(hook, (hooks.EvalHook, BestCheckpoint, Metrics, Checkpoints)):
                        hook.after_step()

    def after_step(self) -> None:
        if comm.get_world_size() == 1:
            self.stopping = self.stop.number is not None
        try:
            super().after_step()
        except Stopped:  # in the evaluation, which the run does again when it goes on
            self.stopping = self._evaluation_due = True
            for hook in self._hooks:
                if isinstance(hook, Checkpoints):
                    hook.after_step()
        self.finished = self.iter + 1 >= self.max_iter
        if self.stopping:
            self.finished = False
            number = self.stop.number or signal.SIGTERM  # another process was told
            done = f"{self.iter + 1} of {self.max_iter} iterations"
            raise Stopped(number, f"stopped by {signal.Signals(number).name} after {done}")

    def after_train(self) -> None:
        if self.finished:
            self.settle()
            self.iter = self.max_iter  # where no step was left to do, detectron2's loop counts one too many
            super().after_train()
            return
        # A run that failed is neither evaluated nor saved: logs are closed, the last checkpoint stays.
        self.storage.iter = self.iter
        for hook in self._hooks:
            if not isinstance(hook, (hooks.EvalHook, BestCheckpoint)):
                hook.after_train()

    def run_step(self) -> None:
        seed_step(self.seed, self.iter, comm.get_rank())
        self.optimizer.zero_grad(set_to_none=True)
        reading = LossReading(self.iter)
        for last in [False] * (self.gradient_accumulation - 1) + [True]:
            start = time.perf_counter()
            batch = next(self.batches)
            reading.data_time += time.perf_counter() - start
            # Gradients are reduced once a step, with the last batch.
            with contextlib.nullcontext() if last else local_gradients(self.model):
                losses = self._losses(batch)
                self._found_inf = torch.maximum(self._found_inf, reading.add(losses, batch))
                self.scaler.scale(sum(losses.values()) / self.gradient_accumulation).backward()
        self._update()
        reading.add_skipped(self._found_inf)
        self._unread.append(reading)
        # The folder of a run is written to after the first step, which must have been a good one.
        self.settle(self.ahead if self._begun else 0)
        self._begun = True

    def _losses(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        enabled = self.dtype is not None
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=enabled):
            try:
                return self.model(batch)
            except FloatingPointError as error:  # detectron2's proposals raise it before there is a loss
                files = [str(sample.get("file_name", "?")) for sample in batch]
                raise NonFiniteLoss(not_finite(self.iter, str(error).rstrip("."), files)) from error

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = None
        if self.clip_grad_norm > 0:
            norm = nn.utils.clip_grad_norm_(trained, self.clip_grad_norm)
        elif not self.scaler.is_enabled():
            norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if norm is not None and not self.scaler.is_enabled():  # a scaler looks at the gradients itself
            own = norm.to_local() if isinstance(norm, DTensor) else norm
            self._found_inf = torch.maximum(self._found_inf, own.isfinite().logical_not().float())
        if comm.get_world_size() > 1:  # none of the processes steps where one of them must not
            dist.all_reduce(self._found_inf, dist.ReduceOp.MAX)
        if not self.scaler.is_enabled():
            guarded_step(self.optimizer, self._found_inf)
            return
        for overflow in self.scaler._found_inf_per_device(self.optimizer).values():
            overflow.copy_(torch.maximum(overflow, self._found_inf))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def settle(self, ahead: int = 0) -> None:
        """Read the losses of all steps but the newest `ahead` into the storage. All processes must call it.

        Raises:
            NonFiniteLoss: in all processes, if one of them has a loss or a gradient that is not finite.
        """
        while len(self._unread) > ahead:
            self._record(self._unread.popleft())

    def _record(self, reading: LossReading) -> None:
        # Not gathered on the main process alone: all must stop at the same step.
        own = {"data_time": reading.data_time, "stop": self.stop.number is not None}
        gathered = comm.all_gather(
            {**own, "losses": reading.read(), "fault": reading.fault(), "skipped": reading.skipped_files()}
        )
        fault = next((each["fault"] for each in gathered if each["fault"]), None)
        if fault is None and (files := [file for each in gathered for file in each["skipped"]]):
            fault = not_finite(reading.iteration, None, files)
        if fault:
            self._unread.clear()
            raise NonFiniteLoss(fault)
        self.stopping |= any(each["stop"] for each in gathered)
        if not comm.is_main_process():
            return
        losses = [each["losses"] for each in gathered]
        mean = {name: float(np.mean([each[name] for each in losses])) for name in losses[0]}
        now, self.storage.iter = self.storage.iter, reading.iteration
        self.storage.put_scalar("data_time", max(each["data_time"] for each in gathered))
        self.storage.put_scalar("total_loss", sum(mean.values()))
        if len(mean) > 1:
            self.storage.put_scalars(**mean)
        self.storage.iter = now

    def state_dict(self) -> dict:
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["scaler"] = self.scaler.state_dict()
        state["evaluation_due"] = self._evaluation_due
        return state

    def check_state(self, state: Any) -> None:
        """Check a saved state, of which nothing is loaded here.

        Raises:
            UserError: it is damaged, or that of another trainer.
        """
        whole = isinstance(state, Mapping) and {"iteration", "optimizer", "scaler"} <= state.keys()
        need(whole, "a trainer's state has iteration, optimizer and scaler")
        need(is_count(state["iteration"]), f"the iteration is {state['iteration']!r}")
        check_optimizer(state["optimizer"], self.optimizer)
        check_scaler(state["scaler"])
        found = state.get("hooks", {})
        need(isinstance(found, Mapping), "the state of the hooks is no dict")
        for name in found.keys() - {type(hook).__qualname__ for hook in self._hooks}:
            raise UserError(f"it has {name}, and this run has none")
        for hook in self._hooks:
            name = type(hook).__qualname__
            if hasattr(hook, "check_state"):
                need(name in found, f"it has no {name}, and this run has one")
                hook.check_state(found[name])
            elif name == "LRScheduler" and name in found:
                check_schedule(found[name], len(self.optimizer.param_groups))

    def load_state_dict(self, state: dict) -> None:
        groups = self.optimizer.param_groups
        own = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        super().load_state_dict(state)
        self.optimizer.load_state_dict(share_optimizer(state["optimizer"], self.optimizer))
        # The config's rates and other options count: another optimizer.lr may be why the run goes on.
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)
        for hook in self._hooks:
            if isinstance(hook, hooks.LRScheduler):
                hook.scheduler.base_lrs = [options["initial_lr"] for options in own]
                for group, rate in zip(self.optimizer.param_groups, hook.scheduler.get_lr(), strict=True):
                    group["lr"] = rate
        if state["scaler"]:  # empty after steps without loss scaling
            self.scaler.load_state_dict(state["scaler"])
        self._evaluation_due = state.get("evaluation_due") is True
