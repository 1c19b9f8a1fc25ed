"""Comparison of all tuning methods on one trunk, data set and schedule: mean and spread of AP over seeds."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from .. import compat

compat.prepare()

from .jobs import ROWS, Row
from .runs import compare
from .table import markdown

__all__ = ["ROWS", "Row", "compare", "markdown"]
