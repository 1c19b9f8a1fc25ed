"""The type of the sums between a trunk's blocks under autocast."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import TRUNKS
from timm.models.swin_transformer import PatchMerging

from ivtuning.backbones.stream_norm import StreamNorm
from ivtuning.tuning import Adapter, Full, IVTuning, LoRA, Mona
from ivtuning.tuning.stems import PromptStem, SumStem

TUNERS = {
    "Full": Full,
    "IVTuning": lambda: IVTuning(hidden_dim=16),
    "plain IVTuning": lambda: IVTuning(hidden_dim=16, backend="plain"),
    "Mona": lambda: Mona(hidden_dim=16),
    "Adapter": lambda: Adapter(hidden_dim=16),
    "LoRA": LoRA,
}


def build(kind, tuner="IVTuning"):
    torch.manual_seed(0)
    stem = PromptStem() if "IVTuning" in tuner else SumStem()
    trunk = TRUNKS[kind](stem, TUNERS[tuner]())
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return trunk


def pairs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 6, 40, 56, generator=generator, dtype=torch.float64).to(dtype)


def types_between_blocks(trunk, x):
    """The types that go into blocks and come out of them."""
    seen = set()

    def look(block, args, output):
        seen.update((args[0].dtype, output.dtype))

    handles = [block.register_forward_hook(look) for block in trunk.blocks]
    outputs = trunk(x)
    sum(out.float().square().mean() for out in outputs.values()).backward()
    for handle in handles:
        handle.remove()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return seen


# Every tuner on one trunk, and on every trunk the one whose sites do most.
CASES = [("ViTDet", tuner) for tuner in TUNERS] + [(kind, "IVTuning") for kind in TRUNKS if kind != "ViTDet"]


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "tuner"), [*CASES, ("Swin", "Mona"), ("DINOv2", "Full")])
def test_it_keeps_one_type_under_autocast(kind, tuner, kept):
    """Whatever has parameters in float32: positions, norms, LayerScale, the adapters' own scales."""
    trunk = build(kind, tuner)
    trunk.residual_dtype = kept
    with torch.autocast("cpu", torch.bfloat16):
        assert types_between_blocks(trunk, pairs()) == {kept}


@pytest.mark.parametrize("kind", TRUNKS)
def test_half_precision_of_less_range_keeps_float32(kind):
    with torch.autocast("cpu", torch.float16):
        assert types_between_blocks(build(kind), pairs()) == {torch.float32}


@pytest.mark.parametrize("kind", TRUNKS)
def test_without_autocast_it_is_that_of_the_weights(kind):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        trunk = build(kind).to(dtype)
        assert types_between_blocks(trunk, pairs(dtype)) == {dtype}


@pytest.mark.parametrize("kind", TRUNKS)
def test_every_norm_of_the_stream_keeps_its_type(kind):
    """By its class, since a CPU's autocast widens no norm."""
    trunk = build(kind)
    between = [norm for block in trunk.blocks for norm in (block.norm1, block.norm2)]
    merging = [module.norm for module in trunk.modules() if isinstance(module, PatchMerging)]
    assert len(merging) == (2 if kind == "Swin" else 0)
    assert {type(norm) for norm in between + merging} == {StreamNorm}


def test_a_norm_asks_no_autocast_for_its_type(monkeypatch):
    """On CUDA autocast has the norm in float32; there, as here, it has to be off inside."""
    norm, asked = StreamNorm(8), []
    original = torch.nn.functional.layer_norm

    def layer_norm(x, shape, weight, bias, eps):
        asked.append((torch.is_autocast_enabled("cpu"), x.dtype, weight.dtype, bias.dtype))
        return original(x, shape, weight, bias, eps)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", layer_norm)
    with torch.autocast("cpu", torch.bfloat16):
        norm(torch.randn(2, 8).bfloat16())
        norm.bfloat16()(torch.randn(2, 8).bfloat16())
    assert asked == [(False, *[torch.bfloat16] * 3)] * 2


def test_a_norm_in_float32_has_its_gradient_in_float32():
    norm = StreamNorm(8)
    with torch.autocast("cpu", torch.bfloat16):
        norm(torch.randn(2, 8).bfloat16()).float().sum().backward()
    assert norm.weight.grad.dtype == torch.float32


def relative_error(trunk, exact):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = trunk(pairs())
    errors = [(result[name] - value).norm() / value.norm() for name, value in exact.items()]
    return max(error.item() for error in errors)


@pytest.mark.parametrize("kind", TRUNKS)
def test_what_a_stream_in_bfloat16_costs(kind):
    """Against float64, no more than products in bfloat16 cost by themselves."""
    trunk = build(kind).eval()
    with torch.no_grad():
        exact = trunk.double()(pairs(torch.float64))
    trunk.float()
    errors = {}
    for kept in (torch.float32, torch.bfloat16):
        trunk.residual_dtype = kept
        errors[kept] = relative_error(trunk, exact)
    assert 0 < errors[torch.float32] < errors[torch.bfloat16] <= 2.5 * errors[torch.float32]
