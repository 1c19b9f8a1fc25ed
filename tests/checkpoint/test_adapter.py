from __future__ import annotations

import copy
import errno
import json
import os

import pytest
import torch
from helpers.weights import Detector, mae_state, randomize, same, save, snapshot, timm_vit, vitdet
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ivtuning.backbones.vit import ViTDet
from ivtuning.checkpoint import adapter, load_adapter, load_weights, save_adapter
from ivtuning.checkpoint.adapter import (
    adapter_tensors,
    fingerprint,
    group_sizes,
    read_metadata,
    trained_tensors,
)
from ivtuning.errors import UserError
from ivtuning.tuning import IVTuning, Mona
from ivtuning.tuning.stems import PromptStem, VisibleOnly


def image(seed=0):
    return torch.randn(2, 6, 64, 64, generator=torch.Generator().manual_seed(seed))


def trained_on(base_seed, seed, **options):
    """A detector whose base depends on `base_seed` alone, everything else on `seed`."""
    model = randomize(Detector(vitdet(**options)), seed)
    randomize(base := Detector(vitdet(**options)), base_seed)
    trunk, source = model.backbone.net, base.backbone.net.state_dict()
    for name, tensor in trunk.named_base_parameters():
        tensor.data.copy_(source[name])
    return model.eval()


def step(model):
    """One training step on random input."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(image()).square().mean().backward()
    optimizer.step()
    return model.eval()


def test_round_trip_gives_equal_outputs(tmp_path):
    model = step(trained_on(0, 1))
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = trained_on(0, 2)
    assert not torch.equal(fresh(image()), model(image()))
    load_adapter(fresh, tmp_path / "a.safetensors")
    assert torch.equal(fresh(image()), model(image()))
    assert same(fresh.state_dict(), model.state_dict())


def test_swapping_in_a_running_model(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        save_adapter(step(trained_on(0, seed)), tmp_path / f"{name}.safetensors")
    model, outputs = trained_on(0, 3), []
    for name in "aba":
        load_adapter(model, tmp_path / f"{name}.safetensors")
        outputs.append(model(image()))
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])


def test_the_file_holds_what_trains_with_its_buffers_and_nothing_else(tmp_path):
    model = Detector()
    save_adapter(model, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as f:
        names = set(f.keys())
    state = model.state_dict()
    plugins = {n for n in state if n.startswith(("backbone.net.stem.", "backbone.net.tuner."))}
    outside = {n for n in state if not n.startswith("backbone.net.")}
    assert names == {f"backbone/{n.removeprefix('backbone.net.')}" for n in plugins} | {
        f"task/{n}" for n in outside
    }
    assert (
        "backbone/stem.generator.mix.norm.running_mean" in names
        and "task/roi_heads.norm.running_var" in names
    )
    assert not any("pixel_mean" in n for n in names)


def test_full_tuning_puts_the_whole_trunk_in(tmp_path):
    model = step(randomize(Detector(vitdet("SumStem", "Full")), 1))
    save_adapter(model, tmp_path / "a.safetensors", groups=["backbone"])
    assert trained_tensors(model.backbone.net).keys() == model.backbone.net.state_dict().keys()
    other = randomize(Detector(vitdet("SumStem", "Full")), 2)
    load_adapter(other, tmp_path / "a.safetensors")
    assert same(other.backbone.net.state_dict(), model.backbone.net.state_dict())
    assert not torch.equal(other(image()), model(image()))  # the heads are still its own


def test_what_trains_is_found_by_structure(tmp_path):
    trunk = vitdet("VisibleOnly", "Frozen")
    trunk.blocks[0].odd = nn.BatchNorm2d(4)  # a base module with buffers
    trunk.freeze()
    assert trained_tensors(trunk) == {}
    trunk.blocks[0].odd.bias.requires_grad_(True)
    names = {f"blocks.0.odd.{n}" for n in ("bias", "running_mean", "running_var", "num_batches_tracked")}
    assert trained_tensors(trunk).keys() == names
    # Flags switched off for inference do not change what a method trains.
    full = vitdet("VisibleOnly", "Full").requires_grad_(False)
    assert trained_tensors(full).keys() == full.state_dict().keys()


def test_shared_sites_are_written_once(tmp_path):
    def build(seed):
        tuner = IVTuning(hidden_dim=8, share_sites=True)
        trunk = ViTDet(
            PromptStem(), tuner, img_size=64, embed_dim=32, depth=2, num_heads=2, global_blocks=(1,)
        )
        return randomize(trunk, seed)

    one, two = build(1), build(2)
    two.load_state_dict(
        {n: t for n, t in one.state_dict().items() if n.split(".")[0] not in ("stem", "tuner")}, strict=False
    )
    save_adapter(one, tmp_path / "a.safetensors")
    load_adapter(two, tmp_path / "a.safetensors")
    assert same(one.state_dict(), two.state_dict())
    with safe_open(tmp_path / "a.safetensors", "pt") as f:
        assert not any("adapter2" in name for name in f.keys())  # noqa: SIM118


def test_fingerprint(tmp_path):
    trunk = vitdet()
    mark = fingerprint(trunk)
    assert len(mark) == 64 and mark == fingerprint(copy.deepcopy(trunk))
    assert mark == fingerprint(copy.deepcopy(trunk).bfloat16())
    with torch.no_grad():
        trunk.tuner.blocks[0].adapter1.up.bias += 1
        assert fingerprint(trunk) == mark
        trunk.blocks[1].norm1.bias[3] += 0.1
        assert fingerprint(trunk) != mark


def test_bfloat16_file_loads_into_float32(tmp_path):
    model = step(trained_on(0, 1))
    save_adapter(model, tmp_path / "full.safetensors")
    save_adapter(model, tmp_path / "half.safetensors", dtype=torch.bfloat16)
    other = trained_on(0, 2)
    load_adapter(other, tmp_path / "half.safetensors")
    assert other.backbone.net.stem.norm.weight.dtype is torch.float32
    assert torch.equal(
        other.backbone.net.stem.norm.weight, model.backbone.net.stem.norm.weight.bfloat16().float()
    )
    mean = "roi_heads.norm.running_mean"  # running statistics keep their precision
    assert torch.equal(other.state_dict()[mean], model.state_dict()[mean])
    half, full = group_sizes(tmp_path / "half.safetensors"), group_sizes(tmp_path / "full.safetensors")
    assert half["backbone"] < 0.6 * full["backbone"]


def test_metadata(tmp_path):
    config = OmegaConf.create(
        {
            "model": {
                "backbone": {"net": {"stem": {"_target_": "x"}, "tuner": {"_target_": "y", "hidden_dim": 8}}}
            }
        },
        flags={"allow_objects": True},
    )
    model = trained_on(0, 1)
    load_weights(model, save(tmp_path / "mae.pth", mae_state()), strict=False)
    notes = {"dataset": "m3fd_scene_train", "AP": 41.5}
    save_adapter(model, tmp_path / "a.safetensors", ["backbone"], torch.bfloat16, notes, config)
    header = read_metadata(tmp_path / "a.safetensors")
    assert header["tuner"] == {
        "name": "IVTuning",
        "meaning": {"legacy_hw_swap": False},
        "revision": 1,
        "options": {"hidden_dim": 8},
    }
    assert header["stem"] == {"name": "PromptStem", "options": {}}
    assert header["widths"] == [32, 32] and header["groups"] == ["backbone"] and header["dtype"] == "bfloat16"
    assert header["fingerprint"] == fingerprint(model.backbone.net) and header["base_weights"] == "mae.pth"
    assert header["metadata"] == notes and header["format"] == 1
    assert header["versions"]["torch"] == torch.__version__


def test_options_that_no_shape_shows_are_compared(tmp_path):
    model = trained_on(0, 1, tuner="LoRA")
    save_adapter(model, tmp_path / "a.safetensors")
    load_adapter(model, tmp_path / "a.safetensors")
    model.backbone.net.tuner.alpha = 4
    with pytest.raises(UserError, match="tuner.alpha=1.0, and this tuner has 4: set model"):
        load_adapter(model, tmp_path / "a.safetensors")


def test_another_base_is_refused_with_both_names(tmp_path):
    model = trained_on(0, 1)
    save_adapter(model, tmp_path / "a.safetensors", metadata={"base_weights": "mae_a.pth"})
    other = trained_on(5, 1)
    load_weights(other, save(tmp_path / "mae_b.pth", mae_state()), strict=False)
    before = snapshot(other)
    with pytest.raises(UserError) as error:
        load_adapter(other, tmp_path / "a.safetensors")
    marks = fingerprint(model.backbone.net)[:12], fingerprint(other.backbone.net)[:12]
    assert all(word in str(error.value) for word in (*marks, "mae_a.pth", "mae_b.pth", str(tmp_path)))
    assert same(other.state_dict(), before)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: trained_on(0, 1, tuner="Frozen"), "made by tuner IVTuning, not Frozen: set "),
        (lambda: trained_on(0, 1, stem="SumStem"), "made by stem PromptStem, not SumStem"),
        (lambda: _revised(trained_on(0, 1)), "made by revision 1 of IVTuning, .*revision 2.*train it again"),
        (lambda: _wide(trained_on(0, 1)), "adapter1.down.weight: file 8x32, model 16x32; "),
        (lambda: _more_classes(trained_on(0, 1)), "2 tensors differing .task/roi_heads.*cls_score.weight"),
        (lambda: _no_heads(trained_on(0, 1)), "file 12x8, model none"),
    ],
)  # fmt: skip
def test_misfits_change_nothing(tmp_path, make, message):
    save_adapter(trained_on(0, 1), tmp_path / "a.safetensors")
    model = make()
    before = snapshot(model)
    with pytest.raises(UserError, match=message):
        load_adapter(model, tmp_path / "a.safetensors")
    assert same(model.state_dict(), before)


def _revised(model):
    model.backbone.net.tuner.revision = 2
    return model


def _wide(model):
    model.backbone.net.tuner = IVTuning(hidden_dim=16)
    model.backbone.net.tuner.attach([32, 32])
    return model


def _more_classes(model):
    model.roi_heads["box_predictor"]["cls_score"] = nn.Linear(8, 9)
    return model


def _no_heads(model):
    del model.roi_heads["box_predictor"]["bbox_pred"]
    return model


def test_files_that_are_no_adapters(tmp_path):
    model = trained_on(0, 1)
    save_adapter(model, tmp_path / "a.safetensors")
    for size in (0, 20, -100):
        (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:size])
        with pytest.raises(UserError, match="cut.safetensors: truncated, damaged"):
            load_adapter(model, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="no safetensors file"):
        load_adapter(model, save(tmp_path / "full.pth", model.state_dict()))
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not an adapter file"):
        load_adapter(model, tmp_path / "x.safetensors")
    save_file(
        {"x": torch.zeros(1)},
        tmp_path / "x.safetensors",
        {"ivtuning": json.dumps({"format": 9, "versions": {"ivtuning": "7"}})},
    )
    with pytest.raises(UserError, match="newer ivtuning .7."):
        load_adapter(model, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no file .*b.safetensors; did you mean '"):
        load_adapter(model, tmp_path / "b.safetensors")


def test_arguments_are_checked(tmp_path):
    with pytest.raises(UserError, match="groups=.'heads'.: an adapter has the groups backbone and task"):
        save_adapter(Detector(), tmp_path / "a.safetensors", groups=["heads"])
    with pytest.raises(UserError, match="ends in .safetensors"):
        save_adapter(Detector(), tmp_path / "a.pth")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        save_adapter(Detector(), tmp_path / "file" / "a.safetensors")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_adapter(trained_on(0, 1), path)
    before = path.read_bytes()

    class Full:
        def __init__(self, *args):
            self.file = open(*args)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(adapter, "open", Full, raising=False)
    with pytest.raises(OSError) as error:
        save_adapter(trained_on(0, 2), path)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_load_weights_demands_that_base_and_adapter_fill_all(tmp_path):
    base = save(tmp_path / "mae.pth", mae_state())
    model = randomize(Detector(), 1)
    load_weights(model, base, strict=False)
    save_adapter(step(model), tmp_path / "both.safetensors")
    save_adapter(model, tmp_path / "backbone.safetensors", groups=["backbone"])
    other = randomize(Detector(), 2).eval()
    report = load_weights(other, base, tmp_path / "both.safetensors")
    assert torch.equal(other(image()), model(image())) and report.fresh == []
    with pytest.raises(
        UserError, match="only the group 'backbone', and .*mae.pth lacks the rest: 15 tensors"
    ):
        load_weights(Detector(), base, tmp_path / "backbone.safetensors")
    report = load_weights(Detector(), base, tmp_path / "backbone.safetensors", strict=False)
    assert len(report.fresh) == 15
    with pytest.raises(UserError, match="holds only a trunk"):
        load_weights(Detector(), base)


def test_other_weights_under_an_adapter(tmp_path):
    model = randomize(Detector(), 1)
    load_weights(model, save(tmp_path / "mae.pth", mae_state()), strict=False)
    save_adapter(model, tmp_path / "a.safetensors")
    other = randomize(timm_vit(), 7).state_dict()
    with pytest.raises(UserError, match="base .* .mae.pth., the model has .* .timm.pth."):
        load_weights(Detector(), save(tmp_path / "timm.pth", other), tmp_path / "a.safetensors")


def test_sizes_of_vitdet_b_and_l():
    def megabytes(**options):
        with torch.device("meta"):
            trunk = ViTDet(PromptStem(), IVTuning(), **options)
        group = adapter_tensors(trunk)["backbone"].values()
        return sum(t.nbytes for t in group) / 1e6, sum(t.nbytes for t in trunk.state_dict().values()) / 1e6

    size, _ = megabytes()
    assert 14.5 < size < 15.5
    size, whole = megabytes(embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23))
    assert 34 < size < 37 and size < 0.05 * whole


def test_stems_without_tensors():
    trunk = ViTDet(VisibleOnly(), Mona(), img_size=64, embed_dim=32, depth=1, num_heads=2, global_blocks=(0,))
    assert all(n.startswith("tuner.") for n in trained_tensors(trunk))
