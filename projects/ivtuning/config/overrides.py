"""Command-line overrides, each one checked before it changes the config."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from ..utils.targets import locate_target, target_name
from .parameters import accepted_keywords

if TYPE_CHECKING:
    from omegaconf import DictConfig

_KEY = re.compile(r"\w+(\.\w+)*")


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> str | None:
    """Apply `overrides` to `cfg` in the order that :func:`ivtuning.config.load_config` states.

    Returns:
        The method that they choose, in its own spelling; None where they choose none.

    Raises:
        UserError: a malformed override, an unknown key or name, or a value of the wrong type.
    """
    from omegaconf.errors import OmegaConfBaseException

    parsed = [(text, *_parse(text)) for text in overrides]
    method = None
    for text, key, value in sorted(parsed, key=lambda override: _rank(*override[1:])):
        try:
            if key == "method":
                from ..methods import apply_method

                method = apply_method(cfg, str(value))
            elif _is_node_name(key, value):
                _replace_node(cfg, key, value)
            else:
                _update(cfg, key, value)
        except OmegaConfBaseException as error:
            raise UserError(f"override {text!r}: {str(error).splitlines()[0]}") from error
        except UserError as error:
            raise UserError(f"override {text!r}: {error}") from error
    return method


def _rank(key: str, value: Any) -> int:
    """When an override applies: options of methods, the method, which reads them, named nodes, all others."""
    if key.partition(".")[0] == "methods":
        return 0
    if key == "method":
        return 1
    return 2 if _is_node_name(key, value) else 3


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
            locate_target(value)
        OmegaConf.update(cfg, key, value, merge=True)


def _replace_node(cfg: DictConfig, key: str, name: str) -> None:
    """Put the class that `name` means, with its own defaults, in place of the node `key`."""
    from detectron2.config import LazyCall
    from omegaconf import OmegaConf

    _find_parent(cfg, key)
    kind = key.rpartition(".")[2]
    table = node_table(kind)
    if name not in table:
        raise UserError(f"no {kind} {name!r}{_suggest(name, table)}")
    OmegaConf.update(cfg, key, LazyCall(table[name])(), merge=False)


def _is_node_name(key: str, value: Any) -> bool:
    return key.endswith((".tuner", ".stem", ".inference")) and isinstance(value, str) and value.isidentifier()


def node_table(kind: str) -> Mapping[str, Callable]:
    """The classes that a node of this kind ("tuner", "stem" or "inference") may be, by name."""
    if kind == "tuner":
        from ..tuning import TUNERS

        return TUNERS
    if kind == "inference":
        from ..heads.segmentation.inference import INFERENCE

        return INFERENCE
    from ..tuning.stems import STEMS

    return STEMS


def _find_parent(cfg: DictConfig, key: str) -> tuple[Any, str]:
    """The node that holds `key`, and the last part of `key`.

    Raises:
        UserError: a part of the key is unknown.
    """
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
            parameters = accepted_keywords(target) if target is not None else frozenset()
            if parameters is not None and part not in parameters:
                owner = f"{where} ({target_name(target)})" if target is not None else where
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
    """The dotted keys of everything in `tree`."""
    for name, item in tree.items():
        yield f"{prefix}{name}"
        if isinstance(item, Mapping):
            yield from _paths(item, f"{prefix}{name}.")


def _suggest(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    return nearest(word, known) or (f"; it has {', '.join(known)}" if known else "")
