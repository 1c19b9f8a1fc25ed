"""Optimizer parameter groups."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

from ..backbones.trunk import PLUGINS, find_trunk
from ..errors import UserError

# Position tables are many-dimensional, yet biases by nature.
UNDECAYED = ("pos_embed", "cls_token", "rel_pos_h", "rel_pos_w", "relative_position_bias_table")


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    trunk_lr_factor: float = 1.0,
    added_lr_factor: float = 1.0,
) -> list[dict]:
    """Groups of the trained parameters for a torch optimizer.

    Norms, biases and every other vector are not decayed, nor are position tables. Layer-wise decay touches
    the trunk's own parameters alone, never what a stem or tuner added (spec, bug 13 of the original).

    Args:
        model: the detector, with an ivtuning trunk.
        lr, weight_decay: of a parameter without any factor.
        layer_decay: factor per layer of depth, counted from the trunk's end (1 = off).
        trunk_lr_factor: factor for the trunk's own parameters.
        added_lr_factor: factor for what stem and tuner added.

    Raises:
        UserError: nothing trains.
    """
    place, trunk = find_trunk(model)
    depth = len(trunk.blocks) + 1
    groups: dict[tuple[float, float], list] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = name.removeprefix(f"{place}.") if name.startswith(f"{place}.") else None
        if inside is None:
            factor = 1.0
        elif inside.split(".")[0] in PLUGINS:
            factor = added_lr_factor
        else:
            factor = trunk_lr_factor * layer_decay ** (depth - trunk.layer_id(inside))
        decayed = parameter.ndim > 1 and name.split(".")[-1] not in UNDECAYED
        groups[lr * factor, weight_decay if decayed else 0.0].append(parameter)
    if not groups:
        raise UserError(
            "nothing in the model trains: give model.backbone.net a tuner that adds or selects something"
        )
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
