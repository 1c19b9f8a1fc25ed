"""Benchmarks without the large matrix product."""

from __future__ import annotations

import pytest

from ivtuning.benchmark.measures import flops


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    """Measure the machine's rate with a small product: the large one takes seconds, and no test needs it."""
    monkeypatch.setattr(flops, "SIDES", {"cpu": 64, "cuda": 64})
