"""IV-tuning's modules against the golden values and counts of the paper's released code."""

from __future__ import annotations

import pytest
import torch
from helpers.golden import fill, sums, wave
from helpers.tiny import plain_vit, vitdet

from ivtuning.backbones.vit import PlainViT, ViTDet
from ivtuning.errors import UserError
from ivtuning.tuning import Frozen, Full, IVTuning
from ivtuning.tuning.iv_tuning.modules import HybridAdapter, PromptAdapter, PromptGenerator, simam
from ivtuning.tuning.stems import InfraredOnly, PromptStem, SumStem, VisibleOnly


def mix(prefix: str = "mix.") -> list[str]:
    layers = ("depthwise", "conv1", "norm", "conv2")
    return [f"{prefix}{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def layers_of(*layers: str) -> list[str]:
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


TRANSFORM = ["transform.gamma", "transform.beta", "transform.norm.weight", "transform.norm.bias"]


def test_golden_hybrid_adapter():
    module = HybridAdapter(24, 16, dropout=0.1, norm="BN").eval()
    fill(module, [*layers_of("down", "up"), *mix(), *TRANSFORM])
    out = module(wave(2, 36, 24).view(2, 6, 6, 24))
    assert sums(out) == pytest.approx([154.276241, 1193.363204, 1049.606624], rel=1e-6)


def test_golden_prompt_adapter():
    module = PromptAdapter(24, 8).eval()
    fill(module, [*layers_of("down", "up"), *TRANSFORM, "scale.gamma", "scale.beta"])
    out = module(wave(2, 36, 24).view(2, 6, 6, 24))
    assert sums(out) == pytest.approx([21.343861, 55.587468, 2.178041], rel=1e-6)


def test_golden_prompt_generator():
    module = PromptGenerator(24, 8).eval()
    fill(module, [*layers_of("visible", "infrared", "out"), *mix()])
    x = wave(2, 48, 6, 6).permute(0, 2, 3, 1)
    assert sums(module(x[..., :24], x[..., 24:])) == pytest.approx([20.460065, 69.301984, 4.265515], rel=1e-6)


def test_simam_ignores_where_pixels_are_and_survives_one_pixel():
    x = torch.randn(2, 4, 5, 7)
    shuffled = torch.randperm(35)
    expected = simam(x).flatten(2)[..., shuffled]
    assert torch.allclose(simam(x.flatten(2)[..., shuffled].view(2, 4, 5, 7)).flatten(2), expected, atol=1e-6)
    assert simam(torch.randn(1, 4, 1, 1)).isfinite().all()


def test_legacy_swap_differs_on_oblong_maps_only():
    torch.manual_seed(0)
    fixed = HybridAdapter(24, 16, 0.0, "BN").eval()
    legacy = HybridAdapter(24, 16, 0.0, "BN", legacy_hw_swap=True).eval()
    legacy.load_state_dict(fixed.state_dict())
    square, oblong = torch.randn(1, 6, 6, 24), torch.randn(1, 4, 9, 24)
    assert torch.allclose(fixed(square), legacy(square), atol=1e-6)
    assert not torch.allclose(fixed(oblong), legacy(oblong), atol=1e-3)


def trained(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


VIT_L = dict(img_size=512, embed_dim=1024, depth=24, num_heads=16, out_indices=(23,))


@pytest.mark.parametrize(
    "build, trainable, base",
    [
        (lambda: ViTDet(PromptStem(), IVTuning()), 3_695_236, 85_889_024),
        (lambda: ViTDet(PromptStem(), IVTuning(preset="vitdet_v1")), 3_658_372, 85_889_024),
        (lambda: ViTDet(PromptStem(), IVTuning(), img_size=512), 3_695_236, 85_856_256),
        (lambda: ViTDet(PromptStem(), IVTuning(share_sites=True)), 2_153_380, 85_889_024),
        (lambda: ViTDet(PromptStem(hidden_dim=64), IVTuning()), 3_832_800, 85_889_024),
        (lambda: ViTDet(VisibleOnly(), Full()), 85_889_024, 85_889_024),
        (lambda: ViTDet(InfraredOnly(), Frozen()), 0, 85_889_024),
        (lambda: PlainViT(PromptStem(), IVTuning(), **VIT_L), 8_899_652, 304_147_456),
        (lambda: PlainViT(PromptStem(), IVTuning(preset="vitdet_v1"), **VIT_L), 8_801_348, 304_147_456),
        (lambda: PlainViT(SumStem(), Full(), **VIT_L), 304_934_912, 304_147_456),
        (lambda: PlainViT(PromptStem(), IVTuning()), 3_695_236, 85_797_120),
        (lambda: PlainViT(PromptStem(), IVTuning(), img_size=512), 3_695_236, 86_433_024),
    ],
)
def test_published_counts(build, trainable, base):
    with torch.device("meta"):
        trunk = build()
    assert (trained(trunk), sum(p.numel() for p in trunk.base_parameters())) == (trainable, base)


@pytest.mark.parametrize("build", [vitdet, plain_vit])
def test_zero_init_starts_as_the_frozen_trunk(build):
    torch.manual_seed(0)
    tuned, frozen = build().eval(), build(VisibleOnly(), Frozen()).eval()
    frozen.load_state_dict(tuned.state_dict(), strict=False)
    x = torch.randn(2, 6, 40, 56)
    for a, b in zip(tuned(x).values(), frozen(x).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("build", [vitdet, plain_vit])
def test_parity_preset_does_not(build):
    torch.manual_seed(0)
    tuned = build(PromptStem(zero_init=False), IVTuning(hidden_dim=16, preset="parity")).eval()
    frozen = build(VisibleOnly(), Frozen()).eval()
    frozen.load_state_dict(tuned.state_dict(), strict=False)
    x = torch.randn(1, 6, 40, 56)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(tuned(x).values(), frozen(x).values(), strict=True))


class Spy(IVTuning):
    """Records the prompt of every block."""

    def __init__(self):
        super().__init__(hidden_dim=16, zero_init=False, backend="plain")  # others prepare it for many sites
        self.seen = []

    def build_adapters(self, width):
        adapters = super().build_adapters(width)
        original = adapters.after_attention

        def after_attention(x, prompt):
            self.seen.append(prompt)
            return original(x, prompt)

        adapters.after_attention = after_attention
        return adapters


@pytest.mark.parametrize("build", [vitdet, plain_vit])
def test_prompt_is_p0_then_each_blocks_own_input(build):
    torch.manual_seed(0)
    trunk = build(PromptStem(zero_init=False), Spy()).eval()
    inputs = []
    for block in trunk.blocks:
        block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    x = torch.randn(1, 6, 40, 56)
    trunk(x)
    _, p0 = trunk.stem(x[:, :3], x[:, 3:], trunk.patch_embed)
    assert torch.equal(trunk.tuner.seen[0], p0)
    for seen, entering in zip(trunk.tuner.seen[1:], inputs[1:], strict=True):
        # A plain ViT's cls token is not part of the prompt.
        patches = entering if entering.dim() == 4 else entering[:, 1:].unflatten(1, (5, 7))
        assert torch.equal(seen, patches)


def test_infrared_reaches_its_embedding_and_all_trained_parameters_get_a_gradient():
    torch.manual_seed(0)
    trunk = vitdet(PromptStem(zero_init=False), IVTuning(hidden_dim=16, zero_init=False)).train()
    trunk(torch.randn(2, 6, 40, 56))["last_feat"].square().sum().backward()
    for name, parameter in trunk.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert trunk.stem.embed.proj.weight.grad.abs().sum() > 0


def test_unknown_preset_and_norm_suggest():
    with pytest.raises(UserError, match="did you mean 'parity'"):
        IVTuning(preset="paritie")
    with pytest.raises(UserError, match="give BN, SyncBN or GN"):
        vitdet(tuner=IVTuning(norm="LN"))


def test_group_norm_runs():
    trunk = vitdet(PromptStem(norm="GN"), IVTuning(hidden_dim=16, norm="GN"))
    assert trunk(torch.randn(1, 6, 24, 32))["last_feat"].shape == (1, 24, 3, 4)
