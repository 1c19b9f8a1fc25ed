"""Differences between releases of detectron2, all in one place.

detectron2 has called every release since 2021 "0.6", so this module looks for features, never at versions.
The PyPI build (the 0.6 sources without their C++ operators) needs a few names that current numpy and Pillow
have dropped; the main branch needs nothing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path


def _folders() -> list[Path]:
    """The folders of detectron2's sources, found without importing it, which would take seconds (torch)."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        raise ImportError("detectron2 is not installed: run `make setup` first")
    return [Path(folder) for folder in spec.submodule_search_locations or []]


def has_vit() -> bool:
    """Whether detectron2 is newer than its 0.6 tag: it then has a ViT of its own."""
    return any((folder / "modeling" / "backbone" / "vit.py").is_file() for folder in _folders())


@functools.cache
def prepare() -> None:
    """Make ``import detectron2...`` work with current numpy, Pillow and torch.

    Every package whose modules import detectron2 calls this first; only the first call does anything.
    """
    if not has_vit():
        import numpy
        import PIL.Image

        for name, builtin in dict(bool=bool, int=int, float=float, object=object, str=str).items():
            if name not in numpy.__dict__:
                setattr(numpy, name, builtin)
        if not hasattr(PIL.Image, "LINEAR"):
            PIL.Image.LINEAR = PIL.Image.BILINEAR
    if "detectron2._C" not in sys.modules and not _has_operators():
        # default_setup's environment report asks for these three; nothing else of _C is used here.
        stub = types.ModuleType("detectron2._C")
        stub.get_compiler_version = lambda: "n/a"
        stub.get_cuda_version = lambda: "n/a"
        stub.has_cuda = lambda: False
        sys.modules["detectron2._C"] = stub


def prepare_on_import() -> None:
    """Let the first ``import detectron2...`` of this process call :func:`prepare`, whoever does it.

    `make setup` has Python call this when it starts, so that the order of imports does not matter.
    """
    sys.meta_path.insert(0, _BeforeDetectron2())


class _BeforeDetectron2(importlib.abc.MetaPathFinder):
    """Finds nothing itself; steps aside when detectron2 is looked for."""

    def find_spec(self, fullname: str, path=None, target=None) -> None:
        if fullname == "detectron2":
            sys.meta_path.remove(self)
            prepare()


def _has_operators() -> bool:
    """Whether detectron2's compiled operators exist and load."""
    if not any(next(folder.glob("_C.*"), None) for folder in _folders()):
        return False
    try:
        importlib.import_module("detectron2._C")
    except ImportError:
        return False
    return True


def provide_operators(operators: Mapping[str, Callable]) -> None:
    """Define operators that detectron2's compiled extension would bring, where it is not installed.

    0.6 calls some of them as functions of `detectron2._C`; newer sources call torch's operators alone.

    Args:
        operators: schema -> function, such as "nms_rotated(Tensor boxes, ...) -> Tensor".
    """
    import torch

    prepare()
    extension = sys.modules.get("detectron2._C") or importlib.import_module("detectron2._C")
    for schema, function in operators.items():
        name = schema.partition("(")[0]
        if hasattr(torch.ops.detectron2, name):
            continue
        library = torch.library.Library("detectron2", "FRAGMENT")
        library.define(schema)
        library.impl(name, function, "CompositeExplicitAutograd")
        _LIBRARIES.append(library)
        if not hasattr(extension, name):
            setattr(extension, name, function)


_LIBRARIES: list = []  # what they define goes when they go


def independent_classes(predictor: object) -> bool:
    """Whether an R-CNN's predictor gives each class a score by itself (`use_sigmoid_ce`); 0.6 has no such."""
    return getattr(predictor, "use_sigmoid_ce", False)
