"""The table of trunks by name, in their published sizes. A new trunk is one file and entries here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .dinov2 import DINOV2_SIZES, DINOv2
from .dinov3 import DINOV3_SIZES, DINOv3
from .eva import Eva02
from .swin import SWIN_SIZES, Swin
from .trunk import Trunk
from .vit import PlainViT, ViTDet

# letter: (width, depth, heads)
VIT_SIZES = {
    "t": (192, 12, 3),
    "s": (384, 12, 6),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "h": (1280, 32, 16),
}
# The largest ones, with patches of 14 px: (width, depth, heads, width of the MLP's hidden layer)
VIT_14_SIZES = {"vit_h14": (1280, 32, 16, 5120), "vit_g": (1408, 40, 16, 6144)}


def _vits() -> dict[str, Callable[..., Trunk]]:
    trunks: dict[str, Callable[..., Trunk]] = {}
    for letter, (width, depth, heads) in VIT_SIZES.items():
        size: dict = dict(embed_dim=width, depth=depth, num_heads=heads)
        trunks[f"vit_{letter}"] = partial(PlainViT, img_size=512, out_indices=(depth - 1,), **size)
        trunks[f"vitdet_{letter}"] = partial(ViTDet, **size)
        if letter in "bl":
            trunks[f"eva02_{letter}"] = partial(Eva02, out_indices=(depth - 1,), **size)
    for name, (width, depth, heads, hidden) in VIT_14_SIZES.items():
        size = dict(embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=hidden / width)
        trunks[name] = partial(PlainViT, img_size=518, patch_size=14, out_indices=(depth - 1,), **size)
    for kind, sizes in ((DINOv2, DINOV2_SIZES), (DINOv3, DINOV3_SIZES)):
        for name, size in sizes.items():
            trunks[name] = partial(kind, out_indices=(size["depth"] - 1,), **size)
    return trunks


# Each is called with a stem and a tuner, and other options as keywords. There are swin_{t,s,b,l},
# swin_{b,l}_w12, vit_{t,s,b,l,h} and eva02_{b,l} (positions for 512 px), vitdet_{t,s,b,l,h} (for 1024 px),
# vit_h14, vit_g, dinov2_vit{s,b,l,g}14 and, with registers, dinov2_vit{s,b,l,g}14_reg (for 518 px),
# dinov3_vit{s,b,l}16 and dinov3_vit{s,h}16plus (for any size).
TRUNKS: dict[str, Callable[..., Trunk]] = {
    **{name: partial(Swin, **size) for name, size in SWIN_SIZES.items()},
    **_vits(),
}
