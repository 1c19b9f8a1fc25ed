"""Config files: where they are, what is in them, and where their runs write."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import compat
from ..errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parents[1]
# The folders that may hold the package's own configs/: the repository's root, and an installed package.
HOMES = (_PACKAGE.parents[1], _PACKAGE)
_SUFFIXES = (".py", ".yaml", ".yml")
# The groups of a config that a run reads.
RUN_KEYS = ("data", "dataloader", "lr_multiplier", "model", "optimizer", "train")
_REFERENCE = re.compile(r"\$\{(\w+)[\w.\[\]]*\}")  # from the root: ${data.x}, not ${..x} or ${oc.env:X}


def find_config(path: str | os.PathLike) -> str:
    """The config file that `path` names, see :func:`ivtuning.config.load_config`.

    Raises:
        UserError: there is none, or it is no file of a config.
    """
    text = os.path.expanduser(path)
    for home in ("", *HOMES):
        for folder in ("", "configs"):
            for suffix in ("", ".py"):
                file = os.path.join(home, folder, text + suffix)
                if os.path.isfile(file):
                    if not file.endswith(_SUFFIXES):
                        raise UserError(f"config file {file!r} is neither .py nor .yaml{_near_configs(text)}")
                    return file
    raise UserError(f"no config file {text!r}{_near_configs(text)}")


def read_config(file: str) -> DictConfig:
    """The config in `file`, without top-level aliases such as ``rpn = model.proposal_generator``.

    Raises:
        UserError: a syntax error in the file, or a value that refers to a group that the file lacks.
    """
    compat.prepare()
    from detectron2.config import LazyConfig

    try:
        cfg = LazyConfig.load(file)
    except SyntaxError as error:
        # detectron2 wraps the parser's error, which knows the line.
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        raise UserError(f"{error.msg} Line {cause.lineno}: {cause.msg}") from error
    _drop_aliases(cfg)
    _check_references(cfg, file)
    return cfg


def default_output_dir(file: str, method: str | None) -> str:
    """``output/<folder>/<file>``, with ``-<method>`` where a method was chosen.

    The folder is relative to the ``configs/`` that `file` lies in. Elsewhere it is the file's own folder.
    """
    path = Path(file).resolve().with_suffix("")
    parts = path.parts
    if "configs" in parts[:-1]:
        start = len(parts) - parts[::-1].index("configs")
        name = "/".join(parts[start:])
    else:
        name = f"{path.parent.name}/{path.name}"
    return f"output/{name}" + (f"-{method}" if method else "")


def _near_configs(path: str) -> str:
    """The three known configs whose names are closest to `path`, for a message."""
    home = next((home for home in HOMES if (home / "configs").is_dir()), None)
    if home is None:
        return ""
    files = [file.relative_to(home).as_posix() for file in sorted(home.glob("configs/*/*.py"))]
    files = [file for file in files if not file.startswith("configs/common/")]

    def likeness(file: str) -> float:
        pairs = ((file, path), (Path(file).stem, Path(path).stem))
        return sum(difflib.SequenceMatcher(None, a, b).ratio() for a, b in pairs)

    best = sorted(files, key=likeness, reverse=True)[:3]
    return f"; the nearest are {', '.join(best)}" if best else ""


def _drop_aliases(cfg: DictConfig) -> None:
    """Remove top-level groups that are a part of another key, or that cannot be resolved where they stand.

    LazyConfig makes each of them a copy, in which relative interpolations lead nowhere and overrides have no
    effect. A group that an interpolation refers to stays.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError

    tree = OmegaConf.to_container(cfg)
    if not isinstance(tree, dict):
        return
    for name in [name for name in tree if name not in RUN_KEYS]:
        parts = [part for key, value in tree.items() if key != name for part in _parts(value)]
        if any(isinstance(part, str) and f"${{{name}" in part for part in parts):
            continue
        is_alias = bool(tree[name]) and any(part == tree[name] for part in parts)
        if not is_alias:
            try:
                OmegaConf.to_container(cfg[name], resolve=True)
            except InterpolationToMissingValueError:
                pass
            except InterpolationResolutionError:
                is_alias = True
        if is_alias:
            del cfg[name], tree[name]


def _check_references(cfg: DictConfig, file: str) -> None:
    """Raise UserError where a value refers to a group that a run reads and that `cfg` lacks.

    The loaders have ``${data.on_bad_pair}``; a config may import them from another one without its `data`.
    """
    from omegaconf import OmegaConf

    if not {"dataloader", "model"} <= set(cfg):  # a piece of a config, such as those in configs/common/
        return
    for key, value in OmegaConf.to_container(cfg).items():
        for part in _parts(value):
            for name in _REFERENCE.findall(part) if isinstance(part, str) else ():
                if name in RUN_KEYS and name not in cfg:
                    raise UserError(
                        f"config file {file!r}: {part} in {key!r} needs {name!r}, which the file lacks: "
                        f"import {name!r} from where {key!r} comes from"
                    )


def _parts(tree: Any) -> Iterator[Any]:
    """`tree` and everything in it, at any depth."""
    yield tree
    if isinstance(tree, (dict, list)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _parts(part)
