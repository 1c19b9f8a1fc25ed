"""Timing runs against each other: in turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from ..progress import track

Times = dict[str, list[float]]


class Ratio(NamedTuple):
    """Median, smallest and largest of the ratios of all rounds."""

    median: float
    low: float
    high: float


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int, label: str, warmup: int = 1) -> Times:
    """Call all `runs` in turns (A B C A B C ...), `repeats` rounds after `warmup` that are not counted.

    Returns:
        Wall-clock seconds of each run in each round. Work queued on a CUDA device is waited for.
    """
    times: Times = {name: [] for name in runs}
    gc.collect()
    gc.freeze()  # what is there already need not be looked through in every round
    try:
        for done in track(range(warmup + repeats), label):
            for name, run in runs.items():
                gc.collect()  # here and not at some moment in between
                _wait()
                start = time.perf_counter()
                run()
                _wait()
                if done >= warmup:
                    times[name].append(time.perf_counter() - start)
    finally:
        gc.unfreeze()
    return times


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


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
