"""Where plain products replace torch's fused attention, and that they give the same figures."""

from __future__ import annotations

import pytest
import torch
from helpers.operations import counted
from helpers.tiny import dinov3, eva, plain_vit, swin, vitdet

from ivtuning.backbones.attention.choice import products_are_faster
from ivtuning.tuning import Mona
from ivtuning.tuning.stems import SumStem

TRUNKS = {
    "ViTDet": vitdet,
    "ViTDet without positions": lambda *plugins: vitdet(*plugins, use_rel_pos=False),
    "PlainViT": plain_vit,
    "Eva02": eva,
    "DINOv3": dinov3,
    "Swin": swin,
}
FUSED = "_scaled_dot_product_flash_attention_for_cpu"


def build(kind):
    torch.manual_seed(0)
    return TRUNKS[kind](SumStem(), Mona(hidden_dim=16, dropout=0.0))


def step(trunk):
    trunk.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = trunk(torch.randn(2, 6, 40, 56, generator=torch.Generator().manual_seed(1)))
    outputs = {name: out.float() for name, out in outputs.items()}
    sum(out.square().mean() for out in outputs.values()).backward()
    return outputs, {name: p.grad for name, p in trunk.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "dtype, tokens, expected",
    [
        (torch.bfloat16, 512, True),
        (torch.bfloat16, 513, False),
        (torch.float32, 128, True),
        (torch.float32, 129, False),
        (torch.float64, 8, False),
    ],
)
def test_limits(dtype, tokens, expected):
    x = torch.zeros(1, dtype=dtype)
    assert products_are_faster(x, tokens) is expected
    assert not products_are_faster(x.to("meta"), tokens)
    with torch.no_grad():
        assert not products_are_faster(x, tokens)


def test_autocast_decides_the_type():
    x = torch.zeros(1)
    assert not products_are_faster(x, 300)
    with torch.autocast("cpu", torch.bfloat16):
        assert products_are_faster(x, 300)


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_step_on_a_cpu_runs_no_fused_attention(kind):
    trunk = build(kind)
    with counted() as operations:
        step(trunk.train())
    assert not any(FUSED in name for name in operations)
    with counted() as operations, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trunk.eval()(torch.randn(1, 6, 40, 56))
    assert operations[FUSED] >= len(trunk.blocks)
    trunk.train().set_attn_backend("fused")
    with counted() as operations:
        step(trunk)
    assert operations[FUSED] >= len(trunk.blocks)


@pytest.mark.parametrize("kind", TRUNKS)
def test_same_figures_as_the_definition(kind):
    trunk = build(kind).train()
    outputs, grads = step(trunk)
    trunk.set_attn_backend("plain")
    expected, expected_grads = step(trunk)
    for results, wanted in ((outputs, expected), (grads, expected_grads)):
        assert results.keys() == wanted.keys()
        largest = max(value.norm() for value in wanted.values())
        for name, value in wanted.items():
            assert (results[name] - value).norm() <= 0.03 * max(value.norm(), 0.01 * largest), name


@pytest.mark.slow
def test_an_exported_graph_holds_fused_attention_whatever_ran_before():
    trunk = build("PlainViT").train()
    step(trunk)
    graph = torch.export.export(trunk.eval(), (torch.randn(1, 6, 48, 48),)).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("scaled_dot_product_attention" in name for name in called) == len(trunk.blocks)
