"""IV-tuning's folded inference gives the same figures, whatever happens to the parameters in between."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from helpers.tiny import TRUNKS, vitdet
from helpers.tools import package_environment
from torch import nn

from ivtuning.checkpoint import load_adapter, save_adapter
from ivtuning.engine.hooks import EMA
from ivtuning.tuning import IVTuning
from ivtuning.tuning.iv_tuning import fused
from ivtuning.tuning.stems import PromptStem


def randomize(trunk, seed: int = 0) -> None:
    """Give every parameter and running statistic of the plugins a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for plugin in (trunk.stem, trunk.tuner):
            for name, tensor in plugin.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 2, generator=generator)
                elif tensor.is_floating_point():
                    tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)


def build(make=vitdet, **options):
    torch.manual_seed(0)
    trunk = make(PromptStem(zero_init=False), IVTuning(hidden_dim=16, zero_init=False, **options)).eval()
    randomize(trunk)
    return trunk


def pairs(batch: int = 2, size=(40, 56)) -> torch.Tensor:
    return torch.randn(batch, 6, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def plainly(trunk, x):
    """The trunk's outputs by the definition."""
    trunk.tuner.set_backend("plain")
    outputs = trunk(x)
    trunk.tuner.set_backend("auto")
    return outputs


def same(trunk, x=None, tolerance: float = 1e-5) -> dict:
    """The trunk's outputs, which are those of the definition within `tolerance` of the largest value."""
    x = pairs() if x is None else x
    with torch.no_grad():
        outputs = trunk(x)
    for name, expected in plainly(trunk, x).items():
        assert outputs[name].dtype == expected.dtype
        assert (outputs[name] - expected).abs().max() <= tolerance * expected.abs().max(), name
    return outputs


@pytest.fixture
def only_folded(monkeypatch):
    def refuse(*args):
        raise AssertionError("not folded")

    monkeypatch.setattr(fused, "site", refuse)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", TRUNKS)
def test_same_figures(kind, batch):
    same(build(TRUNKS[kind]), pairs(batch))


@pytest.mark.parametrize(
    "options", [dict(share_sites=True), dict(preset="vitdet_v1"), dict(legacy_hw_swap=True), dict(norm="GN")]
)
def test_variants(options):
    same(build(**options))


@pytest.mark.parametrize("kind", TRUNKS)
def test_is_used(kind, only_folded):
    trunk = build(TRUNKS[kind])
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            trunk(pairs())


def test_is_not_used_with_gradients_in_training_and_without_running_statistics(only_folded):
    trunk = build()
    with pytest.raises(AssertionError, match="not folded"):
        trunk(pairs())
    with torch.no_grad(), pytest.raises(AssertionError, match="not folded"):
        build(norm="GN")(pairs())
    with torch.no_grad(), pytest.raises(AssertionError, match="not folded"):
        trunk.train()(pairs())


def optimizer_step(**options):
    def step(trunk):
        optimizer = torch.optim.AdamW([p for p in trunk.parameters() if p.requires_grad], lr=0.1, **options)
        trunk(pairs())["last_feat"].square().sum().backward()
        optimizer.step()
        trunk.zero_grad()

    return step


def ema_swap(trunk):
    ema = EMA(trunk, 0.9)
    for average in ema.average.values():
        average.add_(torch.randn_like(average), alpha=0.1)
    ema._swap()


def other_state(trunk):
    other = copy.deepcopy(trunk)
    randomize(other, 5)
    return other.state_dict()


def in_inference_mode(trunk):
    with torch.inference_mode():
        trunk.tuner.blocks[0].adapter1.up.weight.mul_(2)


def new_parameter(trunk):
    up = trunk.tuner.blocks[0].adapter1.up
    up.weight = nn.Parameter(up.weight * 2)


def new_module(trunk):
    trunk.tuner.blocks[0].adapter1.up = nn.Linear(16, 24)


def new_data(trunk):
    up = trunk.tuner.blocks[0].prompt2.up
    up.weight.data = up.weight.data * 2


CHANGES = {
    "AdamW": optimizer_step(foreach=False),
    "AdamW foreach": optimizer_step(foreach=True),
    "AdamW fused": optimizer_step(fused=True),
    "EMA": ema_swap,
    "load_state_dict": lambda trunk: trunk.load_state_dict(other_state(trunk)),
    "load_state_dict assign": lambda trunk: trunk.load_state_dict(other_state(trunk), assign=True),
    "inference mode": in_inference_mode,
    "zero": lambda trunk: trunk.tuner.reset_to_identity(),
    "new parameter": new_parameter,
    "new module": new_module,
    "new data": new_data,
    "statistics": lambda trunk: trunk.tuner.blocks[0].adapter2.mix.norm.running_mean.add_(1),
    "bfloat16 and back": lambda trunk: trunk.bfloat16().float(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_follows_the_parameters(change):
    """All in evaluation mode, so nothing but the change itself shows that the constants are old."""
    trunk = build()
    before = same(trunk)["last_feat"]
    CHANGES[change](trunk)
    after = same(trunk)["last_feat"]
    assert (after - before).abs().max() > 1e-4 * before.abs().max()


def test_follows_an_adapter_file(tmp_path):
    trunk = build()
    before = same(trunk)["last_feat"]
    save_adapter(trunk, tmp_path / "a.safetensors")
    randomize(trunk, 3)
    other = same(trunk)["last_feat"]
    assert (other - before).abs().max() > 1e-2
    load_adapter(trunk, tmp_path / "a.safetensors")
    assert torch.equal(same(trunk)["last_feat"], before)


def test_other_types():
    trunk = build()
    same(trunk)
    same(trunk.double(), pairs().double(), 1e-12)
    same(trunk.float())
    for kept in (torch.float32, torch.bfloat16):
        trunk.residual_dtype = kept
        with torch.autocast("cpu", torch.bfloat16):
            exact, out = plainly(trunk, pairs())["last_feat"], same(trunk, tolerance=0.03)["last_feat"]
        assert out.dtype == exact.dtype == kept
    same(trunk)  # out of autocast again
    same(trunk.bfloat16(), pairs().bfloat16(), 0.05)


def test_copies_and_files_hold_no_constants():
    trunk = build()
    names, size = list(trunk.state_dict()), len(pickle.dumps(trunk))
    expected = same(trunk)["last_feat"]
    assert (list(trunk.state_dict()), len(pickle.dumps(trunk))) == (names, size)
    for other in (copy.deepcopy(trunk), pickle.loads(pickle.dumps(trunk))):
        assert torch.equal(same(other)["last_feat"], expected)
        randomize(other, 2)
        same(other)
    assert torch.equal(same(trunk)["last_feat"], expected)


def test_training_mode_drops_the_constants():
    trunk = build()
    same(trunk)
    assert not any(adapters.folded.is_empty for adapters in trunk.tuner.blocks)
    trunk.train()
    assert all(adapters.folded.is_empty for adapters in trunk.tuner.blocks)


@pytest.mark.slow
def test_importing_registers_no_hook():
    code = "import torch.optim.optimizer as o, ivtuning.tuning; assert not o._global_optimizer_post_hooks"
    subprocess.run([sys.executable, "-c", code], check=True, env=package_environment())


@pytest.mark.parametrize("kind", TRUNKS)
def test_writes_into_no_map_but_the_blocks_own_sum(kind):
    """Tensors that hooks on a block have seen keep their values."""
    trunk, seen = build(TRUNKS[kind]), []

    def note(module, args, output):
        seen.extend((t, t.clone()) for t in (args[0], output) if isinstance(t, torch.Tensor))

    for block in trunk.blocks:
        for module in (block, block.attn, block.mlp):
            module.register_forward_hook(note)
    x = pairs()
    before = x.clone()
    with torch.no_grad():
        trunk(x)
    assert torch.equal(x, before) and len(seen) == 6 * len(trunk.blocks)
    assert all(torch.equal(now, then) for now, then in seen)


def test_keeps_no_map_after_a_pass():
    trunk, inputs = build(), []
    for block in trunk.blocks:
        block.register_forward_pre_hook(lambda module, args: inputs.append(weakref.ref(args[0])))
    with torch.no_grad():
        trunk(pairs())
    assert len(inputs) == len(trunk.blocks) and not any(ref() is not None for ref in inputs)
    assert not any(adapters.folded.is_empty for adapters in trunk.tuner.blocks)
