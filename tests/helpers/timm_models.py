"""Tiny models of timm's, one of every kind that can be attached."""

from __future__ import annotations

import timm
import torch
from torch import nn

from ivtuning.tuning import TUNERS

TINY = dict(num_classes=3)
MODELS = {
    "ViT": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=(48, 64), embed_dim=24, depth=3, num_heads=2, init_values=0.5, **TINY
    ),
    "DINOv2 with registers": lambda: timm.create_model(
        "vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=24, depth=3, num_heads=2, **TINY
    ),
    "EVA-02": lambda: timm.create_model(
        "eva02_tiny_patch14_224", img_size=56, embed_dim=24, depth=3, num_heads=2, **TINY
    ),
    "DINOv3": lambda: timm.create_model(
        "vit_small_patch16_dinov3", img_size=64, embed_dim=32, depth=3, num_heads=2, **TINY
    ),
    "EVA with fused projections": lambda: timm.create_model(
        "eva_large_patch14_196", img_size=56, embed_dim=24, depth=3, num_heads=2, **TINY
    ),
    "Swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        embed_dim=12,
        depths=(2, 2),
        num_heads=(1, 2),
        window_size=4,
        **TINY,
    ),
}
OPTIONS = {"LoRA": dict(rank=4), "IVTuning": dict(hidden_dim=8), "Mona": dict(hidden_dim=8)}


def images(model: nn.Module, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    size = model.patch_embed.img_size
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 3, *size, generator=generator) for _ in range(2))


def disturb(module: nn.Module) -> None:
    """Random values in place of those that make a method the identity."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def tuner_of(name: str):
    return TUNERS[name](**OPTIONS.get(name, {}))
