"""IV-tuning's Triton kernels against the plain modules: on a CUDA device, or interpreted on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import tiny
from torch import nn

from ivtuning.backbones.stems import PromptStem
from ivtuning.tuning import IVTuning
from ivtuning.tuning.frozen_statistics import statistics_kept
from ivtuning.tuning.iv_tuning import triton_site
from ivtuning.tuning.iv_tuning.modules import HybridAdapter, PromptAdapter

pytest.importorskip("triton", reason="torch comes without triton on this platform")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def modules(channels=24, hidden=16, rank=8, dropout=0.0, post_affine=True, swap=False):
    """An adapter and a prompt adapter in which every parameter has a say."""
    torch.manual_seed(0)
    adapter = HybridAdapter(channels, hidden, dropout, "BN", swap)
    prompter = PromptAdapter(channels, rank, post_affine)
    for parameter in (*adapter.parameters(), *prompter.parameters()):
        spread = 0.3 if parameter.dim() > 1 else 0.2
        nn.init.normal_(parameter, mean=0.0 if parameter.dim() > 1 else 0.7, std=spread)
    return adapter.to(DEVICE), prompter.to(DEVICE)


def maps(*shape):
    torch.manual_seed(1)
    x, prompt, weight = torch.randn(3, *shape, device=DEVICE).unbind()
    return (2 * x + 1).requires_grad_(), prompt.requires_grad_(), weight


def plain(adapter, prompter, x, prompt):
    return adapter(x) + prompter(prompt)


def figures(run, adapter, prompter, x, prompt, weight) -> dict[str, torch.Tensor]:
    """Result, gradients and buffers by name."""
    adapter, prompter = copy.deepcopy(adapter), copy.deepcopy(prompter)
    x, prompt = x.detach().clone().requires_grad_(), prompt.detach().clone().requires_grad_()
    y = run(adapter, prompter, x, prompt)
    y.backward(weight)
    found = {"y": y.detach(), "x": x.grad, "prompt": prompt.grad}
    for name, module in (("adapter", adapter), ("prompter", prompter)):
        found |= {f"{name}.{n}": p.grad for n, p in module.named_parameters()}
        found |= {f"{name}.{n}": b.float() for n, b in module.named_buffers()}
    return found


def compare(found, expected, bound, rest=0.0):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # A bias before a batch norm has no gradient but rounding.
        scale = value.norm() if name != "adapter.mix.conv1.bias" else expected["adapter.mix.norm.bias"].norm()
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert (found[name] - value).norm() <= bound * scale + rest, name


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 5, 7)),  # the last tile is not full, and images end within tiles
        (dict(channels=136, hidden=20, rank=3, post_affine=False, swap=True), (3, 6, 5)),  # nothing is round
        (dict(hidden=64), (1, 1, 9)),
    ],
)
def test_site_computes_what_the_modules_do(options, shape):
    adapter, prompter = modules(**options)
    inputs = maps(*shape, adapter.up.out_features)
    found = figures(triton_site.site, adapter, prompter, *inputs)
    compare(found, figures(plain, adapter, prompter, *inputs), bound=1e-5)


def test_site_in_half_precision():
    """fp16, which the interpreter knows; bf16 has the same paths."""
    adapter, prompter = modules()
    inputs = maps(2, 5, 7, 24)

    def half(*arguments):
        with torch.autocast(DEVICE, torch.float16):
            return triton_site.site(*arguments)

    found = figures(half, adapter, prompter, *inputs)
    compare(found, figures(plain, adapter, prompter, *inputs), bound=2e-2)
    assert found["y"].dtype == torch.float32


def test_a_second_pass_leaves_the_running_statistics_alone():
    adapter, prompter = modules()
    x, prompt, _ = maps(1, 4, 4, 24)
    with statistics_kept(adapter):
        kept = triton_site.site(adapter, prompter, x, prompt)
    assert adapter.mix.norm.num_batches_tracked == 0 and not adapter.mix.norm.running_mean.any()
    version = adapter.mix.norm.running_mean._version
    torch.testing.assert_close(triton_site.site(adapter, prompter, x, prompt), kept)
    assert adapter.mix.norm.num_batches_tracked == 1 and adapter.mix.norm.running_mean.any()
    assert adapter.mix.norm.running_mean._version > version  # who caches them must see it


def test_dropout_is_the_same_in_both_passes_and_drawn_from_the_seed():
    adapter, prompter = modules(dropout=0.5)
    x, prompt, weight = maps(1, 4, 5, 24)

    def loss(x):
        torch.manual_seed(3)
        return (triton_site.site(adapter, prompter, x, prompt) * weight).sum()

    loss(x).backward()
    step = 1e-2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.no_grad():
        expected = (loss(x + step) - loss(x - step)) / 2
        other = triton_site.site(adapter, prompter, x, prompt)
        torch.manual_seed(3)
        assert not torch.equal(triton_site.site(adapter, prompter, x, prompt), other)
    torch.testing.assert_close((x.grad * step).sum(), expected, rtol=2e-2, atol=1e-3)
    # Half of them, doubled: the mean over many draws is that without dropout.
    with torch.no_grad():
        many = [triton_site.site(adapter, prompter, x, prompt) for _ in range(40)]
        adapter.dropout.p = 0.0
        expected = triton_site.site(adapter, prompter, x, prompt)
    spread = torch.stack(many).std(0).mean()
    assert (torch.stack(many).mean(0) - expected).abs().mean() < 0.3 * spread


def test_evaluation_uses_the_running_statistics():
    adapter, prompter = modules()
    x, prompt, _ = maps(2, 4, 4, 24)
    plain(adapter, prompter, x, prompt)
    adapter.eval(), prompter.eval()
    with torch.no_grad():
        found = triton_site.site(adapter, prompter, x, prompt)
        torch.testing.assert_close(found, plain(adapter, prompter, x, prompt), rtol=1e-5, atol=1e-5)


def test_a_trunk_trains_alike(monkeypatch):
    """With activation checkpointing and prefix tokens, every site computed by the kernels."""

    def gradients(build, **options):
        torch.manual_seed(0)
        trunk = build(
            PromptStem(zero_init=False), IVTuning(hidden_dim=16, dropout=0.0, zero_init=False), **options
        )
        x = torch.randn(2, 6, 48, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        outputs = trunk.to(DEVICE).train()(x)
        torch.manual_seed(1)
        sum((o * torch.randn_like(o)).sum() for o in outputs.values()).backward()
        return {n: p.grad for n, p in trunk.named_parameters() if p.requires_grad}

    for build, options in (
        (tiny.vitdet, {}),
        (tiny.plain_vit, {"activation_checkpointing": "block"}),
        (tiny.swin, {}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(triton_site, "serves", lambda *_: False)
            expected = gradients(build, **options)
        used = []

        def always(*arguments, used=used):
            used.append(arguments)
            return True

        with monkeypatch.context() as patch:
            patch.setattr(triton_site, "serves", always)
            found = gradients(build, **options)
        assert used
        most = max(g.abs().max() for g in expected.values())
        for name, value in expected.items():
            bound = 1e-4 * max(value.abs().max(), 1e-2 * most)
            assert (found[name] - value).abs().max() < bound, name


def test_what_the_kernels_do_not_serve():
    adapter, prompter = modules()
    x, prompt, _ = maps(1, 4, 4, 24)
    served = triton_site.serves(adapter, prompter, x, prompt)
    assert served == (DEVICE == "cuda")
    other = HybridAdapter(24, 16, 0.0, "GN").to(DEVICE)
    assert not triton_site.serves(other, prompter, x, prompt)
    assert not triton_site.serves(adapter.eval(), prompter, x, prompt)  # gradients in evaluation
