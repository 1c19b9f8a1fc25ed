"""The only place that knows which detectron2 is installed.

detectron2 calls every release since 2021 "0.6", so nothing here asks for a version: features are looked
for instead. The PyPI build (0.6 sources, no C++ operators) needs a few names that today's numpy and
Pillow dropped; the main branch needs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path


def _folders() -> list[Path]:
    """Where detectron2's sources lie. Files are looked at, because importing it costs seconds (torch)."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        raise ImportError("detectron2 is not installed: run `make setup` first")
    return [Path(folder) for folder in spec.submodule_search_locations or []]


def has_vit() -> bool:
    """True where detectron2 is newer than the 0.6 tag (it ships its own ViT)."""
    return any((folder / "modeling" / "backbone" / "vit.py").is_file() for folder in _folders())


def prepare() -> None:
    """Make `import detectron2...` work on today's numpy, Pillow and torch. Idempotent."""
    if not has_vit():
        import numpy
        import PIL.Image

        for name, builtin in dict(bool=bool, int=int, float=float, object=object, str=str).items():
            if name not in numpy.__dict__:
                setattr(numpy, name, builtin)
        if not hasattr(PIL.Image, "LINEAR"):
            PIL.Image.LINEAR = PIL.Image.BILINEAR
    if "detectron2._C" not in sys.modules and not _has_operators():
        # default_setup's environment report asks these three; nothing else of _C is used here.
        stub = types.ModuleType("detectron2._C")
        stub.get_compiler_version = lambda: "n/a"
        stub.get_cuda_version = lambda: "n/a"
        stub.has_cuda = lambda: False
        sys.modules["detectron2._C"] = stub


def _has_operators() -> bool:
    """Whether detectron2's compiled operators are there and load."""
    if not any(next(folder.glob("_C.*"), None) for folder in _folders()):
        return False
    try:
        importlib.import_module("detectron2._C")
    except ImportError:
        return False
    return True
