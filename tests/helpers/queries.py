"""Small DINO detectors on several backbones, a batch of pairs for them, and checks of their training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import sample, swin, vitdet
from ivtuning.heads.dino import PairedDINO, Transformer
from ivtuning.necks.feature_pyramid import SimpleFeaturePyramid
from ivtuning.necks.multi_scale import MultiScale

# Classes, decoder layers, attention heads, sampled points and queries.
K, D, HEADS, POINTS, Q = 4, 3, 4, 2, 12


def build(backbone, levels: int) -> PairedDINO:
    """A small detector whose every part does something."""
    torch.manual_seed(0)
    model = PairedDINO(
        backbone=backbone,
        transformer=Transformer(
            K,
            embed_dim=32,
            num_heads=HEADS,
            feedforward_dim=48,
            encoder_layers=1,
            decoder_layers=D,
            num_levels=levels,
            num_points=POINTS,
            num_queries=Q,
        ),
        num_classes=K,
        pixel_mean=[110.0] * 6,
        pixel_std=[55.0] * 6,
    )
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def on_swin(stages: tuple[int, ...], levels: int) -> PairedDINO:
    net = swin(depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4), out_indices=stages)
    return build(MultiScale(net, size_divisibility=1), levels)


MODELS = {
    "pyramid of a ViT": lambda: build(
        SimpleFeaturePyramid(vitdet(), out_channels=16, scale_factors=(1.0, 0.5)), 3
    ),
    "Swin, 4 scales": lambda: on_swin((1, 2, 3), 4),
    "Swin, 5 scales": lambda: on_swin((0, 1, 2, 3), 5),
}
# Two sizes, so that both images have padding.
BATCH = [sample(64, 96), {**sample(80, 56, seed=1), "height": 160, "width": 112}]


def check_gradients(model: nn.Module, losses: dict[str, Tensor]) -> None:
    """Every trained parameter gets a finite gradient, for which DDP waits whatever the batch holds."""
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def check_autocast(
    build: Callable[[], nn.Module],
    losses_of: Callable[[nn.Module, list[dict]], dict[str, Tensor]],
    dtype: torch.dtype,
) -> None:
    """Under autocast the losses are float32, near those without it, and their gradients finite."""
    losses = {}
    for precision in (torch.float32, dtype):
        model = build()
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype, enabled=precision != torch.float32):
            losses[precision] = losses_of(model, [sample(seed=1), sample(48, 64, seed=2)])
        assert all(loss.dtype == torch.float32 for loss in losses[precision].values())
    sum(losses[dtype].values()).backward()
    # The trunk's gradients may overflow: float16 trains with a loss scale that the trainer adapts.
    heads = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    assert all(p.grad.isfinite().all() for p in heads)
    total = [float(sum(parts.values())) for parts in losses.values()]
    assert total[0] == pytest.approx(total[1], rel=0.05)
