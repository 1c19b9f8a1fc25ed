"""Tuning methods, one file or folder each. They need torch alone.

``TUNERS`` holds the names that ``model.backbone.net.tuner=<Name>`` accepts.
"""

from .adapter import Adapter
from .adaptformer import AdaptFormer
from .base import BlockAdapters, Tuner
from .iv_tuning.tuner import IVTuning
from .lora import LoRA
from .mona import Mona
from .selection import BitFit, Frozen, Full, NormTuning, Partial

TUNERS: dict[str, type[Tuner]] = {
    c.__name__: c
    for c in (IVTuning, Mona, Adapter, AdaptFormer, LoRA, BitFit, NormTuning, Partial, Full, Frozen)
}

__all__ = ["TUNERS", "BlockAdapters", "Tuner", *TUNERS]
