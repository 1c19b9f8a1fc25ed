"""The config that goes with an exported file: it says how images are read, resized and evaluated."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from ..config import find_config, set_names
from ..data.catalog import is_present, metadata
from ..data.classes import first_of
from ..data.tasks import LABELS, task_of
from ..errors import UserError
from ..hub.names import config_name
from .runner import read_metadata

logger = logging.getLogger("ivtuning")


def config_of_file(
    path: str | os.PathLike, config: str | os.PathLike | None = None, overrides: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """The config that goes with the exported file `path`, and its overrides.

    Args:
        config: another config than the file's; then the file's overrides do not count.
        overrides: changes on top of them.

    Raises:
        UserError: there is no such config on this machine, or the file cannot be read.
    """
    facts = read_metadata(path)
    own = str(facts["config"])
    if config:
        found = find_config(config)
        if own and config_name(found) != own:
            logger.warning("%s was exported from %s, not from %s", os.fspath(path), own, config_name(found))
        return found, list(overrides)
    if not own:
        raise UserError(f"{os.fspath(path)} names no config: give one")
    try:
        return find_config(own), [*facts["overrides"], *overrides]
    except UserError as error:
        raise UserError(
            f"{os.fspath(path)} was exported from {own}, and {error}: give another one"
        ) from error


def use_config_of_file(args: Namespace) -> None:
    """Put the config of a tool's ``--onnx FILE`` into ``args.config_file`` and ``args.overrides``.

    Raises:
        UserError: see :func:`config_of_file`, or there are weights besides the file.
    """
    for flag in ("weights", "adapter"):
        if getattr(args, flag):
            raise UserError(f"--onnx {args.onnx} has its weights inside: leave out --{flag}")
    args.config_file, args.overrides = config_of_file(args.onnx, args.config_file, args.overrides)


def check_images(path: str | os.PathLike, facts: Mapping[str, Any], cfg: DictConfig) -> None:
    """Raise UserError unless the file takes as many images as the model of `cfg`."""
    given, wanted = (len(mean) // 3 for mean in (cfg.model.pixel_mean, facts["pixel_mean"]))
    if given != wanted:
        words = {1: "visible images alone", 2: "pairs"}
        raise UserError(
            f"{os.fspath(path)} takes {words[wanted]}, and the config's model {words[given]}: give the "
            f"config that it was exported from{', ' + facts['config'] if facts['config'] else ''}"
        )


def check_sets(
    path: str | os.PathLike, facts: Mapping[str, Any], cfg: DictConfig, classes: Sequence[str]
) -> None:
    """Raise UserError unless the file predicts what the config's test sets hold, in their classes.

    Sets that are not on this machine do not count.

    Args:
        classes: of the config's sets, in the order of the model's labels; none where these are not known.
    """
    for name in set_names(cfg, "test"):
        try:
            task, present = task_of(metadata(name)), is_present(name)
        except UserError:  # it was registered by code that this process does not run
            continue
        if task.name != facts["task"] and present:
            raise UserError(
                f"{os.fspath(path)} predicts {LABELS[facts['task']]}, and {name} has {task.labels}: "
                "give another config"
            )
    names = list(facts["classes"])
    if classes and names and list(classes) != names:
        raise UserError(
            f"{os.fspath(path)} has the classes {first_of(names)}, and the config's sets "
            f"{first_of(classes)}: give the config that it was exported from"
        )
