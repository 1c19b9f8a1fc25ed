"""The tool that writes an adapter file and its card."""

from __future__ import annotations

import json
import os

import pytest
from detectron2.config import instantiate
from helpers.tools import load_tool
from helpers.weights import randomize, same, save

from ivtuning.checkpoint import load_adapter
from ivtuning.checkpoint.adapter import group_sizes
from ivtuning.config import load_config
from ivtuning.errors import run_tool

NANO = [
    "model.backbone.net.tuner.hidden_dim=8",
    "model.backbone.net.depth=2",
    "model.backbone.net.global_blocks=[1]",
]
CONFIG = "configs/synthetic/ivtuning.py"


def export(*args):
    tool = load_tool("export_adapter")
    run_tool(tool.main, [*map(str, args), *NANO])


def test_the_tool(pairs, tmp_path, capsys):
    cfg = load_config(CONFIG, NANO)
    model = randomize(instantiate(cfg.model), 1)
    weights = save(tmp_path / "model_best.pth", {"model": model.state_dict()})
    output = tmp_path / "a.safetensors"
    common = ["--config-file", CONFIG, "--weights", weights, "--output", output]
    with pytest.raises(SystemExit, match="0"):
        export(*common, "--json", "--note", "AP=41.2", "train.init_checkpoint=some/base.pth")
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["megabytes"] == {group: size / 1e6 for group, size in group_sizes(output).items()}
    assert printed["card"] == str(tmp_path / "README.md")
    assert printed["tuner"]["options"]["hidden_dim"] == 8 and printed["base_weights"] == "base.pth"
    classes = ["person", "engine", "lamp", "sign"]
    assert printed["metadata"] == {"dataset": "synthetic_train", "classes": classes, "AP": "41.2"}
    other = randomize(instantiate(cfg.model), 1)
    randomize(other.roi_heads, 2), randomize(other.backbone.net.tuner, 3)
    load_adapter(other, output)
    assert same(other.state_dict(), model.state_dict())
    with pytest.raises(SystemExit, match="0"):
        export(*common, "--only", "backbone", "--dtype", "bf16")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and str(output) in lines[0] and lines[1].split()[0] == "backbone"
    assert group_sizes(output)["backbone"] / 1e6 < 0.6 * printed["megabytes"]["backbone"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "no.pth"], "error: no file no.pth"),
        (["--weights", "no.pth", "--note", "AP"], "error: --note takes KEY=VALUE"),
        ([], "error: the following arguments are required: --weights"),
    ],
)
def test_the_tool_on_bad_input(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit, match="1"):
        export("--config-file", CONFIG, "--output", tmp_path / "a.safetensors", *arguments)
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert os.listdir(tmp_path) == []
