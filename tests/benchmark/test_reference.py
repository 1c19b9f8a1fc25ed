"""The plain reference computes what the trunk computes."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import tiny
from torch import nn

from ivtuning.backbones.attention.relpos import RelPosAttention
from ivtuning.backbones.trunk import Trunk
from ivtuning.benchmark.measures.memory import saved_bytes
from ivtuning.benchmark.subjects.reference import plain
from ivtuning.tuning import Frozen, IVTuning
from ivtuning.tuning.stems import PromptStem, VisibleOnly


@pytest.fixture(params=["vitdet", "plain_vit", "swin"])
def fast(request) -> Trunk:
    """A trunk with IV-tuning in which every part has a say, and no draw."""
    torch.manual_seed(0)
    build = getattr(tiny, request.param)
    trunk = build(PromptStem(zero_init=False), IVTuning(hidden_dim=16, dropout=0.0, zero_init=False))
    for name, parameter in trunk.named_parameters():
        if "rel_pos" in name or "relative_position" in name:
            nn.init.normal_(parameter, std=0.3)
    return trunk.train()


def gradients(trunk: Trunk, x: torch.Tensor) -> dict[str, torch.Tensor]:
    # Drawn weights: the sum of squares hardly moves behind a norm.
    out = trunk(x)
    torch.manual_seed(1)
    sum((o * torch.randn_like(o)).sum() for o in out.values()).backward()
    return {name: p.grad for name, p in trunk.named_parameters() if p.requires_grad}


def test_reference_computes_the_same(fast):
    slow = plain(fast)
    x = torch.randn(2, 6, 48, 40)
    ours, theirs = fast(x), slow(x)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    ours, theirs = gradients(fast, x), gradients(slow, x)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("tuner.blocks.0.prompt1") for name in ours)
    most = max(g.abs().max().item() for g in theirs.values())
    for name, expected in theirs.items():
        # Some are zero but for rounding, such as that of a bias before a batch norm.
        bound = 1e-5 * max(expected.abs().max().item(), 1e-2 * most)
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=bound, msg=name)


def test_reference_is_plain_and_leaves_the_original_alone(fast):
    before = [type(m) for m in fast.modules()]
    slow = plain(fast)
    assert [type(m) for m in fast.modules()] == before
    assert [n for n, _ in slow.named_parameters()] == [n for n, _ in fast.named_parameters()]
    for trunk, backend in ((fast, "auto"), (slow, "plain")):
        assert trunk.attn_backend == trunk.tuner.backend == backend
        assert {adapters.backend for adapters in trunk.tuner.blocks} == {backend}
    # timm's own modules and ours.
    assert not any(getattr(b.attn, "backend", "plain") != "plain" for b in slow.blocks)
    assert not any(b.attn.fused_attn for b in slow.blocks if not hasattr(b.attn, "backend"))


def test_reference_of_a_trunk_without_adapters():
    trunk = tiny.vitdet(VisibleOnly(), Frozen())
    x = torch.randn(1, 6, 48, 48)
    torch.testing.assert_close(plain(trunk)(x)["last_feat"], trunk(x)["last_feat"], rtol=1e-5, atol=1e-5)


def test_explicit_attention_keeps_all_scores():
    fast = RelPosAttention(24, 2, use_rel_pos=True, input_size=(16, 16)).requires_grad_(False)
    x = torch.randn(1, 16, 16, 24, requires_grad=True)
    little = saved_bytes(fast, lambda: fast(x))
    slow = copy.deepcopy(fast)
    slow.backend = "plain"
    scores = 2 * 256 * 256 * 4
    assert little < scores < saved_bytes(slow, lambda: slow(x))
