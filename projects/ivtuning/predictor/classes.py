"""The names of a model's classes, of which its files and its config's sets may both know."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from omegaconf import DictConfig

from ..engine.checks import sets_classes
from ..errors import UserError


def model_classes(cfg: DictConfig, stored: Sequence[str]) -> list[str]:
    """Names by class id: those `stored` with the weights, or else those of the config's sets; else none."""
    in_order: list[str] = []
    with contextlib.suppress(UserError):  # sets of different classes, of which a model knows nothing
        in_order = sets_classes(cfg, stored)
    return list(stored) or in_order
