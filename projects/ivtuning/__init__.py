"""Parameter-efficient tuning of frozen vision backbones on pairs of infrared and visible images.

Importing the package loads nothing heavy: the names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load_adapter as load_adapter
    from .checkpoint import save_adapter as save_adapter
    from .config import load_config as load_config
    from .engine.run import load_model as load_model
    from .predictor import Predictor as Predictor
    from .timm_models import attach as attach

__version__ = "0.1.0"

# Public names, and the modules that define them.
_PUBLIC = {
    "Predictor": ".predictor",
    "attach": ".timm_models",
    "load_adapter": ".checkpoint",
    "load_config": ".config",
    "load_model": ".engine.run",
    "save_adapter": ".checkpoint",
}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
