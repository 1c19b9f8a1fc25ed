"""Config files and command-line overrides: detectron2's LazyConfig, with silent mistakes turned into errors.

LazyConfig accepts any key, known or not. Here a new key is legal only where the callable that would
receive it has such a parameter; everything else ends in a :class:`.errors.UserError` that names the nearest
key. Importing this package loads neither torch nor detectron2's config system, so ``--help`` stays instant.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import UserError, nearest
from .building import build
from .command_line import tool_parser
from .derived import derive, set_names
from .files import RUN_GROUPS, default_output_dir, find_config, read_config
from .overrides import apply_overrides

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["RUN_GROUPS", "build", "find_config", "load_config", "set_names", "tool_parser"]


def load_config(
    path: str | os.PathLike, overrides: Sequence[str] = (), needs: Collection[str] = ()
) -> DictConfig:
    """Load the config file `path` and apply `overrides` (``key=value``, Hydra's grammar) in order.

    `path` is looked up in the working directory, then in the configs that come with the package; the folder
    ``configs/`` and the suffix ``.py`` may be left out.

    A value that Hydra's grammar refuses (``~/x.pth``, ``https://host/f?x=True``) is taken as plain text. Some
    overrides apply before all others, wherever they stand: first ``methods.<Name>.<option>``, then
    ``method=<name>``, which sets stem and tuner together (see :mod:`ivtuning.methods`), then
    ``<...>.tuner=<Name>``, ``<...>.stem=<Name>`` and ``<...>.inference=<Name>``, which replace a whole node
    by the named class with its own defaults.

    Where ``train.output_dir`` is "auto" it follows from the config's path and the method:
    ``output/<folder>/<file>[-<method>]``. :func:`.derived.derive` settles what else is left open.

    Args:
        needs: groups that the config must have. One that has all of RUN_GROUPS is checked as a whole.

    Raises:
        UserError: no such file, an error in it, a missing group, a malformed override, an unknown key or
            name, or a value of a wrong type or out of range, see :mod:`.schema`.
    """
    from .schema import check_values, resolving  # takes longer to import than --help should take

    file = find_config(path)
    cfg = read_config(file)
    method = apply_overrides(cfg, overrides)
    for group in needs:
        with resolving(file, group):
            missing = cfg.get(group) is None
        if missing:
            hint = nearest(group, (str(name) for name in cfg if name not in RUN_GROUPS))
            raise UserError(f"{file} has no {group}{hint}; a config of a run has {', '.join(RUN_GROUPS)}")
    with resolving(file, "train.output_dir"):
        train = cfg.get("train")
        if isinstance(train, Mapping) and train.get("output_dir") == "auto":
            train.output_dir = default_output_dir(file, method)
        if isinstance(train, Mapping) and str(train.get("output_dir")).startswith("~"):
            train.output_dir = os.path.expanduser(train.output_dir)
    if set(RUN_GROUPS) <= set(cfg):
        check_values(cfg, file)
        derive(cfg)
    return cfg
