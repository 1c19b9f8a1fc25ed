"""The tool that exports a model, the tools that use its file, and what they refuse."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.isolation import Case, refuse
from helpers.runs import TINY, untrained
from helpers.tools import load_tool
from helpers.videos import noise, write_clip
from PIL import Image

from ivtuning.checkpoint.header import adapter_classes
from ivtuning.config import load_config
from ivtuning.data.datasets.detection import register_known
from ivtuning.engine.run import build_model
from ivtuning.errors import UserError
from ivtuning.export import runner
from ivtuning.export.runner import OnnxModel
from ivtuning.predictor import Predictor, QueryTracer
from ivtuning.predictor.classes import model_classes
from ivtuning.report.page import write_report
from ivtuning.report.runs import read_run

CONFIG = "configs/synthetic/seg_ivtuning.py"
ONE_BLOCK = ["model.backbone.net.depth=1", "model.backbone.net.global_blocks=[0]"]
SMALL = [*TINY[:3], *ONE_BLOCK, "train.init_checkpoint=", "train.device=cpu"]
TOOL, TRAIN, PREDICT = "tools/export_model.py", "tools/train_net.py", "tools/predict.py"
DRAW = "tools/visualize.py"
open_file = runner._open
SOME = ["--vis", "a.png", "--ir", "b.png", "--output", "out"]


@pytest.fixture(scope="module")
def exported(synthetic, tmp_path_factory) -> tuple[Path, Path, dict]:
    """Weights, the ONNX file that the tool made of them, and what it printed."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, SMALL))
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    output = folder / "model.onnx"
    given = ["--config-file", CONFIG, "--weights", str(folder / "model.pth"), "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setenv("DETECTRON2_DATASETS", str(synthetic))
        register_known()
        load_tool("export_model").main([*given, "--size", "96x72", "--check", "2", *SMALL, "--json"])
    register_known()
    return folder / "model.pth", output, json.loads(out.getvalue().splitlines()[-1])


@pytest.mark.slow
def test_a_config_becomes_a_file(exported):
    _, output, summary = exported
    assert summary["bytes"] == output.stat().st_size and summary["pairs"] == 2
    assert any(line.startswith("probabilities: relative error") for line in summary["check"])
    session = OnnxModel(output)
    assert session.metadata["config"] == CONFIG and session.metadata["overrides"] == SMALL
    assert len(session.classes) == 5 and session.size == (72, 96)
    black = np.zeros((1, 3, 72, 96), np.uint8)
    assert session(black, black)["label_map"].shape == (1, 72, 96)


@pytest.mark.slow
def test_a_file_has_the_figures_of_its_weights(exported, pairs, tmp_path):
    weights, file, _ = exported
    train_net = load_tool("train_net").main
    results = untrained(tmp_path / "out", CONFIG, *SMALL) / "results.json"
    output = f"train.output_dir={results.parent}"
    train_net(["--config-file", CONFIG, "--eval-only", "--weights", str(weights), *SMALL, output])
    wanted = json.loads(results.read_text())["results"]["sem_seg"]
    train_net(["--eval-only", "--onnx", str(file), output])  # its own config and overrides
    content = json.loads(results.read_text())
    assert content["onnx"] == str(file) and content.keys() == {"onnx", "test", "results"}
    found = content["results"]["sem_seg"]
    assert found.keys() == wanted.keys() and found["mIoU"] > 0
    assert all(value is None or abs(found[key] - value) < 0.1 for key, value in wanted.items())
    page = write_report([read_run(results.parent)], tmp_path / "report.html", pairs=0).read_text()
    assert "What follows is of model.onnx, on the 4 images" in page and "where the evaluation had" not in page


@pytest.mark.slow
def test_a_file_predicts_what_its_weights_predict(exported, pairs, tmp_path, caplog):
    weights, file, _ = exported
    common = ["--dataset", "synthetic_seg_val", "--batch", "2"]
    predict = load_tool("predict").main
    start = ["--config-file", CONFIG, "--weights", str(weights), *SMALL]
    predict([*start, *common, "--output", str(tmp_path / "torch")])
    predict(["--onnx", str(file), *common, "--output", str(tmp_path / "onnx"), "--draw"])
    labels = sorted((tmp_path / "torch" / "labels").iterdir())
    assert len(labels) == len(list((tmp_path / "onnx" / "pictures").iterdir())) == 4
    for path in labels:
        same = np.asarray(Image.open(path)) == np.asarray(Image.open(tmp_path / "onnx/labels" / path.name))
        assert same.mean() > 0.999

    predictor = Predictor.from_onnx(file)
    assert len(predictor.classes) == 5
    rng = np.random.default_rng(0)
    visible, infrared = rng.integers(0, 256, (72, 96, 3), np.uint8), rng.integers(0, 256, (72, 96), np.uint8)
    wanted = Predictor(CONFIG, weights, overrides=SMALL)(visible, infrared)
    assert (predictor(visible, infrared) == wanted).mean() > 0.999
    assert "was exported from" not in caplog.text
    # Its own config, by another name.
    cfg = load_config(CONFIG, SMALL)
    assert (Predictor.from_onnx(file, cfg, device="cpu")(visible, infrared) == wanted).mean() > 0.999


@pytest.mark.slow
def test_a_file_predicts_folders_and_videos_and_draws(exported, pairs, tmp_path, monkeypatch):
    file, predict, opened = str(exported[1]), load_tool("predict").main, []
    frames = {name: noise(2, 72, 96, channels=channels) for name, channels in (("vis", 3), ("ir", 1))}
    for name, images in frames.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
        write_clip(tmp_path / f"{name}.mkv", images)
    monkeypatch.setattr(runner, "_open", lambda *args, **kw: opened.append(kw) or open_file(*args, **kw))
    runner._read.cache_clear()
    for suffix in "", ".mkv":
        paths = [str(tmp_path / f"{name}{suffix}") for name in frames]
        output = tmp_path / f"found{suffix}"
        predict(["--onnx", file, "--vis", paths[0], "--ir", paths[1], "--output", str(output)])
        assert len(list((output / "labels").iterdir())) == 2
    # Its metadata were read once, and it was opened to run in each command.
    assert opened == [{"optimize": False}, {}, {}]

    draw = ["--dataset", "synthetic_seg_val", "--limit", "1", "--output", str(tmp_path / "drawn")]
    load_tool("visualize").main(["--onnx", file, *draw])
    page = (tmp_path / "drawn" / "index.html").read_text()
    assert file in page and CONFIG in page


@pytest.mark.slow
def test_a_file_of_another_config_is_refused(exported, pairs, tmp_path, caplog):
    file = str(exported[1])
    boxes = "configs/synthetic/ivtuning.py"
    with pytest.raises(UserError, match="predicts label maps, and synthetic_val has boxes"):
        load_tool("train_net").main(["--config-file", boxes, "--eval-only", "--onnx", file])
    assert "was exported from configs/synthetic/seg_ivtuning.py, not from" in caplog.text
    with pytest.raises(UserError, match="takes pairs, and the config's model visible images alone"):
        Predictor.from_onnx(file, overrides=["model.pixel_mean=[1,2,3]", "model.pixel_std=[1,2,3]"])
    renamed = tmp_path / "renamed.onnx"
    model = onnx.load(file)
    for entry in model.metadata_props:
        if entry.key == "config":
            entry.value = "configs/my/own.py"
        if entry.key == "classes":
            entry.value = '["a", "b", "c", "d", "e"]'
    onnx.save(model, renamed)
    with pytest.raises(UserError, match="exported from configs/my/own.py, and no config file.*another one"):
        Predictor.from_onnx(renamed)
    with pytest.raises(UserError, match="has the classes a, b, c, d, e, and the config's sets background, "):
        load_tool("train_net").main(["--config-file", CONFIG, "--eval-only", "--onnx", str(renamed), *SMALL])
    with pytest.raises(UserError, match="has the classes a, b, c, d, e, and the config's sets background, "):
        Predictor.from_onnx(renamed, CONFIG, overrides=SMALL)
    with pytest.raises(UserError, match="predicts label maps, and synthetic_val has boxes"):
        Predictor.from_onnx(file, boxes)
    with pytest.raises(UserError, match="tells nothing of its queries"):
        QueryTracer.from_onnx(file)


def test_an_adapters_own_classes_come_first(pairs, monkeypatch):
    """Those of a set that stands in for the training set may be in another order."""
    cfg = load_config(CONFIG, SMALL)
    header = {"metadata": {"classes": ["sign", "person"]}}, {}
    monkeypatch.setattr("ivtuning.checkpoint.header.read_adapter", lambda *args, **options: header)
    assert model_classes(cfg, adapter_classes("a.safetensors")) == ["sign", "person"]
    assert model_classes(cfg, adapter_classes(None)) == ["background", "person", "engine", "lamp", "sign"]


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
    Case("no exported file", TRAIN, lambda f: ["--eval-only", "--onnx", "a.onnx"], ["no file a.onnx"]),
    Case("a file to train", TRAIN, lambda f: ["--onnx", "a.onnx"], ["--onnx goes with --eval-only"]),
    Case(
        "a file and weights",
        TRAIN,
        lambda f: ["--eval-only", "--onnx", "a.onnx", "--weights", "w.pth"],
        ["leave out --weights"],
    ),
    Case("neither config nor file", TRAIN, lambda f: ["--eval-only"], ["required: --config-file"]),
    Case("nothing that predicts", PREDICT, lambda f: SOME, ["--config-file, or --onnx"]),
    Case("no file that predicts", PREDICT, lambda f: ["--onnx", "a.onnx", *SOME], ["no file a.onnx"]),
    Case(
        "a file in another precision",
        PREDICT,
        lambda f: ["--onnx", "a.onnx", "--precision", "bf16", *SOME],
        ["--precision bf16"],
    ),
    Case("no file to draw with", DRAW, lambda f: ["--onnx", "a.onnx", *SOME], ["no file a.onnx"]),
    Case(
        "a file's curves",
        DRAW,
        lambda f: ["--onnx", "a.onnx", "--curves", ".", "--output", "out"],
        ["--onnx goes with --dataset"],
    ),
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
