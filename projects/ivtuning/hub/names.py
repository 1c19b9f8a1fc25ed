"""Files of weights by path or by name, as the command line takes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import UserError
from .fetch import fetch
from .sources import where_from

# Detectors of other projects that are converted on loading, see checkpoint/conversion.
KINDS = ("dino", "detrex-dino", "codino", "mmdet", "detectron2", "torchvision")


def split_kind(path: str | os.PathLike) -> tuple[str | None, str]:
    """The kind of checkpoint in "KIND+NAME", one of KINDS, and what follows; (None, `path`) without one."""
    kind, plus, rest = str(path).partition("+")
    return (kind, rest) if plus and kind in KINDS and not os.path.exists(path) else (None, str(path))


def split_key(path: str | os.PathLike) -> tuple[str, str | None]:
    """The name in `path` by itself, and the part of the file that "#NAME" at its end chooses."""
    text = split_kind(path)[1].removesuffix("?matching_heuristics=True")
    named = re.fullmatch(r"(.+)#([\w.-]+)", text)
    if not named or ("://" not in text and os.path.exists(text)):
        return text, None
    return named[1].removesuffix("?matching_heuristics=True"), named[2]


def local_path(path: str | os.PathLike) -> Path:
    """`path` as a file on this machine; names with "://" are fetched, see :func:`.fetch.fetch`.

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


def config_name(path: str | os.PathLike) -> str:
    """What files that leave this machine call a config: its path from configs/ on, or its name."""
    _, found, inner = Path(path).as_posix().rpartition("configs/")
    return f"configs/{inner}" if found else Path(path).name


def check_output(output: str | os.PathLike, *inputs: str | os.PathLike) -> None:
    """Raise UserError where the file to write is a folder, or one of the files to read under any name."""
    if os.path.isdir(output):
        raise UserError(f"{output}: is a folder: name the file to write")
    for path in inputs:
        file = os.path.expanduser(split_key(path)[0])
        exist = "://" not in file and os.path.exists(output) and os.path.exists(file)
        if exist and os.path.samefile(output, file):
            raise UserError(f"{output}: is the file to read, {file}: name another one to write")
