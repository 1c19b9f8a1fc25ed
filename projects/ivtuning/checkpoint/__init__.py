"""Weights: other projects' files, our own checkpoints, and adapter files."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from .. import compat

compat.prepare()

from .adapter import load_adapter, save_adapter
from .pretrained import load_pretrained
from .report import LoadReport
from .weights import load_weights

__all__ = ["LoadReport", "load_adapter", "load_pretrained", "load_weights", "save_adapter"]
