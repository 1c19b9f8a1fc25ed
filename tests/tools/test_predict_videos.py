"""The tool that predicts, on videos."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("av", reason="videos need PyAV")

import av
from helpers.isolation import Case, refuse
from helpers.predicting import DETECTION, SEGMENTATION
from helpers.videos import damage, noise, write_clip

from ivtuning.errors import UserError
from ivtuning.predictor import Predictor
from ivtuning.predictor.results import prediction_of, results_of


@pytest.fixture
def scenes(pairs) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Six visible and six infrared frames, of which the last repeat."""
    folders = (next((pairs / "val").glob(f"{side}*")) for side in ("vis", "ir"))
    visible, infrared = ([np.asarray(Image.open(p)) for p in sorted(folder.iterdir())] for folder in folders)
    infrared = [image if image.ndim == 2 else image[..., 0] for image in infrared]
    return visible + visible[:2], infrared + infrared[:2]


@pytest.fixture
def clips(scenes, tmp_path) -> list[str]:
    """Flags that name the lossless videos of both; every second frame is a key frame."""
    names = [write_clip(tmp_path / f"{k}.mkv", frames, gop=2) for k, frames in enumerate(scenes)]
    return ["--vis", str(names[0]), "--ir", str(names[1])]


def predictor(weights, model: str = "boxes") -> Predictor:
    _, config, *overrides = DETECTION if model == "boxes" else SEGMENTATION
    return Predictor(config, weights[model], overrides=overrides)


def results(output: Path) -> list[dict]:
    return json.loads((output / "predictions.json").read_text())


def table(output: Path) -> list[dict]:
    with open(output / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [f.to_ndarray(format="rgb24") for f in frames], [f.time for f in frames]


def test_predictions_are_those_of_the_same_arrays(predict, clips, scenes, weights, tmp_path):
    summary = predict(*clips, "--output", tmp_path / "out", "--threshold", "0")
    model = predictor(weights)
    expected = []
    for frame, (visible, infrared) in enumerate(zip(*scenes, strict=True)):
        found = results_of(model(visible, infrared), frame, list(range(len(model.classes))))
        expected += [{**result, "frame": frame, "time": frame / 10} for result in found]
    assert results(tmp_path / "out") == expected and len(expected) > 6
    rows = table(tmp_path / "out")
    assert list(rows[0])[:4] == ["file_name", "frame", "time", "class"] and len(rows) == len(expected)
    assert [(int(r["frame"]), float(r["time"])) for r in rows] == [(e["frame"], e["time"]) for e in expected]
    assert (summary["images"], summary["skipped"]) == (6, [])
    assert summary["latency_ms"].keys() == {"p50", "p90", "p99"}


def test_label_maps_and_side_by_side(predict, scenes, weights, tmp_path):
    both = [
        np.concatenate([np.repeat(infrared[..., None], 3, 2), visible], 1)
        for visible, infrared in zip(*scenes, strict=True)
    ]
    clip = write_clip(tmp_path / "both.mkv", both)
    out = tmp_path / "out"
    predict("--vis", clip, "--split", "right-left", "--output", out, "--batch", "4", model="labels")
    model = predictor(weights, "labels")
    for result in results(out):
        labels = model(*(frames[result["frame"]] for frames in scenes))
        assert result["label_map"] == f"labels/{result['frame']:06d}.png"
        assert np.array_equal(np.asarray(Image.open(out / result["label_map"])), labels)
    assert len(results(out)) == 6


def test_16_bits_reach_the_model(predict, scenes, weights, tmp_path):
    deep = [(image.astype(np.uint16) + 300) * 20 for image in scenes[1]]
    clips = write_clip(tmp_path / "v.mkv", scenes[0]), write_clip(tmp_path / "i.mkv", deep)
    mapped = "dataloader.test.mapper.ir_range=[6000,11100]"
    predict("--vis", clips[0], "--ir", clips[1], "--output", tmp_path / "out", "--stride", "5", mapped)
    _, config, *overrides = DETECTION
    model = Predictor(config, weights["boxes"], overrides=[*overrides, mapped])
    expected = [b for k in (0, 5) for b in results_of(model(scenes[0][k], deep[k]), k, [])]
    assert [{k: r[k] for k in expected[0]} for r in results(tmp_path / "out")] == expected


@pytest.mark.parametrize("model", ["boxes", "labels"])
def test_the_drawn_video(predict, scenes, weights, tmp_path, model):
    stamps = [0, 100, 250, 300, 400, 500]
    clips = [write_clip(tmp_path / f"{k}.mkv", frames, stamps=stamps) for k, frames in enumerate(scenes)]
    out = tmp_path / "out"
    arguments = ["--vis", clips[0], "--ir", clips[1], "--output", out, "--draw", "--threshold", "0.1"]
    predict(*arguments, model=model)
    frames, times = frames_of(out / "predictions.mp4")
    assert times == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-3)
    assert {frame.shape for frame in frames} == {(72, 2 * 96, 3)}
    maker = predictor(weights, model)
    visible, infrared = scenes[0][2], scenes[1][2]
    found = maker(visible, infrared)
    expected = [maker.draw(visible, found, threshold=0.1), maker.draw(None, found, infrared, 0.1)]
    # The encoder halves the resolution of colors.
    assert np.abs(frames[2].mean(2) - np.concatenate(expected, 1).mean(2)).mean() < 8
    assert not (out / "pictures").exists()
    (out / "predictions.mp4").unlink()
    assert predict(*arguments, model=model)["images"] == 0
    assert len(frames_of(out / "predictions.mp4")[0]) == 6


def test_a_prediction_is_its_results(weights, scenes, tmp_path):
    found = predictor(weights)(scenes[0][0], scenes[1][0])
    found.pred_masks = torch.rand(len(found), *found.image_size) > 0.5
    categories = [7, 8, 9, 10]
    entry = {"results": results_of(found, 1, categories)}
    again = prediction_of(entry, tmp_path, categories, found.image_size)
    assert torch.allclose(again.pred_boxes.tensor, found.pred_boxes.tensor, atol=1e-4)
    for field in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(getattr(again, field), getattr(found, field))
    assert len(prediction_of({"results": []}, tmp_path, [], (4, 5))) == 0
    scores = torch.rand(5)
    entry = {"results": results_of(scores, 1, [])}
    assert torch.equal(prediction_of(entry, tmp_path, [], (4, 5)), scores)


def test_a_damaged_frame_ends_the_work_which_goes_on(predict, clips, tmp_path):
    predict(*clips, "--output", tmp_path / "whole", "--draw")
    out, path = tmp_path / "out", Path(clips[1])
    data, facts = path.read_bytes(), path.stat()
    damage(path, 2)
    with pytest.raises(
        UserError, match=r"0.mkv cannot be read at 0\.20 s \(frame 2\): fetch it again, or give"
    ):
        predict(*clips, "--output", out, "--draw")
    assert [p.name for p in out.iterdir()] == ["progress.jsonl"]
    assert len((out / "progress.jsonl").read_text().splitlines()) == 3
    skipping = [*clips, "--output", tmp_path / "skipping", "--draw", "--on-bad-pair", "skip", "--batch", "4"]
    summary = predict(*skipping)
    assert summary["images"] == 4 and [s["file_name"] for s in summary["skipped"]] == [clips[1]] * 2
    assert frames_of(tmp_path / "skipping/predictions.mp4")[1] == pytest.approx([0, 0.1, 0.4, 0.5])

    path.write_bytes(data)
    with pytest.raises(UserError, match="holds predictions with source="):
        predict(*clips, "--output", out, "--draw")
    _restore_times(path, facts)
    damage(path, 2)
    _restore_times(path, facts)
    shorter = tmp_path / "again"
    with pytest.raises(UserError, match=r"cannot be read at 0\.20 s"):
        predict(*clips, "--output", shorter, "--draw")
    path.write_bytes(data)
    _restore_times(path, facts)
    summary = predict(*clips, "--output", shorter, "--draw")
    assert (summary["images"], summary["finished_before"]) == (4, 2)
    for name in ("predictions.json", "predictions.csv", "predictions.mp4"):
        assert (shorter / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _restore_times(path: Path, facts) -> None:
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_frames_without_partner(predict, scenes, tmp_path):
    clips = write_clip(tmp_path / "v.mkv", scenes[0]), write_clip(tmp_path / "i.mkv", scenes[1][:4])
    arguments = ["--vis", clips[0], "--ir", clips[1], "--draw", "--output"]
    with pytest.raises(UserError, match=r"6 frames at 10/s.*4 frames at 10/s.*--sync pairs"):
        predict(*arguments, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert predict(*arguments, tmp_path / "out", "--sync")["images"] == 4
    assert predict(*arguments, tmp_path / "filled", "--sync", "model.fill_missing=mean")["images"] == 6
    frames, _ = frames_of(tmp_path / "filled/predictions.mp4")
    assert frames[4][:, 96:].mean() < 3 < frames[3][:, 96:].mean()
    with pytest.raises(UserError, match="the sample has no 'image_ir'"):
        predict("--vis", clips[0], "--output", tmp_path / "one")
    predict("--ir", clips[1], "--output", tmp_path / "one", "--draw", "model.fill_missing=mean")
    assert frames_of(tmp_path / "one/predictions.mp4")[0][0].shape == (72, 96, 3)


def _clips(folder: Path, *arguments: str) -> list[str]:
    write_clip(folder / "v.mkv", noise(3))
    write_clip(folder / "i.mkv", noise(4, channels=1))
    write_clip(folder / "small.mkv", noise(3, 24, 24, channels=1))
    write_clip(folder / "gray.mkv", noise(3, channels=1))
    (folder / "text.mp4").write_text("text")
    Image.new("L", (32, 24)).save(folder / "i.png")
    return [*DETECTION, *arguments, "--output", "out"]


TOOL = "tools/predict.py"
CASES = [
    Case(
        "unequal lengths",
        TOOL,
        lambda f: _clips(f, "--vis", "v.mkv", "--ir", "i.mkv"),
        ["3 frames", "--sync"],
    ),
    Case("no video", TOOL, lambda f: _clips(f, "--vis", "text.mp4"), ["text.mp4 cannot be read"]),
    Case("no file", TOOL, lambda f: _clips(f, "--vis", "none.mp4"), ["none.mp4", "no such file"]),
    Case(
        "a video and an image", TOOL, lambda f: _clips(f, "--vis", "v.mkv", "--ir", "i.png"), ["two videos"]
    ),
    Case("a bad split", TOOL, lambda f: _clips(f, "--vis", "v.mkv", "--split", "left"), ["left-right"]),
    Case(
        "two to split", TOOL, lambda f: _clips(f, "--vis", "v.mkv", "--ir", "i.mkv", "--split", "x"), ["one"]
    ),
    Case("sync of one", TOOL, lambda f: _clips(f, "--vis", "v.mkv", "--sync"), ["--sync pairs two videos"]),
    Case("sync of images", TOOL, lambda f: _clips(f, "--ir", "i.png", "--stride", "2"), ["go with videos"]),
    Case("no stride", TOOL, lambda f: _clips(f, "--vis", "v.mkv", "--stride", "0"), ["--stride 0"]),
    Case("workers", TOOL, lambda f: _clips(f, "--vis", "v.mkv", "--workers", "2"), ["--workers read"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_is_refused(case, tmp_path):
    refuse(case, tmp_path)


def test_sizes_and_kinds_follow_the_rules_of_images(predict, tmp_path):
    _clips(tmp_path)
    for visible, infrared, words in (
        ("v", "small", "is 32x24 but infrared .* is 24x24: align them with"),
        ("gray", "gray", "set data.gray_visible=true"),
    ):
        clips = ["--vis", tmp_path / f"{visible}.mkv", "--ir", tmp_path / f"{infrared}.mkv"]
        with pytest.raises(UserError, match=words):
            predict(*clips, "--output", tmp_path / "out")
        assert not (tmp_path / "out").exists()
