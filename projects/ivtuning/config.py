"""Config files and command-line overrides: detectron2's LazyConfig with the silent mistakes made loud.

LazyConfig accepts any key, known or not. Here a new key is legal only where the callable that would
receive it has such a parameter; everything else ends in a :class:`UserError` that names the nearest key.
Importing this module loads neither torch nor detectron2's config system, so ``--help`` stays instant.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

_KEY = re.compile(r"\w+(\.\w+)*")
_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> DictConfig:
    """Load the LazyConfig file `path` and apply `overrides` (``key=value``, Hydra's grammar) in order.

    A value that Hydra's grammar refuses (``~/x.pth``, ``https://host/f?x=True``) is taken as plain text.
    ``<...>.tuner=<Name>``, ``<...>.stem=<Name>`` and ``<...>.inference=<Name>`` replace that node whole by
    the named class with its own defaults; they apply before all other overrides, wherever they stand.

    Raises:
        UserError: no such file, a syntax error in it, a malformed override, an unknown key or name, a
            value of the wrong type.
    """
    from omegaconf.errors import OmegaConfBaseException

    cfg = _load_file(os.path.expanduser(path))
    parsed = [(text, *_parse(text)) for text in overrides]
    named = [_is_node_name(key, value) for _, key, value in parsed]
    ordered = [o for o, first in zip(parsed, named, strict=True) if first]
    ordered += [o for o, first in zip(parsed, named, strict=True) if not first]
    for text, key, value in ordered:
        try:
            if _is_node_name(key, value):
                _replace_node(cfg, key, value)
            else:
                _update(cfg, key, value)
        except OmegaConfBaseException as error:
            raise UserError(f"override {text!r}: {str(error).splitlines()[0]}") from error
        except UserError as error:
            raise UserError(f"override {text!r}: {error}") from error
    return cfg


def tool_parser(description: str, example: str, config_required: bool = True) -> argparse.ArgumentParser:
    """The command line that every tool shares: ``--config-file FILE`` and trailing ``key=value`` overrides.

    Flags may stand before, between or after the overrides. A wrong command line raises
    :class:`UserError`. `example` is shown at the end of ``--help``.
    """
    parser = _ToolParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=config_required, metavar="FILE", help="LazyConfig file under configs/"
    )
    parser.add_argument("--traceback", action="store_true", help="show the whole stack of an error")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the config, e.g. train.max_iter=100"
    )
    return parser


class _ToolParser(argparse.ArgumentParser):
    def parse_args(self, args=None, namespace=None):
        # Intermixed: plain parse_args refuses overrides on both sides of a flag.
        return self.parse_intermixed_args(args, namespace)

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def _load_file(path: str) -> DictConfig:
    from detectron2.config import LazyConfig

    if not os.path.isfile(path):
        raise UserError(f"no config file {path!r}{_near_configs(path)}")
    if not path.endswith((".py", ".yaml", ".yml")):
        raise UserError(f"config file {path!r} is neither .py nor .yaml{_near_configs(path)}")
    try:
        return LazyConfig.load(path)
    except SyntaxError as error:
        # detectron2 wraps the parser's error, which knows the line.
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        raise UserError(f"{error.msg} Line {cause.lineno}: {cause.msg}") from error


def _near_configs(path: str) -> str:
    files = [f"configs/{f.relative_to(_CONFIGS).as_posix()}" for f in sorted(_CONFIGS.rglob("*.py"))]

    def likeness(file: str) -> float:
        pairs = ((file, path), (Path(file).stem, Path(path).stem))
        return sum(difflib.SequenceMatcher(None, a, b).ratio() for a, b in pairs)

    best = sorted(files, key=likeness, reverse=True)[:3]
    return f"; the nearest are {', '.join(best)}" if best else ""


def _parse(override: str) -> tuple[str, Any]:
    """Split one override into its dotted key and its value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, text = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise UserError(f"override {override!r} is not key=value; write e.g. train.max_iter=100")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        if text[:1] in tuple("[{'\""):  # meant as a list, a dict or quoted text, and broken
            raise UserError(
                f"override {override!r}: cannot read {text}; close every bracket and quote, and quote paths "
                "within lists, e.g. key=['~/a.json','~/b.json']"
            ) from error
        return key, text
    if parsed.is_sweep_override():
        raise UserError(f"override {override!r} names several values; a list is written {key}=[a,b]")
    return key, parsed.value()


def _update(cfg: DictConfig, key: str, value: Any) -> None:
    """Set `key` to `value`; a dict for an existing node is merged key by key, each one checked."""
    from omegaconf import DictConfig, OmegaConf

    parent, last = _find_parent(cfg, key)
    if value and isinstance(value, Mapping) and isinstance(OmegaConf.select(parent, last), DictConfig):
        for name, item in value.items():
            _update(cfg, f"{key}.{name}", item)
    else:
        if last == "_target_":
            _locate(value)
        OmegaConf.update(cfg, key, value, merge=True)


def _replace_node(cfg: DictConfig, key: str, name: str) -> None:
    from detectron2.config import LazyCall
    from omegaconf import OmegaConf

    _find_parent(cfg, key)
    kind = key.rpartition(".")[2]
    table = _node_table(kind)
    if name not in table:
        raise UserError(f"no {kind} {name!r}{_suggest(name, table)}")
    OmegaConf.update(cfg, key, LazyCall(table[name])(), merge=False)


def _is_node_name(key: str, value: Any) -> bool:
    return key.endswith((".tuner", ".stem", ".inference")) and isinstance(value, str) and value.isidentifier()


def _node_table(kind: str) -> Mapping[str, Callable]:
    if kind == "tuner":
        from .tuning import TUNERS

        return TUNERS
    if kind == "inference":
        from .heads.segmentation.inference import INFERENCE

        return INFERENCE
    from .backbones.stems import STEMS

    return STEMS


def _find_parent(cfg: DictConfig, key: str) -> tuple[Any, str]:
    """Walk to the node that holds `key` and return it with the last part of `key`; all parts are legal."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    node, parts = cfg, key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth]) or "the config"
        is_last = depth == len(parts) - 1
        if isinstance(node, ListConfig):
            if not part.isdecimal() or int(part) >= len(node):
                raise UserError(f"{where} is a list of {len(node)}, {part!r} is not a position in it")
        elif not isinstance(node, DictConfig):
            raise UserError(f"{where} is {node!r}, not a group: it has no {part!r}; set {where} itself")
        elif part not in node.keys():  # noqa: SIM118 (`in node` denies keys whose value is "???")
            target = OmegaConf.select(node, "_target_")
            parameters = _parameters(target) if target is not None else frozenset()
            if parameters is not None and part not in parameters:
                owner = f"{where} ({_name(target)})" if target is not None else where
                known = {k for k in node if isinstance(k, str) and k != "_target_"} | parameters
                full = next((p for p in _paths(OmegaConf.to_container(cfg)) if p.endswith(f".{key}")), None)
                hint = f"; did you mean {full!r}?" if full and not depth else _suggest(part, known)
                raise UserError(f"{owner} has no {part!r}{hint}")
            if not is_last:
                raise UserError(f"{where} has no {part!r} yet: set {where}.{part} whole")
        if not is_last:
            node = OmegaConf.select(node, part)
    return node, parts[-1]


def _paths(tree: Mapping, prefix: str = "") -> Iterator[str]:
    for name, item in tree.items():
        yield f"{prefix}{name}"
        if isinstance(item, Mapping):
            yield from _paths(item, f"{prefix}{name}.")


def _suggest(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    return nearest(word, known) or (f"; it has {', '.join(known)}" if known else "")


def _locate(target: Any) -> Any:
    """The callable behind a LazyCall's `_target_`, which may be a dotted name."""
    if not isinstance(target, str):
        return target
    from detectron2.utils.registry import locate

    try:
        return locate(target)
    except ImportError as error:
        raise UserError(f"nothing to import at {target!r}") from error


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


def _parameters(target: Any) -> frozenset[str] | None:
    """Keywords that `target` accepts; None where any may be right (``**kwargs`` to somewhere unseen)."""
    target = _locate(target)
    if not isinstance(target, type):
        names, is_open = _signature(target)
        return None if is_open else names
    # A class hands its **kwargs on to the next __init__ in line; nn.Module's own (*args, **kwargs) is a
    # sham that takes nothing.
    line = [c for c in target.__mro__[:-1] if "__init__" in vars(c)]
    names, is_open = (frozenset(), False) if line else _signature(target)
    for cls in line:
        if (cls.__module__, cls.__name__) == ("torch.nn.modules.module", "Module"):
            break
        more, is_open = _signature(functools.partial(vars(cls)["__init__"], None))
        names |= more
        if not is_open:
            break
    return None if is_open else names


def _signature(function: Callable) -> tuple[frozenset[str], bool]:
    """(keyword names, whether there is a ``**kwargs``), seen through functools.wraps decorators."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return frozenset(), True
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(p.name for p in parameters if p.kind in keywords)
    return names, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
