"""The optimizer and its parameter groups."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from ..backbones.trunk import PLUGINS, TrunkPlace, find_trunk
from ..config import build
from ..errors import UserError
from ..utils.targets import locate_target

# Positions and tokens are biases by nature, though they have more than one dimension.
UNDECAYED = (
    "pos_embed",
    "cls_token",
    "reg_token",
    "rel_pos_h",
    "rel_pos_w",
    "relative_position_bias_table",
)


def build_optimizer(cfg: DictConfig, model: nn.Module, place: TrunkPlace) -> torch.optim.Optimizer:
    """The optimizer of the config node `cfg`, over the trained parameters of `model`.

    `cfg.params` is called with the model and, where it takes `place`, with the model's trunk.
    """
    known: dict[str, Any] = {"model": model}
    if "place" in inspect.signature(locate_target(cfg.params["_target_"])).parameters:
        known["place"] = place
    return build(cfg, "", params=build(cfg, "params", **known))


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    trunk_lr_factor: float = 1.0,
    added_lr_factor: float = 1.0,
    place: TrunkPlace | None = None,
) -> list[dict]:
    """The trained parameters in groups of one learning rate and one weight decay each, for a torch optimizer.

    Vectors (norms, biases and others) and position tables are not decayed. Layer-wise decay changes the rate
    of the trunk's own parameters alone, never of what a stem or tuner added; the released code of IV-tuning
    decays those as well (docs/method.md 1.7).

    Args:
        model: the detector, with an ivtuning trunk.
        lr, weight_decay: of a parameter without any factor.
        layer_decay: factor per layer of depth, counted from the trunk's end (1 = off).
        trunk_lr_factor: factor for the trunk's own parameters.
        added_lr_factor: factor for what stem and tuner added.
        place: the model's trunk, where the caller knows it.

    Raises:
        UserError: nothing trains.
    """
    place = place or find_trunk(model)
    depth = len(place.trunk.blocks) + 1
    groups: dict[tuple[float, float], list] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = name.removeprefix(place.prefix) if name.startswith(place.prefix) else None
        if inside is None:
            factor = 1.0
        elif inside.split(".")[0] in PLUGINS:
            factor = added_lr_factor
        else:
            factor = trunk_lr_factor * layer_decay ** (depth - place.trunk.layer_id(inside))
        decayed = parameter.ndim > 1 and name.split(".")[-1] not in UNDECAYED
        groups[lr * factor, weight_decay if decayed else 0.0].append(parameter)
    if not groups:
        raise UserError(
            "nothing in the model trains: give model.backbone.net a tuner that adds or selects something"
        )
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
