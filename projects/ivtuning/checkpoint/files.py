"""Reading files of weights, whatever their names, without running foreign code."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from ..errors import UserError
from .formats import is_safetensors, other_archive, other_kind, torch_root
from .hub import fetch
from .nesting import find_state
from .pickles import Unusable
from .sources import where_from
from .torch_files import read_pickle, read_torch_zip


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, a safetensors file, or a pickle of detectron2, on the CPU.

    `path` may also be a name such as timm://MODEL or https://... (see :func:`.hub.fetch`);
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


def split_key(path: str | os.PathLike) -> tuple[str, str | None]:
    """`path` without what follows its name, and the part of the file that "#NAME" at its end chooses."""
    text = str(path).removesuffix("?matching_heuristics=True")
    named = re.fullmatch(r"(.+)#([\w.-]+)", text)
    if not named or ("://" not in text and os.path.exists(text)):
        return text, None
    return named[1].removesuffix("?matching_heuristics=True"), named[2]


def local_path(path: str | os.PathLike) -> Path:
    """`path` as a file on this machine; names with "://" are fetched, see :func:`.hub.fetch`.

    Raises:
        UserError: no such file, or the download failed.
    """
    text = split_key(path)[0]
    if "://" in text:
        return fetch(text)
    try:
        file = Path(text).expanduser()
        if file.is_dir():
            raise UserError(f"{file} is a folder: name the file of weights in it")
        if not file.is_file():
            if file.exists():
                raise UserError(f"{file} is a device or a pipe: give a file of weights")
            raise UserError(f"no file {file}{where_from(file)}")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip(".")
        raise UserError(f"{text}: cannot be read: {reason}: check the path given for the weights") from error
    return file


def base_name(path: str | os.PathLike) -> str:
    """What an adapter calls the base in `path`: a whole name such as timm://MODEL, or the name of a file.

    A query, which may be secret, is left out.
    """
    text = str(path).partition("?")[0]
    return text if "://" in text else os.path.basename(text)


def check_output(output: str | os.PathLike, *inputs: str | os.PathLike) -> None:
    """Raise UserError where the file to write is a folder, or one of the files to read under any name."""
    if os.path.isdir(output):
        raise UserError(f"{output}: is a folder: name the file to write")
    for path in inputs:
        file = split_key(path)[0]
        exist = "://" not in file and os.path.exists(output) and os.path.exists(file)
        if exist and os.path.samefile(output, file):
            raise UserError(f"{output}: is the file to read, {file}: name another one to write")
