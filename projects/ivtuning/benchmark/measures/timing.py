"""Timing runs against each other: in turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from ...utils.progress import track
from .out_of_memory import release

Times = dict[str, list[float]]


class Ratio(NamedTuple):
    """Median, smallest and largest of the ratios of all rounds."""

    median: float
    low: float
    high: float


def interleaved(
    runs: dict[str, Callable[[], object]],
    repeats: int,
    label: str,
    warmup: int = 1,
    may_not_fit: bool = False,
) -> Times:
    """Call all `runs` in turns (A B C A B C ...), `repeats` rounds after `warmup` that are not counted.

    Args:
        may_not_fit: take a run that CUDA's memory does not suffice for out of `runs` and go on without it;
            otherwise that error ends the measurement.

    Returns:
        Wall-clock seconds of each run in each round. Work queued on a CUDA device is waited for.
    """
    times: Times = {name: [] for name in runs}
    gc.collect()
    gc.freeze()  # what is there already need not be looked through in every round
    try:
        for done in track(range(warmup + repeats), label):
            for name in list(runs):
                try:
                    seconds = _seconds(runs[name])
                except torch.OutOfMemoryError:
                    if not may_not_fit:
                        raise
                    seconds = None
                if seconds is None:
                    # After the handler, see room.py.
                    del runs[name], times[name]
                    release()
                elif done >= warmup:
                    times[name].append(seconds)
    finally:
        gc.unfreeze()
    return times


def _seconds(run: Callable[[], object]) -> float:
    gc.collect()  # here and not at some moment in between
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def ratio(times: Times, over: str, under: str) -> Ratio:
    """Seconds of `over` / seconds of `under`, formed round by round: slow drifts cancel."""
    found = [a / b for a, b in zip(times[over], times[under], strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def summary(times: Times) -> dict[str, dict[str, float]]:
    """Median, smallest and largest seconds of every run."""
    return {
        name: {"median": statistics.median(found), "min": min(found), "max": max(found)}
        for name, found in times.items()
    }


def wait() -> None:
    """Until a CUDA device has done all that is queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
