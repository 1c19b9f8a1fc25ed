"""Costs of all tuning methods on one trunk: parameters, ratios, compute, size of the adapter."""

from __future__ import annotations

import torch
from tabulate import tabulate
from torch import nn

from ..backbones.presets import TRUNKS
from ..backbones.trunk import Trunk
from ..benchmark.subjects.reference import plain
from ..checkpoint.adapter import trained_tensors
from ..engine.parameters import count_parameters
from ..errors import UserError, nearest
from ..tuning import TUNERS, Frozen, IVTuning
from ..tuning.stems import PromptStem, VisibleOnly
from ..utils.arithmetic import FlopCounter

LARGEST = 1 << 16  # side of an image in pixels; some sizes beyond overflow


def count_macs(trunk: Trunk, size: tuple[int, int]) -> int:
    """Multiply-accumulates of matrix products and convolutions for one pair of (height, width) pixels.

    The trunk is counted as its modules are defined, whichever backends and precomputed constants it uses.
    On the meta device counting takes no memory and no arithmetic.
    """
    trunk = plain(trunk)
    device = next(trunk.parameters()).device
    with torch.no_grad(), FlopCounter() as counter:
        trunk(torch.empty(1, 6, *size, device=device))
    return counter.total() // 2


def compare_tuners(name: str, size: tuple[int, int] = (480, 640)) -> dict:
    """Count every method of TUNERS, with its defaults, on the trunk `name` of TRUNKS.

    IV-tuning has its prompt stem, the others see the visible image alone.

    Args:
        size: height and width in pixels for which MACs are counted.

    Returns:
        "trunk", "base" (its parameters), "base_macs", "size" and "tuners": for each class name "trainable"
        parameters, `ratio_of_base` and `ratio_of_total` as fractions (see
        :func:`..engine.parameters.count_parameters`), "extra_macs" over the frozen trunk, nothing merged, and
        "adapter_mb", bytes / 1e6 of the backbone group of an fp32 adapter file.

    Raises:
        UserError: no such trunk, or a size out of range.
    """
    if name not in TRUNKS:
        raise UserError(f"no trunk is called {name!r}{nearest(name, TRUNKS)}; there are {', '.join(TRUNKS)}")
    if not all(1 <= side <= LARGEST for side in size):
        raise UserError(
            f"size {size[0]} x {size[1]}: give a height and a width in pixels, at most {LARGEST:,}"
        )
    base = _build(name, Frozen)
    base_macs = count_macs(base, size)
    tuners = {}
    for kind, tuner in TUNERS.items():
        trunk = _build(name, tuner)
        counts = count_parameters(nn.ModuleDict({"net": trunk}))
        tuners[kind] = {
            "trainable": counts["backbone_trainable"],
            "ratio_of_base": counts["ratio_of_base"],
            "ratio_of_total": counts["ratio_of_total"],
            "extra_macs": count_macs(trunk, size) - base_macs,
            "adapter_mb": sum(t.nbytes for t in trained_tensors(trunk).values()) / 1e6,
        }
    return {
        "trunk": name,
        "base": sum(p.numel() for p in base.base_parameters()),
        "base_macs": base_macs,
        "size": list(size),
        "tuners": tuners,
    }


def _build(name: str, tuner: type) -> Trunk:
    with torch.device("meta"):
        stem = PromptStem() if issubclass(tuner, IVTuning) else VisibleOnly()
        return TRUNKS[name](stem, tuner()).eval()


def comparison_table(costs: dict) -> str:
    """The result of :func:`compare_tuners` as a readable table."""
    rows = [
        [
            kind,
            f"{row['trainable']:,}",
            f"{row['ratio_of_base']:.2%}",
            f"{row['ratio_of_total']:.2%}",
            f"{row['extra_macs'] / 1e9:.2f}",
            f"{row['extra_macs'] / costs['base_macs']:.1%}",
            f"{row['adapter_mb']:.1f}",
        ]
        for kind, row in costs["tuners"].items()
    ]
    head = ["tuner", "trained", "of base", "of total", "extra GMACs", "of the trunk's", "adapter MB"]
    align = ("left", *["right"] * 6)
    height, width = costs["size"]
    return (
        f"{tabulate(rows, head, colalign=align, disable_numparse=True)}\n"
        f"{costs['trunk']}: {costs['base']:,} parameters, {costs['base_macs'] / 1e9:.1f} GMACs at {height} x "
        f"{width} (height x width)"
    )
