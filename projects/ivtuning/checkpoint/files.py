"""Reading files of weights, without running foreign code."""

from __future__ import annotations

import argparse
import http.client
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .sources import where_from

_WRAPPERS = ("model", "state_dict", "module")


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """The state dict in a .pth/.pt/.bin, .safetensors or detectron2 .pkl file, on the CPU.

    `path` may also be a URL or detectron2://...; "?matching_heuristics=True" is dropped. Wrappers around the
    state ("model", "state_dict", "module") and a "module." prefix are taken off, arrays become tensors.

    Raises:
        UserError: no such file, a failed download, a damaged file, or one that pickles objects.
    """
    state: Any = read(local_path(path))
    while isinstance(state, Mapping):
        wrapper = next((k for k in _WRAPPERS if isinstance(state.get(k), Mapping)), None)
        if wrapper is None:
            break
        state = state[wrapper]
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a state dict: save model.state_dict()")
    tensors = {
        k: torch.as_tensor(v) for k, v in state.items() if isinstance(v, (Tensor, np.ndarray, np.generic))
    }
    if not tensors:
        raise UserError(f"{path}: holds no tensors, its keys are {', '.join(map(str, list(state)[:3]))}...")
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def read(path: Path) -> Any:
    """The content of the file at `path` as it is; pickles may hold plain data alone.

    Raises:
        UserError: see :func:`read_state`.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".pkl":
            with open(path, "rb") as f:
                return _ArrayUnpickler(f, encoding="latin1").load()
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise UserError(
                f"{path}: pickles a {foreign[1]}, which would run its code on loading: if you trust the "
                "file, load it where it was written and save model.state_dict() alone"
            ) from error
        raise UserError(
            f"{path}: truncated, damaged or no file of weights ({path.stat().st_size:,} bytes): "
            "fetch or write it again"
        ) from error


# The functions that pickled arrays call, by name; their modules differ between numpy releases.
_ARRAY = np.zeros(1)
_NUMPY = {
    "_reconstruct": _ARRAY.__reduce__()[0],
    "_frombuffer": _ARRAY.__reduce_ex__(5)[0],
    "scalar": np.float64(0).__reduce__()[0],
}
_DTYPES = [c for c in vars(np.dtypes).values() if isinstance(c, type)]
_PLAIN = [argparse.Namespace, np.ndarray, np.dtype, *_DTYPES]
_PLAIN += [(f, f"numpy.{core}.multiarray.{n}") for n, f in _NUMPY.items() for core in ("core", "_core")]


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles dicts of numpy arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if re.fullmatch(r"numpy\._?core\.(multiarray|numeric)", module) and name in _NUMPY:
            return _NUMPY[name]
        known = ("collections.OrderedDict", "numpy.ndarray", "numpy.dtype", "_codecs.encode")
        if f"{module}.{name}" in known or (module == "numpy.dtypes" and name.endswith("DType")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")


def local_path(path: str | os.PathLike) -> Path:
    """`path` as a file on this machine; URLs and detectron2:// are fetched into iopath's cache.

    Raises:
        UserError: no such file, or the download failed.
    """
    text = str(path).removesuffix("?matching_heuristics=True")
    if "://" in text:
        return _download(text)
    file = Path(text).expanduser()
    if file.is_dir():
        raise UserError(f"{file} is a folder: name the file of weights in it")
    if not file.is_file():
        raise UserError(f"no file {file}{where_from(file)}")
    return file


def _download(url: str) -> Path:
    from detectron2.utils.file_io import Detectron2Handler, PathManager
    from iopath.common.file_io import get_cache_dir

    if url.startswith(Detectron2Handler.PREFIX):
        url = Detectron2Handler.S3_DETECTRON2_PREFIX + url.removeprefix(Detectron2Handler.PREFIX)
    try:
        file = Path(PathManager.get_local_path(url))
        reason = "no handler for such addresses"
    except (OSError, http.client.HTTPException) as error:
        file, reason = None, str(getattr(error, "reason", error))
    if file is None or not file.is_file():
        host_path = url.partition("://")[2].partition("/")[2]
        raise UserError(
            f"cannot download {url} ({reason}): fetch it on a machine with network access and put it at "
            f"{Path(get_cache_dir()) / host_path}"
        )
    return file
