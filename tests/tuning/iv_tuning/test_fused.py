"""IV-tuning's fused operations against the plain modules: values, gradients, statistics, bytes."""

from __future__ import annotations

import copy

import pytest
import torch

from ivtuning.benchmark.measures.memory import saved_bytes
from ivtuning.tuning import IVTuning
from ivtuning.tuning.iv_tuning import fused
from ivtuning.tuning.iv_tuning.fused import SiteWeights, adapted_residual, attended_prompts, fold_blocks
from ivtuning.utils.precision import product_dtype

WIDTH = 48


def parts(dtype=torch.float64, **options):
    """An adapter and a prompt adapter with random parameters, no dropout."""
    torch.manual_seed(0)
    adapters = (
        IVTuning(**dict(hidden_dim=16, zero_init=False, dropout=0.0) | options)
        .build_adapters(WIDTH)
        .to(dtype)
    )
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return adapters.adapter1, adapters.prompt1


def inputs(dtype=torch.float64, size=(5, 7)):
    torch.manual_seed(1)
    x, prompt, grad = (torch.randn(2, *size, WIDTH, dtype=dtype) for _ in range(3))
    return (x + 3).requires_grad_(), prompt.requires_grad_(), grad  # a mean that folding has to take out


def run(function, adapter, prompter, dtype, **options):
    x, prompt, grad = inputs(dtype, **options)
    y = function(adapter, prompter, x, prompt)
    y.backward(grad)
    grads = {f"{i}.{n}": p.grad for i, m in enumerate((adapter, prompter)) for n, p in m.named_parameters()}
    return y.detach(), {"x": x.grad, "prompt": prompt.grad, **grads}, dict(adapter.named_buffers())


def site(adapter, prompter, x, prompt):
    """The operations, for a site alone."""
    (weights,) = fold_blocks([[(adapter, prompter)]], product_dtype(x))
    (attended,) = attended_prompts(prompt, [weights], prompter)
    return fused.site(adapter, weights.sites[0], attended, x)


def plain(adapter, prompter, x, prompt):
    return adapter(x) + prompter(prompt)


OPTIONS = [
    {},
    {"norm": "GN"},
    {"post_affine": False},
    {"legacy_hw_swap": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_equals_the_plain_modules(options, training, dtype, tolerance):
    modules = [module.train(training) for module in parts(dtype, **options)]
    copies = copy.deepcopy(modules)
    y, grads, buffers = run(site, *modules, dtype)
    expected, expected_grads, expected_buffers = run(plain, *copies, dtype)
    assert (y - expected).abs().max() <= tolerance * expected.abs().max()
    largest = max(g.abs().max() for g in expected_grads.values())
    for name, grad in expected_grads.items():
        # Under batch statistics conv1's bias has no gradient: what is there is rounding of larger numbers.
        scale = largest if training and name.endswith("conv1.bias") else grad.abs().max()
        assert (grads[name] - grad).abs().max() <= tolerance * scale, name
    assert buffers.keys() == expected_buffers.keys()
    for name, buffer in expected_buffers.items():
        assert torch.allclose(buffers[name], buffer, rtol=10 * tolerance), name


def test_gradients_of_attended_prompts():
    """Of two sites at once: numerical derivatives, and the values of the prompt adapters one by one."""
    blocks = torch.nn.ModuleList(parts(hidden_dim=4, prompt_dim=3)[1] for _ in range(2))
    for parameter in blocks.parameters():
        torch.nn.init.uniform_(parameter)
    x = torch.randn(2, 3, 2, WIDTH, dtype=torch.float64, requires_grad=True)
    adapter, _ = parts(hidden_dim=4)
    (weights,) = fold_blocks([[(adapter, prompter) for prompter in blocks]], torch.float64)
    for prompter, attended in zip(blocks, attended_prompts(x, [weights], blocks[0]), strict=True):
        expected = prompter.attention(prompter.down(prompter.transform(x)))
        assert torch.allclose(attended, expected, rtol=1e-12)
    down, bias = (t.detach().requires_grad_() for t in (weights.prompt_down, weights.prompt_bias))

    def centered(x, down, bias):  # the operation is defined for rows that sum to 0
        down = down - down.mean(1, keepdim=True)
        return torch.stack(
            attended_prompts(x, [weights._replace(prompt_down=down, prompt_bias=bias)], blocks[0])
        )

    assert torch.autograd.gradcheck(centered, (x, down, bias))


def test_dropout_drops_the_same_in_both_passes():
    """With the identity between the projections, the gradient of `up` shows the mask that was used."""
    torch.manual_seed(0)
    x = torch.zeros(1, 8, 8, 4, dtype=torch.float64, requires_grad=True)
    up = torch.nn.Linear(3, 4).double()
    prompt = torch.zeros(1, 8, 8, 2, dtype=torch.float64)

    def zeros(*shape):
        return torch.zeros(*shape, dtype=torch.float64)

    down_bias = zeros(3) + 1  # u = 1 everywhere
    weights = SiteWeights(zeros(3, 4), down_bias, up.weight, zeros(4), zeros(4, 2), zeros(4))
    y = adapted_residual(x, weights, 1e-5, lambda u, update_statistics=True: u, (), prompt, dropout=0.25)
    y.sum().backward()
    kept = torch.linalg.lstsq(up.weight, y.detach().reshape(-1, 4).T).solution.T  # what went through `up`
    assert set(kept.round(decimals=9).unique().tolist()) == {0.0, round(1 / 0.75, 9)}
    assert 0.65 < (kept > 0.5).double().mean() < 0.85
    assert torch.allclose(up.weight.grad, kept.sum(0).expand(4, 3))


def test_a_second_derivative_is_refused_not_wrong():
    adapter, prompter = parts()
    x, prompt, _ = inputs()
    y = site(adapter, prompter, x, prompt)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.square().sum().backward()


def test_keeps_no_wide_map_of_its_own():
    modules = torch.nn.ModuleList(parts(torch.float32)).train()
    x, prompt, _ = inputs(torch.float32, size=(20, 30))
    wide = x.numel() * x.element_size()
    # Less its result, which what follows keeps anyway.
    kept = saved_bytes(modules, lambda: site(*modules, x, prompt)) - wide
    # The prompt, which is the block's input and kept by its first norm; one map of 16, some of 8 channels.
    assert wide <= kept < (1 + (16 + 10 * 8) / WIDTH) * wide
    assert saved_bytes(modules, lambda: plain(*modules, x, prompt)) > 5 * wide


def test_under_autocast():
    modules = [module.train() for module in parts(torch.float32)]
    copies = copy.deepcopy(modules)
    with torch.autocast("cpu", torch.bfloat16):
        y, grads, _ = run(site, *modules, torch.float32)
        expected, expected_grads, _ = run(plain, *copies, torch.float32)
    assert y.dtype == torch.float32
    assert (y - expected).abs().max() <= 0.02 * expected.abs().max()
    for name, grad in expected_grads.items():
        if not name.endswith("conv1.bias"):
            assert grads[name].dtype == torch.float32
            assert (grads[name] - grad).norm() <= 0.05 * grad.norm(), name


@pytest.mark.parametrize("training", [True, False])
def test_the_backward_pass_is_in_the_mode_of_the_forward_pass(training):
    def switched(*args):
        y = site(*args)
        for module in args[:2]:
            module.train(not training)
        return y

    modules = [module.train(training) for module in parts()]
    copies = copy.deepcopy(modules)
    _, grads, buffers = run(switched, *modules, torch.float64)
    _, expected, expected_buffers = run(site, *copies, torch.float64)
    assert all(torch.equal(grads[n], g) for n, g in expected.items())
    assert all(torch.equal(buffers[n], b) for n, b in expected_buffers.items())
    assert modules[0].mix.norm.training != training
