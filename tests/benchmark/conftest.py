"""Benchmarks without the large matrix product."""

from __future__ import annotations

import pytest

from ivtuning.benchmark.measures import flops


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    """The one that tells a machine's rate takes seconds, and no test asks for that rate."""
    monkeypatch.setattr(flops, "SIDES", {"cpu": 64, "cuda": 64})
