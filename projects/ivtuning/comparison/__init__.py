"""Every tuning method on the same trunk, data and schedule, over several seeds: mean and spread of AP."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from .. import compat

compat.prepare()

from .methods import METHODS, Method
from .runs import compare
from .table import markdown

__all__ = ["METHODS", "Method", "compare", "markdown"]
