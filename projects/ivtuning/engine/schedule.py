"""Learning-rate schedules whose lengths keep their meaning when `train.max_iter` changes.

A length is a share of the run where it is below 1 (0.9: after nine tenths of it), and a number of iterations
from 1 on. Values are multiples of the optimizer's rate.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import LinearParamScheduler, ParamScheduler

from ..errors import UserError


class Steps(ParamScheduler):
    """1, multiplied by `factor` at each of `milestones`.

    Args:
        max_iter: iterations of the run.
        milestones: lengths, each longer than the one before.

    Raises:
        UserError: milestones out of order, or outside of the run.
    """

    def __init__(self, max_iter: int, milestones: Sequence[float], factor: float = 0.1):
        shares = [length if length < 1 else length / max_iter for length in milestones]
        if any(not later > earlier for earlier, later in zip([0, *shares], shares, strict=False)):
            raise UserError(
                f"lr_multiplier: milestones={list(milestones)}: give numbers above 0, each above the last"
            )
        if shares and shares[-1] >= 1:
            raise UserError(
                f"lr_multiplier: milestones={list(milestones)} do not lie within the {max_iter} iterations "
                "of train.max_iter: give earlier ones, or shares of the run such as 0.9"
            )
        self.max_iter, self.factor = max_iter, factor
        self.milestones = [to_iterations(length, max_iter) for length in milestones]

    def __call__(self, where: float) -> float:
        iteration = int((where + self.WHERE_EPSILON) * self.max_iter)
        return self.factor ** bisect.bisect_right(self.milestones, iteration)

    def __str__(self) -> str:
        if not self.milestones:
            return "constant"
        return f"x{self.factor:g} at iteration {' and '.join(f'{m:,}' for m in self.milestones)}"


class WarmUp(ParamScheduler):
    """`scheduler` after a linear warm-up to its value, from `factor` times its first value.

    Args:
        max_iter: iterations of the run. A run that is shorter than the warm-up ends within it.
        length: of the warm-up, 0 for none.

    Raises:
        UserError: a negative length, or a factor outside of 0..1.
    """

    def __init__(self, scheduler: ParamScheduler, max_iter: int, length: float, factor: float = 0.001):
        if not (length >= 0 and 0 <= factor <= 1):
            raise UserError(
                f"lr_multiplier: length={length}, factor={factor}: give a warm-up of at least 0, and a "
                "factor from 0 to 1"
            )
        self.scheduler, self.factor = scheduler, factor
        self.iterations = to_iterations(length, max_iter)
        share = length if length < 1 else length / max_iter
        first = scheduler(0.0)
        self._whole: ParamScheduler
        if share < 1:
            self._whole = WarmupParamScheduler(scheduler, factor, share)
        else:
            self._whole = LinearParamScheduler(factor * first, factor * first + (1 - factor) * first / share)

    def __call__(self, where: float) -> float:
        return self._whole(where)

    def __str__(self) -> str:
        if not self.iterations:
            return f"no warm-up, {describe(self.scheduler)}"
        return (
            f"warm-up over {self.iterations:,} iterations from x{self.factor:g}, then "
            f"{describe(self.scheduler)}"
        )


def to_iterations(length: float, max_iter: int) -> int:
    """A length, a share of the run or a number of iterations, in iterations."""
    return round(length * max_iter if length < 1 else length)


def describe(scheduler: ParamScheduler) -> str:
    """A schedule in words; of a foreign class, its name."""
    if isinstance(scheduler, (Steps, WarmUp)):
        return str(scheduler)
    return type(scheduler).__name__.removesuffix("ParamScheduler").lower()
