"""Reading files of weights, whatever their names, without running foreign code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from ..errors import UserError
from ..hub.names import local_path, split_key
from .formats import is_safetensors, other_archive, other_kind, torch_root
from .nesting import find_state
from .pickles import Unusable
from .torch_files import read_pickle, read_torch_zip


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, a safetensors file, or a pickle of detectron2, on the CPU.

    `path` may also be a name such as timm://MODEL or https://... (see :func:`..hub.fetch.fetch`);
    "?matching_heuristics=True" is dropped. A file that holds several state dicts gives the one of the model;
    "#NAME" after `path` chooses another one, as in "run.pth#state_dict_ema". What torch.compile and
    DistributedDataParallel add to names is taken off.

    Raises:
        UserError: no such file, a failed download, a damaged file or one of another kind, a pickle that means
            to run code, no state dict, or several and none chosen.
    """
    return find_state(read(local_path(path)), split_key(path)[1], str(path))


def read(path: Path) -> Any:
    """The content of the file at `path`. Objects that are no plain data, arrays or tensors are placeholders.

    Raises:
        UserError: see :func:`read_state`.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
            file.seek(0)
            return _reader(path, head)(file)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Unusable as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        size = path.stat().st_size
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise UserError(
                f"{path}: asks for more memory than there is: free some, or fetch the file again if its "
                f"{size:,} bytes are not what it should have"
            ) from error
        raise UserError(
            f"{path}: truncated, damaged or no file of weights ({size:,} bytes): fetch or write it again"
        ) from error


def _reader(path: Path, head: bytes) -> Callable[[BinaryIO], Any]:
    """What reads the file at `path`, which begins with `head`."""
    what = other_kind(path, head)
    if what is None and head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            what, root = other_archive(archive), torch_root(archive.namelist())
        if what is None:
            return lambda file: read_torch_zip(file, archive, root or "")
    if what is not None:
        raise UserError(f"{path}: is {what}")
    return _read_safetensors if is_safetensors(head) else read_pickle


def _read_safetensors(file: BinaryIO) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file.name)
