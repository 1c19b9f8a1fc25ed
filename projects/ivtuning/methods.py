"""Tuning methods by name: the stem and the tuner of each, and how a config is switched to one.

``method=<name>`` on the command line is one of METHODS. Every tuner of TUNERS that adapts a trunk to pairs is
there under its own name, so a new tuner needs no line here. A config may state the options that the tuners of
methods have on its trunk: ``methods = dict(Mona=dict(hidden_dim=16))``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import UserError, nearest
from .tuning import TUNERS, Frozen, Full, IVTuning, Tuner
from .tuning.selection import Selection
from .tuning.stems import InfraredOnly, PromptStem, Stem, SumStem, VisibleOnly
from .utils.targets import locate_target

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclasses.dataclass(frozen=True)
class Method:
    """A stem and a tuner that belong together.

    `configure`, where a method has one, changes the trunk's node of a config that has this stem and tuner.
    """

    stem: type[Stem]
    tuner: type[Tuner]
    configure: Callable[[DictConfig], None] | None = None

    @property
    def has_adapters(self) -> bool:
        """Whether the tuner adds modules to the blocks, instead of only choosing what trains."""
        return not issubclass(self.tuner, Selection)

    def plugins(self) -> tuple[Stem, Tuner]:
        """A new stem and a new tuner with their default options."""
        return self.stem(), self.tuner()


def _as_released(net: DictConfig) -> None:
    """Settings of the paper's released code: no zero-init, and the frozen trunk's drop-path stays on."""
    from .backbones.vit import ViTDet

    net.tuner.preset = "vitdet_v1" if _target(net) is ViTDet else "parity"
    net.stem.update(zero_init=False, from_visible=False)
    net.frozen_eval = False


METHODS: dict[str, Method] = {
    "visible": Method(VisibleOnly, Frozen),
    "infrared": Method(InfraredOnly, Frozen),
    "both": Method(SumStem, Frozen),
    "IVTuning": Method(PromptStem, IVTuning),
    **{name: Method(SumStem, tuner) for name, tuner in TUNERS.items() if tuner not in (IVTuning, Frozen)},
    "full_visible": Method(VisibleOnly, Full),
    "parity": Method(PromptStem, IVTuning, _as_released),
}


def find_method(name: str) -> str:
    """The key of METHODS that `name` means; case does not matter.

    Raises:
        UserError: there is none.
    """
    key = {known.lower(): known for known in METHODS}.get(name.lower())
    if key is None:
        hint = nearest(name, METHODS) or f"; there are {', '.join(METHODS)}"
        raise UserError(f"no method {name!r}{hint}")
    return key


def apply_method(cfg: DictConfig, name: str) -> str:
    """Switch `cfg` to the method `name` and return its key in METHODS.

    A stem or tuner of the method that the config has already keeps its options; another tuner has those that
    the config's `methods` state. A config of the method's tuner keeps its stem, whatever it is, if that uses
    the same images. Where the model takes three channels the stem stays, and only the tuner changes. The
    higher rate that a config may give to what is added is meant for adapters: a method without them trains
    what its stem adds at the trunk's rate.

    Raises:
        UserError: no such method, no trunk at model.backbone.net, or a method for pairs on a model without.
    """
    from omegaconf import OmegaConf

    key = find_method(name)
    for known in cfg.get("methods") or ():
        find_method(known)
    method = METHODS[key]
    net = OmegaConf.select(cfg, "model.backbone.net")
    if net is None:
        raise UserError("the config has no trunk at model.backbone.net")
    if len(cfg.model.get("pixel_mean") or ()) == 3:
        needs_pairs = "infrared" in method.tuner.needs
        if needs_pairs or method.tuner is Frozen or method.stem is VisibleOnly:
            raise UserError(
                f"method {key} is for pairs, but this model takes visible images alone: give "
                "model.backbone.net.tuner=Frozen to freeze the trunk, or method=Full to train all of it"
            )
    elif not _keeps_stem(net, method):
        _set_plugin(net, "stem", method.stem)
    _set_plugin(net, "tuner", method.tuner, OmegaConf.select(cfg, f"methods.{key}"))
    if method.configure:
        method.configure(net)
    rates = OmegaConf.select(cfg, "optimizer.params")
    if not method.has_adapters and rates is not None and "trunk_lr_factor" in rates:
        rates.added_lr_factor = rates.trunk_lr_factor
    return key


def _keeps_stem(net: DictConfig, method: Method) -> bool:
    """Whether the config's stem is a choice for the method, as MSRS's of ViT-Ti is for IV-tuning."""
    if method.configure or net.get("stem") is None or net.get("tuner") is None:
        return False
    return _target(net.tuner) is method.tuner and getattr(_target(net.stem), "uses", None) == method.stem.uses


def _set_plugin(net: DictConfig, plugin: str, kind: type, options: Mapping | None = None) -> None:
    from detectron2.config import LazyCall

    if net.get(plugin) is None or _target(net[plugin]) is not kind:
        net[plugin] = LazyCall(kind)(**(options or {}))


def _target(node: DictConfig) -> Any:
    return locate_target(node.get("_target_"))
