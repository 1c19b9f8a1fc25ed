"""Every way to compute attention and adapters against the plain definition, on every trunk."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import TRUNKS, vitdet

from ivtuning.errors import UserError
from ivtuning.tuning import Full, IVTuning
from ivtuning.tuning.stems import PromptStem, SumStem


def figures(trunk, x) -> dict[str, torch.Tensor]:
    """Outputs, and gradients of all that trains."""
    trunk.zero_grad()
    outputs = trunk(x)
    sum(out.square().sum() for out in outputs.values()).backward()
    grads = {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}
    return {**{name: out.detach() for name, out in outputs.items()}, **grads}


def compare(result, expected, tolerance=1e-9):
    """In float64 by default, since rounding grows on the way back to the stem."""
    assert result.keys() == expected.keys()
    most = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        # Some gradients are zero but for rounding, such as those of keys' biases.
        bound = tolerance * max(value.abs().max().item(), 1e-2 * most)
        torch.testing.assert_close(result[name], value, rtol=0, atol=bound, msg=name)


def awake(make, tuner, stem):
    """A trunk whose position tables and adapters all matter."""
    torch.manual_seed(0)
    trunk = make(stem, tuner)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if "rel_pos" in name or "relative_position" in name:
                parameter.normal_()
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return trunk


@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize("kind", TRUNKS)
def test_attention(kind, backend):
    """Full fine-tuning: the position tables have gradients as well."""
    trunk = awake(TRUNKS[kind], Full(), SumStem()).double().eval()
    x = torch.randn(2, 6, 40, 56, dtype=torch.float64)
    trunk.set_attn_backend(backend)
    result = figures(trunk, x)
    trunk.set_attn_backend("plain")
    compare(result, figures(trunk, x))


@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", TRUNKS)
def test_adapters(kind, training, backend):
    tuner = IVTuning(hidden_dim=16, dropout=0.0)
    trunk = awake(TRUNKS[kind], tuner, PromptStem()).double().train(training)
    x = torch.randn(2, 6, 40, 56, dtype=torch.float64)
    tuner.set_backend(backend)
    result = figures(trunk, x)
    tuner.set_backend("plain")
    expected = figures(trunk, x)
    compare(result, expected)
    with torch.no_grad():
        tuner.set_backend(backend)
        fast = trunk.eval()(x)
        tuner.set_backend("plain")
        for name, value in trunk(x).items():
            torch.testing.assert_close(fast[name], value, rtol=0, atol=1e-9 * value.abs().max().item())


def test_plain_really_is_plain(monkeypatch):
    """Neither a fused operation nor a fused attention runs."""

    def refuse(*args, **kwargs):
        raise AssertionError("not plain")

    for place in (
        "ivtuning.tuning.iv_tuning.fused.site",
        "ivtuning.tuning.iv_tuning.triton_site.site",
        "ivtuning.tuning.iv_tuning.folded.FoldedSites.current",
        "torch.nn.functional.scaled_dot_product_attention",
    ):
        monkeypatch.setattr(place, refuse)
    for make in TRUNKS.values():
        trunk = make(tuner=IVTuning(hidden_dim=16, backend="plain"), attn_backend="plain")
        trunk(torch.randn(1, 6, 48, 48))
        with torch.no_grad():
            trunk.eval()(torch.randn(1, 6, 48, 48))


@pytest.mark.slow
def test_attention_by_triton():
    pytest.importorskip("triton", reason="torch comes without triton on this platform")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trunk = awake(lambda *plugins: vitdet(*plugins, depth=2, global_blocks=(1,)), Full(), SumStem())
    x = torch.randn(1, 6, 40, 32, device=device)
    trunk.to(device).eval().set_attn_backend("triton")
    result = figures(trunk, x)
    trunk.set_attn_backend("plain")
    compare(result, figures(trunk, x), tolerance=1e-4)


def test_attention_without_cuda_says_so(monkeypatch):
    pytest.importorskip("triton", reason="torch comes without triton on this platform")
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    with pytest.raises(
        UserError, match="attn_backend=triton does not work here: .*the model is on cpu; give"
    ):
        vitdet(attn_backend="triton")(torch.randn(1, 6, 48, 48))
