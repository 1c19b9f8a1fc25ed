"""Timing of several runs in turns, so that whatever else the machine does affects all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from ...utils.progress import track
from .memory import release

Times = dict[str, list[float]]


class Ratio(NamedTuple):
    """Median, smallest and largest ratio of all rounds."""

    median: float
    low: float
    high: float


def interleaved(
    runs: dict,
    repeats: int,
    label: str,
    warmup: int = 1,
    may_not_fit: bool = False,
) -> Times:
    """Call all `runs` in turns (A B C A B C ...): `repeats` rounds after `warmup` rounds that do not count.

    Args:
        runs: name -> a function without arguments.
        may_not_fit: remove a run from `runs` when CUDA runs out of memory in it, and go on with the others;
            otherwise that error ends the measurement.

    Returns:
        Wall-clock seconds of each run in each round, queued CUDA work included.
    """
    times: Times = {name: [] for name in runs}
    gc.collect()
    gc.freeze()  # what exists already need not be searched in every round
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
                    # Only after the handler, as in `attempt`.
                    del runs[name], times[name]
                    release()
                elif done >= warmup:
                    times[name].append(seconds)
    finally:
        gc.unfreeze()
    return times


def ratio(times: Times, over: str, under: str) -> Ratio:
    """Seconds of `over` / seconds of `under`, computed round by round, so that slow drifts cancel."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def summary(times: Times) -> dict[str, dict[str, float]]:
    """Median, smallest and largest seconds of every run."""
    return {
        name: {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
        for name, seconds in times.items()
    }


def wait() -> None:
    """Wait until a CUDA device has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _seconds(run: Callable[[], object]) -> float:
    gc.collect()  # now, and not at some moment during the run
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start
