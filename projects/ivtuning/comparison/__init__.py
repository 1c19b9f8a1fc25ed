"""Comparison of tuning methods on one trunk and data set: rates, sizes and seeds, with mean and spread."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from .. import compat

compat.prepare()

from .options import Options
from .rows import ROWS, Row
from .runs import compare
from .table import markdown

__all__ = ["ROWS", "Options", "Row", "compare", "markdown"]
