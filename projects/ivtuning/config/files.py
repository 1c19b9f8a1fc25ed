"""Config files: where they are, what is in them, and where their runs write."""

from __future__ import annotations

import builtins
import difflib
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import compat
from ..errors import UserError
from ..utils.text import read_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parents[1]
# The folders that may hold the package's own configs/: the repository's root, and an installed package.
HOMES = (_PACKAGE.parents[1], _PACKAGE)
_SUFFIXES = (".py", ".yaml", ".yml")
# The groups of a config that every run reads; its loaders may read `data` as well.
RUN_GROUPS = ("dataloader", "lr_multiplier", "model", "optimizer", "train")
RUN_KEYS = ("data", *RUN_GROUPS)
_REFERENCE = re.compile(r"\$\{(\w+)[\w.\[\]]*\}")  # from the root: ${data.x}, not ${..x} or ${oc.env:X}


def find_config(path: str | os.PathLike) -> str:
    """The config file that `path` names, see :func:`ivtuning.config.load_config`.

    Raises:
        UserError: there is none, it is a folder, or it is neither .py nor .yaml.
    """
    text = os.path.expanduser(path)
    if os.path.isdir(text):
        raise UserError(f"config file {text!r} is a folder: name a file in it{_near_configs(text)}")
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

    A config is code: .py files run, and the tags of a .yaml file can call any function.

    Raises:
        UserError: an error in the file or in one that it imports, a file that holds no config, or a value
            that refers to a group that the file lacks.
    """
    compat.prepare()
    from detectron2.config import LazyConfig
    from omegaconf import DictConfig

    read_text(file)  # says which line is not in UTF-8
    imports = builtins.__import__
    try:
        cfg = LazyConfig.load(file)
    except (Exception, SystemExit) as error:  # whatever the file's code raises
        raise UserError(_fault(file, error)) from error
    finally:
        builtins.__import__ = imports  # LazyConfig's own stays behind after an error
    if not isinstance(cfg, DictConfig) or cfg._is_none():
        kind = "list" if not isinstance(cfg, DictConfig) else "file without content"
        raise UserError(f"config file {file!r} is a {kind}: it must name {', '.join(RUN_KEYS)}")
    _drop_aliases(cfg)
    _check_references(cfg, file)
    return cfg


def _fault(file: str, error: BaseException) -> str:
    """`error`, which loading `file` raised, as ``file:line: what``; the file may be one that it imports."""
    kind, lines = type(error).__name__, str(error).strip().splitlines()
    if isinstance(error, UserError):
        return f"{file}: {error}"
    if isinstance(error, UnicodeDecodeError):
        return f"{file}: it, or a file that it imports, is not in UTF-8: save it as UTF-8"
    if isinstance(error, RecursionError):
        return f"{file}: it imports itself, or files that import it: remove that import"
    if isinstance(error, SyntaxError):
        # detectron2 wraps the parser's error, which knows the line.
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        named = re.search(r"Config file (.+) has syntax error", str(error))
        if "U+FEFF" in cause.msg:
            return (
                f"{named[1] if named else file}: it starts with a byte-order mark: save it as UTF-8 without"
            )
        return f"{named[1] if named else file}:{cause.lineno}: syntax error, {cause.msg}: fix that line"
    if mark := getattr(error, "problem_mark", None):  # of YAML's parser
        return (
            f"{file}:{mark.line + 1}: no valid YAML, {getattr(error, 'problem', None) or kind}: fix that line"
        )
    what = f"{kind}: {lines[0]}" if lines else kind
    # The last line of a config, not one of the library that it called.
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if (frame.f_globals.get("__package__") or "").startswith("detectron2._cfg_loader"):
            return f"{frame.f_code.co_filename}:{line}: {what}: fix that line"
    return f"{file}: {what}: fix the file"


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
        if not is_alias and isinstance(tree[name], (dict, list)):
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
