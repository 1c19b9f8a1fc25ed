"""What IV-tuning computes once in a forward pass, and that the figures are those of the plain modules."""

from __future__ import annotations

import pytest
import torch
from helpers.operations import counted
from helpers.tiny import plain_vit, swin, vitdet

from ivtuning.tuning import Frozen, IVTuning
from ivtuning.tuning.iv_tuning.fused import fold_blocks
from ivtuning.tuning.stems import PromptStem

TRUNKS = {"ViTDet": vitdet, "PlainViT": plain_vit, "Swin": swin}
# Blocks, groups of them that see the same prompt, and widths.
SHAPES = {"ViTDet": (4, 4, 1), "PlainViT": (4, 4, 1), "Swin": (6, 3, 3)}
VIEWS = {"unbind", "view", "_unsafe_view", "expand", "unsqueeze", "squeeze", "select", "detach", "t"}


def build(kind, tuner=None, seed=0):
    torch.manual_seed(seed)
    trunk = TRUNKS[kind](PromptStem(zero_init=False), tuner or IVTuning(hidden_dim=16, dropout=0.0))
    with torch.no_grad():
        for parameter in (*trunk.tuner.parameters(), *trunk.stem.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return trunk


def pairs(dtype=torch.float32):
    return torch.randn(2, 6, 48, 48, generator=torch.Generator().manual_seed(1)).to(dtype)


def counts(kind, autocast=False):
    """Operations of a forward and a backward pass beyond those of the frozen trunk."""
    results = []
    for tuner in (None, Frozen()):
        trunk = build(kind, tuner).train()
        with counted() as forward, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = sum(out.float().square().sum() for out in trunk(pairs()).values())
        with counted() as backward:
            loss.backward()
        results.append((forward, backward))
    for tuned, frozen in zip(*results, strict=True):
        tuned.subtract(frozen)
        yield tuned


@pytest.mark.parametrize("kind", TRUNKS)
def test_one_norm_and_one_product_serve_all_sites_that_see_a_prompt(kind):
    blocks, groups, widths = SHAPES[kind]
    forward, backward = counts(kind)
    # A site has a norm of its own, and products with its own down- and two up-projections.
    assert forward["native_layer_norm"] == 2 * blocks + groups
    assert forward["mm"] + forward["addmm"] == 3 * 2 * blocks + groups
    # Backward: three gradients of weights, three of inputs, and two products that restore the input.
    assert backward["mm"] + backward["addmm"] == 8 * 2 * blocks + 2 * groups
    # Weights are folded for all blocks of a width at once: down-projections and the prompt's.
    assert forward["baddbmm"] == 2 * widths


@pytest.mark.parametrize("kind", TRUNKS)
def test_in_evaluation_too(kind):
    blocks, groups, _ = SHAPES[kind]
    norms = []
    for tuner in (None, Frozen()):
        trunk = build(kind, tuner).eval()
        with torch.no_grad():
            trunk(pairs())
            with counted() as operations:
                trunk(pairs())
        norms.append(operations["native_layer_norm"])
    assert norms[0] - norms[1] == 2 * blocks + groups


def test_autocast_casts_each_folded_weight_once():
    """Each product used to cast its own, 166 and 336. Most that are left are of the convolutions."""
    forward, backward = counts("ViTDet", autocast=True)
    assert forward["_to_copy"] <= 75 and backward["_to_copy"] <= 190


def test_folding_takes_as_many_operations_whatever_the_depth():
    def operations(depth, dtype):
        tuner = IVTuning(hidden_dim=16)
        tuner.attach([24] * depth)
        with counted() as forward:
            weights = fold_blocks([adapters.pairs for adapters in tuner.blocks], dtype)
            total = sum(t.sum() for site in weights[0].sites for t in site if t.requires_grad)
        with counted() as backward:
            total.backward()
        return {name: n for name, n in forward.items() if name not in VIEWS}, backward["mul"]

    for dtype in (torch.float32, torch.bfloat16):
        assert operations(2, dtype) == operations(8, dtype)


def figures(trunk, x, autocast=False):
    """Outputs, and the gradients of a random linear function of them."""
    trunk.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = trunk(x)
    generator = torch.Generator().manual_seed(2)
    sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outputs.values()).backward()
    # Under batch statistics conv1's bias has no gradient: what is there is rounding.
    trained = (
        (n, p) for n, p in trunk.named_parameters() if p.requires_grad and not n.endswith("conv1.bias")
    )
    grads = {name: p.grad for name, p in trained}
    return {name: value.detach().double() for name, value in {**outputs, **grads}.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRUNKS)
def test_against_float64_no_worse_than_the_plain_modules(kind):
    """By the median of all figures' relative errors, since single ones err by chance."""
    exact = [figures(build(kind, seed=seed).double().train(), pairs(torch.float64)) for seed in range(3)]

    def error(backend, autocast, seed):
        trunk = build(kind, seed=seed).train()
        trunk.tuner.set_backend(backend)
        result = figures(trunk, pairs(), autocast)
        errors = [(result[name] - value).norm() / value.norm() for name, value in exact[seed].items()]
        return torch.stack(errors).median().item()

    sums = {backend: sum(error(backend, True, seed) for seed in range(3)) for backend in ("auto", "plain")}
    assert sums["auto"] <= 1.1 * sums["plain"]
    assert error("auto", False, 0) <= 1e-5


@pytest.mark.slow
def test_a_compiled_block_is_one_graph():
    trunk = build("ViTDet").train()
    expected = trunk(pairs())
    for block in trunk.blocks:
        block.compile(backend="eager", fullgraph=True)
    for name, value in trunk(pairs()).items():
        assert (value - expected[name]).abs().max() <= 1e-4 * expected[name].abs().max()
