"""Comparisons of the demo's detector, in one process unless a test says otherwise."""

from __future__ import annotations

from ivtuning.comparison import Options, compare

CONFIG = "configs/synthetic/ivtuning.py"


def call(output, overrides, **options) -> dict:
    return compare(CONFIG, output, overrides, Options(**{"processes": 1, **options}))
