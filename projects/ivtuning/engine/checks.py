"""What a run needs, checked in seconds: before its first step, and before it writes anything."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data.common import DatasetFromList
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, OmegaConf

from ..checkpoint.checkpointer import last_checkpoint
from ..checkpoint.header import adapter_classes
from ..config import build, set_names
from ..config.derived import class_counts
from ..data.catalog import is_present, metadata
from ..data.classes import align_classes, class_names, first_of
from ..data.datasets.detection import check_masks
from ..data.listed_files import check_presence, shared_files
from ..data.tasks import task_of
from ..errors import UserError, nearest
from ..export.config import check_images, check_sets
from ..export.meta_arch import check_stage
from ..hub.names import local_path
from .parallel import on_main
from .precision import autocast_dtype, warn_if_slow
from .wandb_writer import check_wandb

logger = logging.getLogger("ivtuning")


def check_run(cfg: DictConfig, resume: bool = False) -> Sequence[dict] | None:
    """Check that `cfg` can be trained and evaluated to its end, as far as can be known before it is built.

    Weights are looked for, and fetched if they are given by name, but not read. The classes of the test sets
    are put into the order of the training set's from here on.

    Args:
        resume: the run may go on from a checkpoint, which then stands in for `train.init_checkpoint`.

    Returns:
        The training set, serialized, as `dataset` of the training loader; None where the loader has no
        `dataset`.

    Raises:
        UserError: something is missing, or does not go with the rest.
    """
    device = find_device(cfg.train.device)
    autocast_dtype(cfg.train.precision, device)
    warn_if_slow(cfg.train.precision, device)
    if cfg.train.wandb:
        on_main(check_wandb)
    if not (resume and last_checkpoint(cfg.train.output_dir)):
        check_files(cfg.train.init_checkpoint)
    train, test = (_set_names(cfg, part) for part in ("train", "test"))
    classes = _classes([*train, *test])
    dataset, tested = None, _read_set(cfg, "test")
    if (records := _read_set(cfg, "train")) is not None:
        _check_records(cfg, records, tested or [])
        dataset = DatasetFromList(records, copy=False)
        del records  # the serialized copy takes a fraction of their memory
    build(cfg, "dataloader.train", **({} if dataset is None else {"dataset": dataset}))
    evaluator = _check_evaluation(cfg, test, tested)
    _check_count(cfg, [*train, *test], classes)
    _check_metric(cfg, evaluator)
    if not isinstance(build(cfg, "lr_multiplier"), ParamScheduler):
        raise UserError("lr_multiplier is no schedule: take one of configs/common/schedule.py")
    return dataset


def check_evaluation(
    cfg: DictConfig,
    weights: str | None,
    adapter: str | os.PathLike | None = None,
    recorded: Sequence[str] = (),
) -> None:
    """Check that `weights`, with an adapter file on top, can be evaluated on the test set of `cfg`.

    Args:
        recorded: the classes in the model's order, where a file states them, as an adapter does. They count
            where the training set is not on this machine.

    Raises:
        UserError: something is missing, or does not go with the rest.
    """
    if not weights:
        raise UserError(
            "there is nothing to evaluate: give --weights (and --adapter), or train.init_checkpoint=FILE"
        )
    find_device(cfg.train.device)
    check_files(weights, adapter)
    if adapter:
        recorded = adapter_classes(adapter)
    train, test = _training_sets(cfg), _set_names(cfg, "test")
    classes = _trained_order(train, test, recorded)
    _check_evaluation(cfg, test, _read_set(cfg, "test"))
    _check_count(cfg, [*train, *test], classes)


def check_onnx(cfg: DictConfig, file: str, facts: Mapping[str, Any]) -> None:
    """Check that an exported file can be evaluated on the test set of `cfg`.

    Args:
        facts: the file's metadata, see :mod:`..export.metadata`.

    Raises:
        UserError: something is missing, or does not go with the rest.
    """
    check_stage(file, facts)
    check_images(file, facts, cfg)
    check_evaluation(cfg, file, recorded=facts["classes"])
    check_sets(file, facts, cfg, sets_classes(cfg, facts["classes"]))


def sets_classes(cfg: DictConfig, recorded: Sequence[str] = ()) -> list[str]:
    """The classes of the config's sets in the order of the model's labels, as evaluation has them.

    The test set is read in that order from here on. Sets that are not on this machine do not count; without
    any the list is empty.

    Args:
        recorded: see :func:`check_evaluation`.

    Raises:
        UserError: the classes of the sets differ.
    """
    present: dict[str, list[str]] = {"train": [], "test": []}
    for part, found in present.items():
        with contextlib.suppress(UserError, OSError, ImportError):
            names = [name for name in _set_names(cfg, part) if is_present(name)]
            found += [name for name in names if class_names(name)]
    return _trained_order(present["train"], present["test"], recorded)


def find_device(name: str) -> torch.device:
    """The device that `train.device` names; "auto" is CUDA where there is one, else the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"train.device={name!r:.60}: give auto, cpu, cuda or cuda:<number>") from error
    if device.type != "cpu":
        kind = getattr(torch, device.type)
        count = kind.device_count() if kind.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(
                f"train.device={name}: this machine has {count or 'no'} such device: use auto or cpu"
            )
    return device


def check_files(*files: str | os.PathLike | None) -> None:
    """Look for files of weights, and fetch those that are given by name; None and "" are no file.

    Raises:
        UserError: see :func:`..hub.names.local_path`.
    """
    for file in filter(None, files):
        local_path(file)


def _set_names(cfg: DictConfig, part: str) -> list[str]:
    """The names of the sets of a loader, all of them registered."""
    names = set_names(cfg, part)
    for name in names:
        metadata(name)
    return names


def _training_sets(cfg: DictConfig) -> list[str]:
    """The sets to train on; none where they are not on this machine, which evaluation allows."""
    try:
        names = _set_names(cfg, "train")
        for name in names:
            class_names(name)
    except UserError:
        return []
    return names


def _trained_order(train: Sequence[str], test: Sequence[str], recorded: Sequence[str]) -> list[str]:
    """The classes of all sets in the order of the model that was trained, as far as that is known."""
    classes = _classes([*train, *test], () if train else recorded)
    if not train and len(classes) > 1 and sorted(recorded) != sorted(classes):
        logger.warning(
            "the training set is not on this machine: the model's classes are taken to be in the order of %s "
            "(%s)",
            test[0],
            first_of(classes),
        )
    return classes


def _classes(names: Sequence[str], recorded: Sequence[str] = ()) -> list[str]:
    """The classes of all sets, which are given one order; none where there is no set."""
    if not names:
        return []
    kinds = {name: task_of(metadata(name)).labels for name in names}
    if other := next((name for name in names if kinds[name] != kinds[names[0]]), None):
        raise UserError(
            f"{names[0]} has {kinds[names[0]]} and {other} has {kinds[other]}: name sets of one kind in "
            "dataloader.train.dataset.names and dataloader.test.dataset.names"
        )
    # A set may be read for training and for tests.
    return align_classes(list(dict.fromkeys(names)), recorded)


def _check_count(cfg: DictConfig, names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise UserError unless the model has as many classes as the sets, if there are sets."""
    for node in class_counts(cfg) if names else ():
        if node.num_classes != len(classes):
            key = node._get_full_key("num_classes")
            raise UserError(
                f"{key}={node.num_classes}, but {names[0]} has {len(classes)} classes ({first_of(classes)}): "
                f"give {key}={len(classes)} or {key}=auto"
            )


def _read_set(cfg: DictConfig, part: str) -> list[dict] | None:
    """The dicts that a loader reads; None where it is of another kind."""
    if OmegaConf.select(cfg, f"dataloader.{part}.dataset") is None:
        return None
    return build(cfg, f"dataloader.{part}.dataset")


def _check_records(cfg: DictConfig, records: list[dict], tested: list[dict]) -> None:
    """Check the training set's files and masks; warn of images that are in the test set as well."""
    if OmegaConf.select(cfg, "dataloader.train.mapper.use_instance_mask"):
        check_masks(records)
    if cfg.dataloader.train.get("on_bad_pair") != "skip":
        check_presence(records)
    if shared := shared_files(records, tested):
        logger.warning(
            "%d image files are in the training set and in the test set, such as %s: the figures will be too "
            "good",
            len(shared),
            shared[0],
        )


def _check_evaluation(cfg: DictConfig, names: Sequence[str], records: list[dict] | None) -> Any:
    """Build the test loader, of `records` where it reads dicts, and the evaluator, which is returned."""
    node = cfg.dataloader.get("evaluator")
    if node is None:
        raise UserError("the config has no dataloader.evaluator: import dataloader from another config")
    evaluated = node.get("dataset_name") if isinstance(node, DictConfig) else None
    if evaluated is not None and not isinstance(evaluated, str):
        if len(evaluated) != 1:
            raise UserError(
                f"dataloader.test.dataset.names={list(evaluated)}: evaluate one set at a time, "
                f"dataloader.test.dataset.names={evaluated[0]}"
            )
        node.dataset_name = evaluated = evaluated[0]
    if evaluated is not None and names and evaluated not in names:
        raise UserError(
            f"dataloader.evaluator.dataset_name={evaluated}, but dataloader.test.dataset.names={names[0]}: "
            "evaluate on the set that the loader reads"
        )
    if records is not None:
        check_presence(records)
    build(cfg, "dataloader.test", **({} if records is None else {"dataset": records}))
    return build(cfg, "dataloader.evaluator")


def _check_metric(cfg: DictConfig, evaluator: Any) -> None:
    """Raise UserError if `train.best_metric` names a figure that the evaluation will not give."""
    metric = cfg.train.best_metric
    if not metric or not hasattr(evaluator, "metric_names"):
        return
    names = evaluator.metric_names()
    if OmegaConf.select(cfg, "model.roi_heads.mask_head") is None:
        names = [name for name in names if not name.startswith("segm/")]
    if metric not in names:
        some = ", ".join(names[:6])
        raise UserError(
            f"train.best_metric={metric!r} is no figure of {type(evaluator).__name__}"
            f"{nearest(metric, names)}; it gives {some} and others: name one of them, or none "
            "(train.best_metric=)"
        )
