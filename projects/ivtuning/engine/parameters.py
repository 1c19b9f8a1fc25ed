"""Parameter counts by group, and the table of them that a run starts with."""

from __future__ import annotations

from tabulate import tabulate
from torch import nn

from ..backbones.trunk import PLUGINS, TrunkPlace, find_trunk


def count_parameters(model: nn.Module, place: TrunkPlace | None = None) -> dict:
    """Count parameters by group.

    Args:
        place: the model's trunk, where the caller knows it.

    Returns:
        "groups": {"trunk" | "stem" | "tuner" | "neck" | "heads": {"total", "trained"}}, and the figures that
        tables print: backbone (trunk + stem + tuner) and base (the trunk alone), model, `ratio_of_base` =
        backbone_trainable / backbone_base and `ratio_of_total` = backbone_trainable / (base + added), as
        fractions.
    """
    model = getattr(model, "module", model)
    place = place or find_trunk(model)
    neck = place.name.rpartition(".")[0]
    groups = {name: {"total": 0, "trained": 0} for name in ("trunk", "stem", "tuner", "neck", "heads")}
    for name, parameter in model.named_parameters():
        if name.startswith(place.prefix):
            first = name.removeprefix(place.prefix).split(".")[0]
            group = first if first in PLUGINS else "trunk"
        else:
            group = "neck" if neck and name.startswith(f"{neck}.") else "heads"
        groups[group]["total"] += parameter.numel()
        groups[group]["trained"] += parameter.numel() * parameter.requires_grad
    backbone = [groups[g] for g in ("trunk", "stem", "tuner")]
    trainable = sum(g["trained"] for g in backbone)
    base = groups["trunk"]["total"]
    return {
        "groups": groups,
        "backbone_trainable": trainable,
        "backbone_base": base,
        "ratio_of_base": trainable / base,
        "ratio_of_total": trainable / sum(g["total"] for g in backbone),
        "model_trainable": sum(g["trained"] for g in groups.values()),
        "model_total": sum(g["total"] for g in groups.values()),
    }


def parameter_table(counts: dict) -> str:
    """`counts` of :func:`count_parameters` as a table, with both ratios below."""
    rows = [
        [name, f"{g['total']:,}", f"{g['trained']:,}", f"{g['total'] - g['trained']:,}"]
        for name, g in counts["groups"].items()
    ]
    frozen = counts["model_total"] - counts["model_trainable"]
    rows.append(["model", f"{counts['model_total']:,}", f"{counts['model_trainable']:,}", f"{frozen:,}"])
    added = counts["groups"]["stem"]["total"] + counts["groups"]["tuner"]["total"]
    table = tabulate(
        rows, ["group", "parameters", "trained", "frozen"], stralign="right", disable_numparse=True
    )
    return (
        f"{table}\n"
        f"added to the trunk (stem + tuner): {added:,}\n"
        f"backbone trains {counts['backbone_trainable']:,} parameters: "
        f"{counts['ratio_of_base']:.2%} of the base, {counts['ratio_of_total']:.2%} of base + added"
    )


def describe_input(model: nn.Module, place: TrunkPlace | None = None) -> str:
    """Which images the model uses, as a line for people; it names an image that is loaded but ignored."""
    stem = (place or find_trunk(model)).trunk.stem
    pixel_mean = getattr(getattr(model, "module", model), "pixel_mean", None)
    if pixel_mean is not None and pixel_mean.numel() == 3:
        return "input: visible"
    ignored = [image for image in ("visible", "infrared") if image not in stem.uses]
    if ignored:
        return f"input: {' and '.join(stem.uses)} only, {ignored[0]} is ignored"
    return f"input: {' and '.join(stem.uses)}"
