"""The tool: its parts, its JSON, and what it refuses. Nothing here is timed."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from helpers.tools import line_of, load_tool

from ivtuning.benchmark import report
from ivtuning.benchmark.parts import startup
from ivtuning.benchmark.report import ROWS
from ivtuning.benchmark.subjects import trunks
from ivtuning.tuning import Full, IVTuning
from ivtuning.tuning.stems import PromptStem, SumStem

NANO = ["--trunk", "vitdet_nano", "--depth", "2", "--repeats", "1", "--no-1024"]


def test_absolute_figures_stand_below_the_ratios():
    times = {"a": [0.25, 0.5, 1.0]}
    listing = report.absolute(["a", "b"], times, 4, "ms", {"saved GB": {"a": 10**9, "b": 2 * 10**9}})
    assert listing.head == ["run", "ms", "images/s", "saved GB"]
    assert listing.lines == [["a", "500.0", "8.0", "1.00"], ["b", "out of memory", "", "2.00"]]
    result = report.Result("so", listings=[listing])
    where = {"device": "d", "threads": 1, "torch": "t", "repeats": 3}
    lines = report.table("part", result, where).splitlines()
    assert lines[4].split() == ["|", "run", "|", "ms", "|", "images/s", "|", "saved", "GB", "|"]  # no rows
    result.rows["infer_over_trunk"] = report.Row(1.0)
    assert [line for line in report.table("part", result, where).splitlines() if not line][2:] == [""]


def test_profile_of_both_methods(capsys):
    load_tool("benchmark").main(["profile", *NANO[:-1], "--json"])
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])["raw"]["profile"]
    for method in ("IV-tuning", "full fine-tuning"):
        rows = result[method]["kernels"]
        assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
        assert result[method]["calls"] == sum(row["calls"] for row in rows)
        shown = out.split(f"\n{method}\n\n")[1].split("\n\n")[0].splitlines()
        assert len(shown) == 12 and shown[2].startswith(f"| {rows[0]['name']} ")
        # Once a step, and the optimizer's own mark, which spans it, is no operator.
        names = {row["name"]: row["calls"] for row in rows}
        assert names["aten::_fused_adamw_"] == 1
        assert not any(name.startswith("Optimizer.step") for name in names)
    assert "operators a step" in out


@pytest.mark.slow
def test_tool_measures_all(monkeypatch, capsys):
    monkeypatch.setattr(startup.subprocess, "run", lambda *args, **kwargs: None)  # each start takes seconds
    load_tool("benchmark").main(["all", *NANO, "--tokens", "6", "--images", "4", "--pairs", "2", "--json"])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert list(result)[: len(ROWS)] == list(ROWS)
    others = "growth", "distributed", "neighbor", "model", "predict", "export", "alternatives", "oriented"
    asked = [key for key in ROWS if key.split("_")[0] not in others]
    assert all(isinstance(result[key], float) or result["notes"][key] == "left out" for key in asked)
    assert result["step_over_reference_1024"] is None
    assert result["floor"] == result["raw"]["step"]["flops"]["ratio"]
    assert result["raw"]["data"]["images_per_second"]["loader"] > 0
    assert result["raw"]["adapters"]["bytes"]["adapter"] < result["raw"]["adapters"]["bytes"]["checkpoint"]
    assert "cut to 2 blocks, 48 x 48 px, batch 1, fp32" in result["conditions"]["step"]
    assert result["machine"]["threads"] == torch.get_num_threads()
    for key in asked:
        assert sum(line.startswith(f"| {key} ") for line in lines) == 1
    low, high = result["spread"]["infer_over_trunk"]
    assert low <= result["infer_over_trunk"] <= high


@pytest.mark.slow
def test_growth_in_counted_bytes_and_its_picture(tmp_path, capsys):
    argv = ["growth", "--trunk", "vitdet_nano", "--repeats", "1", "--plot", str(tmp_path / "g.png"), "--json"]
    load_tool("benchmark").main(argv)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    depth = result["raw"]["growth"]["depth"]
    assert depth["axis"] == [2, 4, 6, 8] and depth["bytes"].keys() == depth["seconds"].keys()
    for method, kept in depth["bytes"].items():
        # Every block keeps the same, whatever the others do; the stem's share is beside it.
        assert kept[3] - kept[2] == kept[2] - kept[1] == kept[1] - kept[0] > 0, method
    for key in ("step_pixels", "memory_pixels", "step_depth", "memory_depth"):
        assert isinstance(result[f"growth_{key}"], float)
    assert 0.5 < result["growth_memory_depth"] < 1  # the stem does not grow
    assert result["raw"]["growth"]["pixels"]["axis"] == [144, 576, 1296, 2304, 5184]
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_distributed_counts_the_bytes_of_what_trains(capsys):
    argv = ["distributed", "--trunk", "vitdet_nano", "--depth", "2", "--repeats", "1", "--json"]
    load_tool("benchmark").main(argv)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    runs = result["raw"]["distributed"]["runs"]
    assert [(r["processes"], r["threads"]) for r in runs][0::2] == [(1, 1), (2, 1)]
    assert all(r["samples_per_second"]["full"] > 0 for r in runs)
    for kind, stem, tuner in (("iv", PromptStem(), IVTuning()), ("full", SumStem(), Full())):
        trunk = trunks.build("vitdet_nano", stem, tuner, 2)
        assert runs[-1]["bytes"][kind] == sum(p.nbytes for p in trunk.parameters() if p.requires_grad)
    assert result["distributed_bytes_ratio"] == runs[-1]["bytes"]["iv"] / runs[-1]["bytes"]["full"]
    assert result["distributed_speedup"] > 0 and result["distributed_reduce_share"] < 1


def test_one_part_leaves_the_others_null(capsys):
    load_tool("benchmark").main(["infer", *NANO, "--size", "32", "48", "--dtype", "bf16", "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [key for key in ROWS if result[key] is not None] == ["infer_over_trunk"]
    assert result["notes"]["step_over_full"] == "not asked for"
    assert "32 x 48 px, batch 1, bf16" in result["conditions"]["infer"]


def test_loader_of_a_registered_set(pairs, capsys):
    argv = ["data", "--dataset", "synthetic_train", "--pairs", "4", "--batch", "2", "--repeats", "1"]
    load_tool("benchmark").main(argv)
    assert "synthetic_train, 4 of them a round, batch 2, 0 workers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["step", "--trunk", "swin_x"], "no trunk is called 'swin_x'"),
        (["infer", "--trunk", "vitdet_b", "--depth", "5"], "--depth 5: give a multiple of 3"),
        (["step", "--repeats", "0"], "give a whole number from 1"),
        (["setp"], "invalid choice: 'setp'"),
        (["step", "--bogus"], "unrecognized arguments: --bogus"),
        (["infer", "--size", "0"], "--size 0: give one side"),
        (["infer", "--size", "x=1"], "give one side"),
        (["infer", "--size", "1", "2", "3"], "--size 1 2 3: give one side, or height and width"),
        (["data", "--workers", "-1"], "--workers -1: give 0 or more"),
        (["distributed", "--processes", "1"], "--processes 1: give 2 or more"),
        (["model"], "model needs --config-file FILE"),
        (["model", "--config-file", "configs/synthetic/dino.py"], "configs/synthetic/dino_ivtuning.py"),
        (["model", "--config-file", "x.py", "--dtype", "bf16"], "--dtype does not go with model"),
        (["predict", "--dtype", "bf16"], "--dtype does not go with predict, which runs in fp32"),
        (["export", "--dtype", "bf16"], "--dtype does not go with export, which runs in fp32"),
        (["model", "--config-file", "x.py", "--depth", "3"], "--depth does not go with model"),
        (
            ["infer", "--config-file", "x.py"],
            "'--config-file x.py' goes with the parts model, predict and export",
        ),
        (
            ["step", "--batch", "2", "train.seed=1"],
            "'train.seed=1' goes with the parts model, predict and export",
        ),
        (["data", "--dataset", "synthetic_trian"], "synthetic_train"),
        (["data", "--dataset", "synthetic_train", "--batch", "99"], "give a smaller --batch"),
    ],
)
def test_bad_input(pairs, capsys, argv, words):
    assert words in line_of(capsys, argv, "benchmark")


def test_help_needs_no_torch(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # its import would fail
    with pytest.raises(SystemExit) as exit:
        load_tool("benchmark").main(["--help"])
    assert exit.value.code == 0
    assert "tools/benchmark.py step --trunk vitdet_b" in capsys.readouterr().out


def test_overrides_may_stand_behind_the_size():
    argv = ["model", "--config-file", "c.py", "--size", "128", "train.precision=bf16", "train.seed=1"]
    args = load_tool("benchmark").parse(argv)
    assert args.size == [128] and args.overrides == ["train.precision=bf16", "train.seed=1"]
