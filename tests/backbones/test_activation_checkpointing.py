"""Activation checkpointing: the same figures, fewer bytes, running statistics counted once."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import TRUNKS, vitdet
from torch.utils.flop_counter import FlopCounterMode

from ivtuning.benchmark.measures.memory import saved_bytes
from ivtuning.errors import UserError
from ivtuning.tuning import TUNERS


def trained(make, activation_checkpointing, tuner="IVTuning", **options):
    """Outputs, gradients and buffers after one pass of a trunk with random adapters, in training mode."""
    torch.manual_seed(0)
    options = {**(dict(zero_init=False) if tuner == "IVTuning" else {}), **options}
    trunk = make(
        tuner=TUNERS[tuner](**options),
        activation_checkpointing=activation_checkpointing,
        drop_path_rate=0.2,
        frozen_eval=False,
    ).train()
    torch.manual_seed(1)
    x = torch.randn(2, 6, 40, 56)
    out = trunk(x)
    sum(o.square().sum() for o in out.values()).backward()
    grads = {name: p.grad for name, p in trunk.named_parameters() if p.requires_grad}
    return out, grads, dict(trunk.named_buffers())


@pytest.mark.parametrize("tuner", ["IVTuning", "Mona"])
def test_a_graph_can_be_walked_twice(tuner):
    trunk = vitdet(tuner=TUNERS[tuner](), activation_checkpointing="block").train()
    loss = sum(out.square().sum() for out in trunk(torch.randn(1, 6, 32, 32)).values())
    parameters = [p for p in trunk.parameters() if p.requires_grad]
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    again = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("activation_checkpointing", ["mlp", "block"])
@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("tuner", ["IVTuning", "Mona", "Full"])
def test_same_figures(kind, activation_checkpointing, tuner):
    compare(*(trained(TRUNKS[kind], r, tuner) for r in (None, activation_checkpointing)))


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize(
    "options", [dict(backend="plain"), dict(backend="fused"), dict(norm="SyncBN")], ids=str
)
def test_same_figures_by_every_backend(kind, options):
    compare(*(trained(TRUNKS[kind], r, **options) for r in (None, "block")))


def compare(expected, result):
    for name, value in expected[0].items():
        assert torch.equal(result[0][name], value)
    assert result[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        assert torch.allclose(result[1][name], grad, rtol=1e-5, atol=1e-6 * grad.abs().max()), name
    for name, buffer in expected[2].items():
        assert torch.equal(result[2][name], buffer), name


@pytest.mark.parametrize("activation_checkpointing", ["mlp", "block"])
@pytest.mark.parametrize("kind", TRUNKS)
def test_two_passes_of_other_sizes_before_one_backward(kind, activation_checkpointing):
    """Every pass is recomputed with the positions of its own size."""

    def gradients(mode):
        torch.manual_seed(0)
        trunk = TRUNKS[kind](tuner=TUNERS["Full"](), activation_checkpointing=mode).eval()
        torch.manual_seed(1)
        outputs = [trunk(torch.randn(1, 6, *size)) for size in ((40, 56), (48, 32))]
        sum(o.square().sum() for out in outputs for o in out.values()).backward()
        return {name: p.grad for name, p in trunk.named_parameters() if p.grad is not None}

    expected, result = gradients(None), gradients(activation_checkpointing)
    assert result.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(
            result[name], grad, rtol=1e-4, atol=1e-5 * grad.abs().max().item(), msg=name
        )


@pytest.mark.parametrize("kind", TRUNKS)
def test_fewer_bytes(kind):
    x = torch.randn(1, 6, 48, 48)
    trunks = [TRUNKS[kind](activation_checkpointing=r, **wide(kind)).train() for r in (None, "mlp", "block")]
    nothing, mlp, block = (saved_bytes(trunk, lambda trunk=trunk: trunk(x)) for trunk in trunks)
    assert block < 0.6 * nothing and mlp < 0.9 * nothing and block < mlp


def wide(kind):
    return dict(embed_dim=32) if kind == "Swin" else {}


def test_mlp_recompute_spares_the_frozen_last_layer():
    """Only the first of the MLP's two layers runs a second time."""
    totals = {}
    for activation_checkpointing in (None, "mlp"):
        trunk = vitdet(activation_checkpointing=activation_checkpointing).train()
        with FlopCounterMode(display=False) as counter:
            sum(o.sum() for o in trunk(torch.randn(1, 6, 48, 48)).values()).backward()
        totals[activation_checkpointing] = counter.get_total_flops()
    tokens, width, depth = 36, 24, 4
    assert totals["mlp"] - totals[None] == depth * 2 * tokens * width * 4 * width


def test_unknown_kind():
    with pytest.raises(UserError, match="block"):
        vitdet(activation_checkpointing="blocks")
