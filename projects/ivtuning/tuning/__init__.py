"""Tuning methods, one file each. ``TUNERS`` is what ``model.backbone.net.tuner=<Name>`` accepts."""

from .base import Sites, Tuner
from .iv_tuning import IVTuning
from .selection import Frozen, Full

TUNERS: dict[str, type[Tuner]] = {c.__name__: c for c in (IVTuning, Frozen, Full)}

__all__ = ["TUNERS", "Frozen", "Full", "IVTuning", "Sites", "Tuner"]
