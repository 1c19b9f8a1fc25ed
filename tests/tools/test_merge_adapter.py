"""Base and adapter in one file of weights."""

from __future__ import annotations

import os
import re

import pytest
import torch
from helpers.tiny import detector
from helpers.tools import load_tool

from ivtuning.checkpoint import load_pretrained, load_weights, save_adapter
from ivtuning.errors import run_tool

CONFIG = "configs/synthetic/ivtuning.py"
SMALL = [
    "model.backbone.net.embed_dim=24",
    "model.backbone.net.num_heads=2",
    "model.backbone.out_channels=16",
    "model.roi_heads.box_head.conv_dims=[16]",
    "model.roi_heads.box_head.fc_dims=[32]",
]


def overrides(tuner: str, stem: str = "VisibleOnly") -> list[str]:
    named = [f"model.backbone.net.tuner={tuner}", f"model.backbone.net.stem={stem}"]
    return named + (["model.backbone.net.tuner.rank=4"] if tuner == "LoRA" else [])


def merge(*arguments, tuner: str = "LoRA", stem: str = "VisibleOnly"):
    tool = load_tool("merge_adapter")
    common = ["--config-file", CONFIG, *map(str, arguments), *SMALL, *overrides(tuner, stem)]
    with pytest.raises(SystemExit) as end:
        run_tool(tool.main, common)
    return end.value.code


def trained(folder, tuner: str = "LoRA", stem: str = "VisibleOnly", groups=("backbone", "task")):
    """A tuned detector, with its base in base.pth and its adapter in a.safetensors."""
    model = detector(*overrides(tuner, stem)).eval()
    net = model.backbone.net
    base = {n: t for n, t in net.state_dict().items() if n.split(".")[0] not in ("stem", "tuner")}
    torch.save(base, folder / "base.pth")
    load_pretrained(model, folder / "base.pth")
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder / "a.safetensors", groups=groups)
    return model


def files(folder, adapter: str = "a.safetensors", output: str = "merged.pth"):
    return "--weights", folder / "base.pth", "--adapter", folder / adapter, "--output", folder / output


def features(backbone) -> torch.Tensor:
    images = torch.randn(1, 6, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return torch.cat([f.flatten() for f in backbone(images).values()])


@pytest.mark.parametrize(
    "tuner, stem", [("LoRA", "VisibleOnly"), ("LoRA", "PromptStem"), ("BitFit", "SumStem")]
)
def test_merged_weights_alone_do_what_base_and_adapter_do(tmp_path, capsys, tuner, stem):
    model = trained(tmp_path, tuner, stem)
    assert merge(*files(tmp_path), tuner=tuner, stem=stem) == 0
    assert "the whole model; use it with model.backbone.net.tuner=Frozen" in capsys.readouterr().out
    other = detector(*overrides("Frozen", stem)).eval()
    load_pretrained(other, tmp_path / "base.pth")
    assert (features(other.backbone) - features(model.backbone)).abs().max() > 1e-2
    load_weights(other, tmp_path / "merged.pth")  # strict: it fills the whole model
    assert torch.allclose(features(other.backbone), features(model.backbone), atol=1e-4)
    heads = model.roi_heads.state_dict()
    assert all(torch.equal(tensor, heads[name]) for name, tensor in other.roi_heads.state_dict().items())


def test_an_adapter_of_the_backbone_gives_a_trunk(tmp_path, capsys):
    trained(tmp_path, groups=("backbone",))
    assert merge(*files(tmp_path)) == 0
    assert "without neck and heads" in capsys.readouterr().out
    names = torch.load(tmp_path / "merged.pth")["model"].keys()
    assert names == {f"backbone.net.{n}" for n in torch.load(tmp_path / "base.pth")}


def undo(folder, adapter="a.safetensors", weights="merged.pth", **kwargs):
    paths = "--weights", folder / weights, "--adapter", folder / adapter, "--output", folder / "back.pth"
    return merge("--undo", *paths, **kwargs)


@pytest.mark.parametrize("groups", [("backbone", "task"), ("backbone",)])
def test_merged_weights_give_the_base_back(tmp_path, capsys, groups):
    trained(tmp_path, groups=groups)
    assert merge(*files(tmp_path)) == 0
    before = features(loaded(tmp_path / "merged.pth").backbone.net)
    capsys.readouterr()
    assert undo(tmp_path) == 0
    assert "the base again, up to rounding; it takes the adapter" in capsys.readouterr().out
    base, back, merged = (torch.load(tmp_path / f"{n}.pth") for n in ("base", "back", "merged"))
    base = {f"backbone.net.{n}": tensor for n, tensor in base.items()}
    assert back["model"].keys() == merged["model"].keys() and back.keys() == {"model"}
    assert all((back["model"][n] - tensor).abs().max() < 1e-6 for n, tensor in base.items())
    assert any((merged["model"][n] - tensor).abs().max() > 1e-3 for n, tensor in base.items())
    tuned = loaded(tmp_path / "back.pth", tmp_path / "a.safetensors", "LoRA")
    assert torch.allclose(features(tuned.backbone.net), before, atol=1e-4)


def loaded(weights, adapter=None, tuner="Frozen"):
    model = detector(*overrides(tuner)).eval()
    load_weights(model, weights, adapter, strict=False)
    return model


def test_what_was_not_merged_is_not_taken_out(tmp_path, capsys):
    trained(tmp_path)
    assert merge(*files(tmp_path)) == 0
    model = loaded(tmp_path / "base.pth", tmp_path / "a.safetensors", "LoRA")
    model.backbone.net.tuner.updates[0]["q"].lora_B.data += 1
    save_adapter(model, tmp_path / "b.safetensors")
    capsys.readouterr()
    for arguments, message in (
        (dict(weights="base.pth"), "base.pth: was not written by merging"),
        (dict(adapter="b.safetensors"), "merged.pth: another adapter is merged into it, not .*b.safetens"),
    ):
        assert undo(tmp_path, **arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(message, line)
    assert not (tmp_path / "back.pth").exists()


@pytest.mark.parametrize("tuner", ["BitFit", "Frozen"])
def test_a_replaced_base_cannot_be_taken_out(tmp_path, capsys, tuner):
    trained(tmp_path, tuner)
    assert merge(*files(tmp_path), tuner=tuner) == 0
    capsys.readouterr()
    assert undo(tmp_path, tuner=tuner) == 1
    assert f"{tuner} added nothing that could be taken out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tuner, groups, arguments, message",
    [
        ("Mona", ("backbone",), {}, "Mona cannot be merged into the base: its adapters hold convolutions"),
        ("Adapter", ("backbone",), {}, "Adapter cannot be merged into the base: its bottleneck holds"),
        ("LoRA", ("task",), {}, "a.safetensors: holds the group 'task' alone"),
        ("LoRA", ("task",), dict(adapter="b.safetensors"), "no file"),
        ("LoRA", ("backbone",), dict(output="merged.safetensors"), "ends in .pth"),
    ],
)
def test_what_cannot_be_merged_ends_in_one_line(tmp_path, capsys, tuner, groups, arguments, message):
    trained(tmp_path, tuner, groups=groups)
    before = sorted(os.listdir(tmp_path))
    assert merge(*files(tmp_path, **arguments), tuner=tuner) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert sorted(os.listdir(tmp_path)) == before


def test_another_tuner_than_the_adapters_is_refused(tmp_path, capsys):
    trained(tmp_path)
    assert merge(*files(tmp_path), tuner="Frozen") == 1
    assert "made by tuner LoRA, not Frozen" in capsys.readouterr().err
