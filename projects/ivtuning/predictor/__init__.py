"""Trained models as functions of images, and their predictions as files."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from .. import compat

compat.prepare()

from .predictor import Prediction, Predictor, QueryTracer

__all__ = ["Prediction", "Predictor", "QueryTracer"]
