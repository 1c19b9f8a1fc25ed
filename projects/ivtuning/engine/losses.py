"""The losses of a step on their way from the device to the host, which does not wait for them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor


class LossReading:
    """The losses of one step's batches, copied to the host while the device goes on.

    Args:
        iteration: the step.

    Attributes:
        data_time: seconds for which the step waited for its batches.
    """

    def __init__(self, iteration: int):
        self.iteration, self.data_time = iteration, 0.0
        self._batches: list[tuple[list[str], Tensor, list[str]]] = []
        self._skipped: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def add(self, losses: Mapping[str, Tensor], batch: list[dict]) -> Tensor:
        """Start to copy the losses of one more batch.

        Returns:
            1.0 if one of them is not finite, else 0.0: a scalar on the losses' device.
        """
        values = torch.stack([loss.detach().reshape(()) for loss in losses.values()])
        files = [str(sample.get("file_name", "?")) for sample in batch]
        self._batches.append((list(losses), values.to("cpu", non_blocking=True), files))
        self._mark(values.device)
        return values.isfinite().all().logical_not().float()

    def add_skipped(self, skipped: Tensor) -> None:
        """Start to copy whether the step was skipped, a scalar that is 1.0 if so."""
        self._skipped = skipped.to("cpu", non_blocking=True)
        self._mark(skipped.device)

    def _mark(self, device: torch.device) -> None:
        """Note that the copies are done when `device` comes here."""
        if device.type == "cuda":
            self._copied = torch.cuda.Event()
            # Of the losses' own device, which need not be the current one (train.device=cuda:1).
            self._copied.record(torch.cuda.current_stream(device))

    def read(self) -> dict[str, float]:
        """The losses, averaged over the batches. Waits until the device has computed them."""
        if self._copied is not None:
            self._copied.synchronize()
        means: dict[str, float] = defaultdict(float)
        for names, values, _ in self._batches:
            for name, value in zip(names, values.tolist(), strict=True):
                means[name] += value / len(self._batches)
        return dict(means)

    def fault(self) -> str | None:
        """Which losses of which files are not finite, of the first such batch; None if all are finite."""
        for names, values, files in self._batches:
            bad = [f"{n}={v}" for n, v in zip(names, values.tolist(), strict=True) if not math.isfinite(v)]
            if bad:
                return not_finite(self.iteration, ", ".join(bad), files)
        return None

    def skipped_files(self) -> list[str]:
        """The files of all batches if the step was skipped, else none."""
        if self._skipped is None or not self._skipped.tolist():
            return []
        return [file for _, _, files in self._batches for file in files]


def not_finite(iteration: int, what: str | None, files: list[str]) -> str:
    """The message about a loss that is not finite, or about its gradient where `what` is None."""
    where = f"at iteration {iteration}{f' ({what})' if what else ''} on {', '.join(files)}"
    return (
        f"the {'loss' if what else 'gradient'} is not finite {where}: look at these files, or lower "
        "optimizer.lr; the last checkpoint is untouched"
    )


def guarded_step(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Step `optimizer` unless `found_inf`, a scalar on its device, is 1.0.

    torch's fused optimizers look at it on the device; for others the host reads it.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = found_inf
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf
    elif not found_inf:
        optimizer.step()
