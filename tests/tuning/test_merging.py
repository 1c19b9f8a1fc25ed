"""Merging a tuner into the base: LoRA can, the others say why they cannot."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.tiny import vitdet
from helpers.tuned import base, build, by_selecting, frozen, on_every_trunk, outputs, wake
from safetensors.torch import save_file

from ivtuning.checkpoint import load_adapter, load_pretrained, save_adapter
from ivtuning.errors import UserError
from ivtuning.tuning import LoRA
from ivtuning.tuning.stems import VisibleOnly


@on_every_trunk
def test_lora_merges_and_unmerges(trunk):
    net = wake(build(trunk, "LoRA")).eval()
    before, weights = outputs(net), base(net)
    net.merge_adapters()
    net.merge_adapters()  # twice is once
    merged = frozen(trunk).eval()
    merged.load_state_dict(base(net))
    assert not torch.equal(outputs(merged), outputs(frozen(trunk).eval()))
    for same in (net, merged):
        assert (outputs(same) - before).abs().max() < 1e-5
    net.unmerge_adapters()
    net.unmerge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(net).items())
    assert torch.equal(outputs(net), before)


def test_a_copy_of_a_merged_lora_is_unmerged_bit_by_bit_too():
    net = wake(build("ViTDet", "LoRA")).eval()
    weights, names = base(net), list(net.state_dict())
    net.merge_adapters()
    assert list(net.state_dict()) == names
    twin = copy.deepcopy(net)
    twin.unmerge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(twin).items())
    net.unmerge_adapters()
    net.merge_adapters()
    net.unmerge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(net).items())


def test_what_a_file_has_merged_is_subtracted():
    net = wake(build("ViTDet", "LoRA")).eval()
    weights = base(net)
    net.merge_adapters()
    marked = build("ViTDet", "LoRA").eval()
    marked.load_state_dict(copy.deepcopy(net).state_dict())
    marked.tuner.mark_merged()
    marked.unmerge_adapters()
    assert all((t - weights[n]).abs().max() < 1e-6 for n, t in base(marked).items())


def test_merging_is_in_full_precision_under_autocast():
    net, other = (wake(build("ViTDet", "LoRA")).eval() for _ in range(2))
    net.merge_adapters()
    with torch.autocast("cpu", torch.bfloat16):
        other.merge_adapters()
    assert all(torch.equal(t, base(net)[n]) for n, t in base(other).items())
    marked = wake(build("ViTDet", "LoRA")).eval()
    marked.tuner.mark_merged()
    reference = copy.deepcopy(marked)
    reference.unmerge_adapters()
    with torch.autocast("cpu", torch.bfloat16):
        marked.unmerge_adapters()
    assert all(torch.equal(t, base(reference)[n]) for n, t in base(marked).items())


def test_nothing_is_loaded_into_a_merged_lora(tmp_path):
    net = wake(build("ViTDet", "LoRA")).eval()
    clean = copy.deepcopy(net.state_dict())
    net.merge_adapters()
    merged = copy.deepcopy(net.state_dict())
    for part, state in ((net, clean), (net.tuner, net.tuner.state_dict()), (copy.deepcopy(net), clean)):
        with pytest.raises(UserError, match=r"merged into the base: call unmerge_adapters\(\) first"):
            part.load_state_dict(state)
    assert all(torch.equal(t, merged[n]) for n, t in net.state_dict().items())
    save_file(base(net), tmp_path / "base.safetensors")
    with pytest.raises(UserError, match=r"merged into the base: call unmerge_adapters\(\) first"):
        load_pretrained(net, tmp_path / "base.safetensors")
    net.unmerge_adapters()
    net.load_state_dict(clean)
    net.merge_adapters()


def test_training_of_a_merged_lora_is_refused_before_anything_changes():
    net = wake(build("ViTDet", "LoRA")).eval()
    net.merge_adapters()
    with pytest.raises(UserError, match="does not train"):
        net.train()
    assert not any(module.training for module in net.modules())


def test_a_merged_lora_is_guarded(tmp_path):
    net = wake(build("ViTDet", "LoRA")).train()
    with pytest.raises(UserError, match="call model.eval"):
        net.merge_adapters()
    save_adapter(net.eval(), tmp_path / "a.safetensors")
    net.merge_adapters()
    with pytest.raises(UserError, match="does not train"):
        net.train()
    with pytest.raises(UserError, match="unmerge_adapters"), net.disable_adapters():
        pass
    with pytest.raises(UserError, match="unmerge_adapters"):
        save_adapter(net, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="unmerge_adapters"):
        load_adapter(net, tmp_path / "a.safetensors")
    net.eval().unmerge_adapters()
    net.train()


def test_lora_that_is_not_finite_leaves_the_base_alone():
    net = wake(build("ViTDet", "LoRA")).eval()
    net.tuner.updates[3]["v"].lora_A.data[0, 0] = torch.nan
    weights = base(net)
    with pytest.raises(UserError, match="infinite or NaN"):
        net.merge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(net).items())


def test_half_precision_would_round_lora_away():
    net = wake(build("ViTDet", "LoRA")).eval().bfloat16()
    weights = base(net)
    with pytest.raises(UserError, match="merge in float32, convert then"):
        net.merge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(net).items())


def test_lora_goes_along_with_a_copy():
    net = wake(build("ViTDet", "LoRA")).eval()
    twin, before = copy.deepcopy(net), outputs(net)
    assert torch.equal(outputs(twin), before)
    twin.tuner.reset_to_identity()
    assert torch.equal(outputs(net), before)
    assert torch.equal(outputs(twin), outputs(frozen("ViTDet").eval()))


def test_lora_updates_the_rows_of_its_targets():
    torch.manual_seed(0)
    net = vitdet(VisibleOnly(), LoRA(rank=2, targets=["k"])).eval()
    weight = net.blocks[1].attn.qkv.weight.detach().clone()
    wake(net).merge_adapters()
    changed = (net.blocks[1].attn.qkv.weight != weight).any(1)
    assert changed.tolist() == [False] * 24 + [True] * 24 + [False] * 24


@pytest.mark.parametrize("tuner, reason", [("Adapter", "GELU"), ("AdaptFormer", "GELU")] + [
    (name, "convolutions") for name in ("Mona", "IVTuning")
])  # fmt: skip
def test_what_cannot_merge_says_why(tuner, reason):
    net = build("ViTDet", tuner).eval()
    with pytest.raises(UserError, match=f"{tuner} cannot be merged into the base: .*{reason}"):
        net.merge_adapters()
    with pytest.raises(UserError, match=f"{tuner} is never merged"):
        net.unmerge_adapters()


@by_selecting
def test_a_changed_base_is_merged_as_it_is(tuner):
    net = wake(build("ViTDet", tuner)).eval()
    weights = base(net)
    net.merge_adapters()
    net.unmerge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(net).items())
