"""Builds the objects that a config describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..utils.targets import locate_target, target_name

if TYPE_CHECKING:
    from omegaconf import DictConfig


def build(cfg: DictConfig, key: str, **replaced: Any) -> Any:
    """The object that the node `key` of `cfg` describes: detectron2's `instantiate`, with readable errors.

    Args:
        key: dotted, such as "model" or "dataloader.test.mapper"; "" is `cfg` itself.
        replaced: arguments that replace those of the node, as they are.

    Raises:
        UserError: there is no such node, or a callable refuses its arguments; the message names its key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = OmegaConf.select(cfg, key) if key else cfg
        name = cfg._get_full_key(key or None)
        if node is None:
            raise UserError(f"the config has no {name}: add it, or import it from another config")
        return _build(node, name, replaced)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or key
        raise UserError(f"{where}: {str(error).splitlines()[0]}: give it a value") from error


def _build(node: Any, key: str, replaced: dict[str, Any]) -> Any:
    from detectron2.config import instantiate
    from omegaconf import ListConfig

    if isinstance(node, ListConfig):
        parts = [_build(part, f"{key}.{i}", {}) for i, part in enumerate(node)]
        return ListConfig(parts, flags={"allow_objects": True})
    if not (isinstance(node, Mapping) and "_target_" in node):
        return instantiate(node)
    names = [name for name in node if name != "_target_" and name not in replaced]
    arguments = {name: _build(node[name], f"{key}.{name}", {}) for name in names} | replaced
    target = locate_target(node["_target_"])
    try:
        return target(**arguments)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever a constructor makes of values that it does not expect
        what = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        values = [f"{k}={v!r}" for k, v in arguments.items() if isinstance(v, (str, int, float, type(None)))]
        given = f"; it was given {', '.join(values)[:200]}" if values else ""
        raise UserError(f"{key} ({target_name(target)}) cannot be built: {what[:200]}{given}") from error
