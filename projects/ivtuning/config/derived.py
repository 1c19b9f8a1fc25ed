"""Settings that follow from others where a config leaves them open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .parameters import accepted_keywords

if TYPE_CHECKING:
    from omegaconf import DictConfig

AUTO = "auto"
# Where a config names its sets; the loaders' names may refer to those of `data`, which come first.
_SETS = (
    "data.train",
    "data.val",
    "dataloader.train.dataset.names",
    "dataloader.test.dataset.names",
    "dataloader.evaluator.dataset_name",
)


def derive(cfg: DictConfig) -> None:
    """Settle what a whole config leaves open, in place.

    - Sets that are named by their files are registered, and their paths become absolute, see
      :mod:`..data.own`; ``data.images`` is the folder that paths in these files begin in.
    - ``num_classes=auto`` becomes the number of classes of the training set, whose files are read for it.
    - ``modality_dropout`` needs a model that fills in the missing image: ``model.fill_missing`` becomes
      "mean" where it is not set.

    Raises:
        UserError: the training set cannot be read, or model.fill_missing contradicts modality_dropout.
    """
    _find_sets(cfg)
    for node in class_counts(cfg):
        if node.num_classes == AUTO:
            node.num_classes = _number_of_classes(cfg)
    _fill_dropped(cfg)


def set_names(cfg: DictConfig, part: str) -> list[str]:
    """The names of the sets of the loader `part`, "train" or "test"; none where it is of another kind."""
    from omegaconf import OmegaConf

    names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names")
    return [names] if isinstance(names, str) else list(names or ())


def _find_sets(cfg: DictConfig) -> None:
    from omegaconf import ListConfig, OmegaConf

    named = {key: OmegaConf.select(cfg, key) for key in _SETS}
    named = {key: names for key, names in named.items() if isinstance(names, (str, ListConfig)) and names}
    sets = {key: [names] if isinstance(names, str) else list(names) for key, names in named.items()}
    images = OmegaConf.select(cfg, "data.images") or None
    if not (images is None or isinstance(images, str)):
        raise UserError(f"data.images={images!r}: give the folder that paths of images begin in")
    every = [name for names in sets.values() for name in names]
    if not any(sep in name for name in every for sep in ("/", "\\", ".")):
        if images and every:
            raise UserError(
                f"data.images goes with sets that are named by their files, and {every[0]} is registered: "
                "name its JSON, or prepare the set again with --source"
            )
        return  # registered names need nothing that takes long to import
    from .. import compat

    compat.prepare()
    from ..data.own import absolute, register_set

    training = sets.get("dataloader.train.dataset.names", [None])[0]
    for key, names in sets.items():
        found = [register_set(name, images, training) for name in names]
        if found != names and OmegaConf.select(cfg, key) == named[key]:  # not yet through what it refers to
            OmegaConf.update(cfg, key, found[0] if isinstance(named[key], str) else found)
    if images is not None:
        cfg.data.images = absolute(images)


def class_counts(cfg: DictConfig) -> Iterator[DictConfig]:
    """The nodes of the model that have a `num_classes` of their own, not one that refers to another."""
    from omegaconf import OmegaConf

    for node in _groups(cfg.model):
        has_own = "num_classes" in node and not OmegaConf.is_interpolation(node, "num_classes")
        if has_own:
            yield node


def _groups(node: Any) -> Iterator[DictConfig]:
    """`node` and all groups below it, those in lists too."""
    from omegaconf import DictConfig, ListConfig

    if isinstance(node, DictConfig) and not node._is_none():
        yield node
    if isinstance(node, (DictConfig, ListConfig)) and not node._is_none():
        values = node.values() if isinstance(node, DictConfig) else node
        for part in values:
            yield from _groups(part)


def _number_of_classes(cfg: DictConfig) -> int:
    from .. import compat

    compat.prepare()
    from ..data.classes import class_names

    names = set_names(cfg, "train")
    if not names:
        raise UserError(
            "num_classes=auto counts the classes of dataloader.train.dataset.names, which the config lacks: "
            "give the number"
        )
    return len(class_names(names[0]))


def _fill_dropped(cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    if not OmegaConf.select(cfg, "dataloader.train.mapper.modality_dropout"):
        return
    target = cfg.model.get("_target_")
    keywords = accepted_keywords(target) if target is not None else frozenset()
    if cfg.model.get("fill_missing") == "error":
        raise UserError(
            "dataloader.train.mapper.modality_dropout drops images, which model.fill_missing=error refuses: "
            "give mean or zero"
        )
    if cfg.model.get("fill_missing") is None and (keywords is None or "fill_missing" in keywords):
        cfg.model.fill_missing = "mean"
