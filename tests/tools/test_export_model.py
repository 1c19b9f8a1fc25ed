"""The tool that exports a model: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from helpers.isolation import Case, refuse
from helpers.runs import TINY
from helpers.tools import load_tool

from ivtuning.config import load_config
from ivtuning.engine.run import build_model
from ivtuning.errors import UserError
from ivtuning.export.runner import OnnxModel

CONFIG = "configs/synthetic/seg_ivtuning.py"
ONE_BLOCK = ["model.backbone.net.depth=1", "model.backbone.net.global_blocks=[0]"]
SMALL = [*TINY[:3], *ONE_BLOCK, "train.init_checkpoint=", "train.device=cpu"]
TOOL = "tools/export_model.py"


@pytest.mark.slow
def test_a_config_becomes_a_file(pairs, tmp_path, capsys):
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, SMALL))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    output = tmp_path / "model.onnx"
    arguments = ["--config-file", CONFIG, "--weights", str(tmp_path / "model.pth"), "--output", str(output)]
    load_tool("export_model").main([*arguments, "--size", "96x72", "--check", "2", *SMALL, "--json"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["bytes"] == output.stat().st_size and summary["pairs"] == 2
    assert any(line.startswith("probabilities: relative error") for line in summary["check"])
    session = OnnxModel(output)
    assert session.metadata["config"] == CONFIG and session.metadata["overrides"] == SMALL
    assert len(session.classes) == 5 and session.size == (72, 96)
    black = np.zeros((1, 3, 72, 96), np.uint8)
    assert session(black, black)["label_map"].shape == (1, 72, 96)


def arguments(*more: str, size: str = "96x72", output: str = "model.onnx") -> list[str]:
    start = ["--config-file", CONFIG, "--weights", "none.pth", "--output", output, "--size", size]
    return [*start, *more, *SMALL]


CASES = [
    Case("no weights", TOOL, lambda f: arguments(), ["no file none.pth"]),
    Case("another suffix", TOOL, lambda f: arguments(output="m.engine"), ["m.engine", ".onnx or .pt2"]),
    Case("another format", TOOL, lambda f: arguments("--format", "pt2"), ["model.onnx", "ends in .pt2"]),
    Case("a misspelled format", TOOL, lambda f: arguments("--format", "onx"), ["did you mean 'onnx'"]),
    Case("a size in one number", TOOL, lambda f: arguments(size="640"), ["--size 640", "width x height"]),
    Case("a size of nothing", TOOL, lambda f: arguments(size="0x72"), ["--size 0x72"]),
    Case("no batch", TOOL, lambda f: arguments("--batch", "0"), ["--batch 0", "at least 1"]),
    Case("another dynamic part", TOOL, lambda f: arguments("--dynamic", "sise"), ["--dynamic sise", "size"]),
    Case(
        "another precision", TOOL, lambda f: arguments("--precision", "fp8"), ["--precision fp8", "fp32 or"]
    ),
    Case("another stage", TOOL, lambda f: arguments("--stage", "detection"), ["did you mean 'detections'"]),
    Case("a negative check", TOOL, lambda f: arguments("--check", "-1"), ["--check -1"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_ends_with_one_line(case, tmp_path):
    refuse(case, tmp_path)


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'ivtuning\[export\]'"):
        load_tool("export_model").main(arguments(output=str(tmp_path / "m.onnx")))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, SMALL))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    (tmp_path / "file").write_text("")
    given = ["--config-file", CONFIG, "--weights", str(tmp_path / "model.pth"), "--size", "96x72"]
    with pytest.raises(UserError, match="file/sub cannot be written"):
        load_tool("export_model").main([*given, "--output", str(tmp_path / "file/sub/m.onnx"), *SMALL])
