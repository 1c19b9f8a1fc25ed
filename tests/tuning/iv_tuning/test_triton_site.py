"""IV-tuning's Triton kernels against the plain modules: on a CUDA device, or interpreted on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import tiny
from torch import nn

from ivtuning.errors import UserError
from ivtuning.tuning import IVTuning
from ivtuning.tuning.frozen_statistics import frozen_statistics
from ivtuning.tuning.iv_tuning import triton_site
from ivtuning.tuning.iv_tuning.modules import HybridAdapter, PromptAdapter
from ivtuning.tuning.stems import PromptStem

pytest.importorskip("triton", reason="torch comes without triton on this platform")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def modules(channels=24, hidden=16, rank=8, dropout=0.0, post_affine=True, swap=False):
    """An adapter and a prompt adapter whose every parameter matters."""
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
    result = {"y": y.detach(), "x": x.grad, "prompt": prompt.grad}
    for name, module in (("adapter", adapter), ("prompter", prompter)):
        result |= {f"{name}.{n}": p.grad for n, p in module.named_parameters()}
        result |= {f"{name}.{n}": b.float() for n, b in module.named_buffers()}
    return result


def compare(result, expected, bound):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        # A bias before a batch norm has no gradient but rounding.
        scale = value.norm() if name != "adapter.mix.conv1.bias" else expected["adapter.mix.norm.bias"].norm()
        assert result[name].dtype == value.dtype and result[name].shape == value.shape
        assert (result[name] - value).norm() <= bound * scale, name


@pytest.mark.slow
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
    result = figures(triton_site.site, adapter, prompter, *inputs)
    compare(result, figures(plain, adapter, prompter, *inputs), bound=1e-5)


@pytest.mark.slow
def test_site_in_half_precision():
    """fp16, which the interpreter knows; bf16 has the same paths."""
    adapter, prompter = modules()
    inputs = maps(2, 5, 7, 24)

    def half(*arguments):
        with torch.autocast(DEVICE, torch.float16):
            return triton_site.site(*arguments)

    result = figures(half, adapter, prompter, *inputs)
    compare(result, figures(plain, adapter, prompter, *inputs), bound=2e-2)
    assert result["y"].dtype == torch.float32


def test_a_second_pass_leaves_the_running_statistics_alone():
    adapter, prompter = modules()
    x, prompt, _ = maps(1, 4, 4, 24)
    with frozen_statistics(adapter):
        kept = triton_site.site(adapter, prompter, x, prompt)
    assert adapter.mix.norm.num_batches_tracked == 0 and not adapter.mix.norm.running_mean.any()
    version = adapter.mix.norm.running_mean._version
    torch.testing.assert_close(triton_site.site(adapter, prompter, x, prompt), kept)
    assert adapter.mix.norm.num_batches_tracked == 1 and adapter.mix.norm.running_mean.any()
    assert adapter.mix.norm.running_mean._version > version  # so that caches of them notice


@pytest.mark.slow
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
        y = triton_site.site(adapter, prompter, x, prompt)
        torch.testing.assert_close(y, plain(adapter, prompter, x, prompt), rtol=1e-5, atol=1e-5)


def gradients(build, backend, **options):
    torch.manual_seed(0)
    tuner = IVTuning(hidden_dim=16, dropout=0.0, zero_init=False, backend=backend)
    trunk = build(PromptStem(zero_init=False), tuner, **options).to(DEVICE).train()
    x = torch.randn(2, 6, 48, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    outputs = trunk(x)
    torch.manual_seed(1)
    sum((o * torch.randn_like(o)).sum() for o in outputs.values()).backward()
    return {n: p.grad for n, p in trunk.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (tiny.vitdet, dict(depth=2, global_blocks=(1,))),
        (tiny.plain_vit, dict(depth=2, out_indices=(1,), activation_checkpointing="block")),
        (tiny.swin, dict(depths=(1, 1), num_heads=(1, 2), out_indices=(0, 1))),
    ],
)
def test_a_trunk_trains_alike(build, options):
    """With activation checkpointing and prefix tokens, every site computed by the kernels."""
    expected, result = (gradients(build, backend, **options) for backend in ("plain", "triton"))
    most = max(g.abs().max() for g in expected.values())
    for name, value in expected.items():
        bound = 1e-4 * max(value.abs().max(), 1e-2 * most)
        assert (result[name] - value).abs().max() < bound, name


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="the interpreter does not know bfloat16")
def test_auto_takes_the_kernels_on_cuda():
    def outputs(backend):
        torch.manual_seed(0)
        tuner = IVTuning(hidden_dim=16, dropout=0.0, zero_init=False, backend=backend)
        trunk = tiny.vitdet(PromptStem(zero_init=False), tuner).to(DEVICE).train()
        with torch.autocast(DEVICE, torch.bfloat16):
            return trunk(torch.ones(1, 6, 48, 48, device=DEVICE))["last_feat"]

    assert torch.equal(outputs("auto"), outputs("triton"))
    torch.testing.assert_close(outputs("auto"), outputs("plain"), rtol=5e-2, atol=5e-2)


def test_what_the_kernels_do_not_serve():
    adapter, prompter = modules()
    x, prompt, _ = maps(1, 4, 4, 24)
    served = triton_site.serves(adapter, prompter, x, prompt)
    assert served == (DEVICE == "cuda")
    other = HybridAdapter(24, 16, 0.0, "GN").to(DEVICE)
    assert not triton_site.serves(other, prompter, x, prompt)
    assert not triton_site.serves(adapter.eval(), prompter, x, prompt)  # gradients in evaluation


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.double(), "the kernels compute in float32, bfloat16, float16"),
        (lambda m: m.eval(), "no gradient in evaluation mode"),
        (lambda m: setattr(m.adapter1.mix, "norm", nn.GroupNorm(2, 16)), "tuner.norm=BN alone"),
    ],
)
def test_the_backend_says_why_it_cannot_run(change, words):
    tuner = IVTuning(hidden_dim=16, backend="triton")
    tuner.attach([24])
    adapters = tuner.to(DEVICE).blocks[0]
    change(adapters)
    x = torch.randn(1, 3, 4, 24, device=DEVICE, dtype=adapters.adapter1.up.weight.dtype)
    with pytest.raises(UserError, match=f"tuner.backend=triton does not work here: .*{words}"):
        adapters.after_attention(x, x)


def test_without_cuda_the_backend_says_so(monkeypatch):
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    tuner = IVTuning(hidden_dim=16, backend="triton")
    tuner.attach([24])
    x = torch.randn(1, 3, 4, 24)
    with pytest.raises(UserError, match="need CUDA, and the model is on cpu; give tuner.backend=auto"):
        tuner.blocks[0].after_attention(x, x)
