"""Trunks to measure, by name, whole or shortened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch

from ...backbones.presets import TRUNKS
from ...backbones.swin import Swin
from ...backbones.trunk import Trunk
from ...backbones.vit import ViTDet
from ...errors import UserError, nearest
from ...tuning import Tuner
from ...tuning.stems import Stem

_NANO: dict = dict(embed_dim=24, depth=8, num_heads=2, patch_size=8, img_size=48, pretrain_img_size=48)
# The published ones, and two tiny ones for tests.
MAKERS: dict[str, Callable[..., Trunk]] = {
    **TRUNKS,
    "vitdet_nano": partial(ViTDet, window_size=4, **_NANO),
    "swin_nano": partial(Swin, embed_dim=8, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), window_size=3),
}


def build(
    name: str,
    stem: Stem,
    tuner: Tuner,
    depth: int | None = None,
    activation_checkpointing: str | None = None,
    device: torch.device | str = "cpu",
) -> Trunk:
    """The trunk `name` with random weights, the same for equal arguments, in training mode.

    Args:
        depth: see :func:`shortened`.
        activation_checkpointing: "mlp" or "block", which the backward pass then recomputes.

    Raises:
        UserError: no such trunk or depth.
    """
    maker = _maker(name)
    options = {} if depth is None else shortened(name, depth)
    torch.manual_seed(0)
    with torch.device(device):
        return maker(stem, tuner, activation_checkpointing=activation_checkpointing, **options).train()


def shortened(name: str, depth: int) -> dict:
    """Options that give the trunk `name` `depth` blocks and leave all else as it is.

    Raises:
        UserError: the trunk cannot have that depth.
    """
    maker = _maker(name)
    try:
        return maker.func.shortened(maker.keywords, depth)
    except UserError as error:
        raise UserError(f"--depth {depth}: {error}") from None


def depths(name: str, most: int | None = None) -> list[int]:
    """Up to four evenly spread depths of the trunk `name`; the last is `most`, by default its full depth.

    Raises:
        UserError: no such trunk, or it cannot have the depth `most`.
    """
    options = _maker(name).keywords
    whole = most or (sum(options["depths"]) if "depths" in options else options["depth"])
    shortened(name, whole)
    possible = []
    for depth in range(1, whole + 1):
        with contextlib.suppress(UserError):
            shortened(name, depth)
            possible.append(depth)
    last, parts = len(possible) - 1, min(3, len(possible) - 1)
    return [possible[round(i * last / parts)] for i in range(parts + 1)] if parts else possible


def usual_size(name: str) -> tuple[int, int]:
    """Height and width in pixels at which the trunk `name` is measured unless told otherwise."""
    return (48, 48) if name.endswith("nano") else _maker(name).func.typical_size


def _maker(name: str) -> Callable[..., Trunk]:
    if name not in MAKERS:
        raise UserError(f"no trunk is called {name!r}{nearest(name, MAKERS)}; there are {', '.join(MAKERS)}")
    return MAKERS[name]
