"""The tool that predicts sets, folders and pairs: its files, going on after a stop, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from helpers.isolation import Case, refuse
from helpers.predicting import DETECTION, SEGMENTATION
from PIL import Image

from ivtuning.config import load_config
from ivtuning.data.catalog import unregister
from ivtuning.engine import run
from ivtuning.errors import UserError
from ivtuning.predictor import Predictor


@pytest.fixture
def folders(pairs, tmp_path) -> list[str]:
    """Flags that name copies of the validation images: four visible images and their partners."""
    for side in ("vis", "ir"):
        (source,) = (pairs / "val").glob(f"{side}*")
        shutil.copytree(source, tmp_path / side)
    return ["--vis", str(tmp_path / "vis"), "--ir", str(tmp_path / "ir")]


def read(output: Path):
    """(predictions.json, lines of predictions.csv, summary.json)."""
    with open(output / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    contents = [json.loads((output / name).read_text()) for name in ("predictions.json", "summary.json")]
    return contents[0], rows, contents[1]


def spoil(path: Path) -> bytes:
    """Cut off a file; returns what it was."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return data


def test_results_of_a_set_are_the_evaluators(predict, weights, tmp_path):
    summary = predict("--dataset", "synthetic_val", "--output", tmp_path / "out", "--threshold", "0.0")
    _, config, *overrides = DETECTION
    cfg = load_config(config, [*overrides, f"dataloader.evaluator.output_dir={tmp_path / 'eval'}"])
    run.evaluate(cfg, run.load_model(cfg, weights["boxes"]))
    expected = json.loads((tmp_path / "eval/coco_instances_results.json").read_text())
    results, rows, stored = read(tmp_path / "out")
    assert results == expected and len(results) > 4
    assert len(rows) == len(results)
    names = {c["id"]: c["name"] for c in stored["categories"]}
    assert [row["class"] for row in rows] == [names[r["category_id"]] for r in results]
    assert [float(row["x"]) for row in rows] == pytest.approx([r["bbox"][0] for r in results], abs=0.006)
    assert summary == {"output": str(tmp_path / "out"), **stored}
    assert (stored["images"], stored["skipped"], stored["predicts"]) == (4, [], "boxes")
    assert stored["latency_ms"].keys() == {"p50", "p90", "p99"} and stored["images_per_second"] > 0


def test_folders_give_file_names_and_pictures(predict, folders, tmp_path):
    out = tmp_path / "out"
    predict(*folders, "--output", out, "--draw", "--batch", "3", "--workers", "1", "--threshold", "0.1")
    results, rows, _ = read(out)
    names = sorted(path.name for path in (tmp_path / "vis").iterdir())
    assert [r["image_id"] for r in results] == sorted(r["image_id"] for r in results)
    assert {r["image_id"] for r in results} == set(names)
    assert len(rows) == sum(r["score"] >= 0.1 for r in results)
    pictures = sorted((out / "pictures").iterdir())
    assert [p.stem for p in pictures] == [Path(n).stem for n in names]
    assert np.asarray(Image.open(pictures[0])).shape[1] > 3 * 512


def test_label_maps_are_the_predictors(predict, folders, weights, tmp_path):
    out = tmp_path / "out"
    predict(*folders, "--output", out, model="labels")
    results, rows, summary = read(out)
    _, config, *overrides = SEGMENTATION
    predict = Predictor(config, weights["labels"], overrides=overrides)
    for result in results:
        labels = np.asarray(Image.open(out / result["label_map"]))
        visible, infrared = result["file_name"], result["file_name"].replace("/vis/", "/ir/")
        assert labels.dtype == np.uint8 and np.array_equal(labels, predict(visible, infrared))
        assert dict(result["pixels"]) == {k: int((labels == k).sum()) for k in np.unique(labels)}
    assert len(results) == 4 and summary["predicts"] == "labels"
    assert sum(int(row["pixels"]) for row in rows) == 4 * 72 * 96
    assert {row["class"] for row in rows} <= set(predict.classes)


def test_one_camera_alone(predict, folders, tmp_path):
    with pytest.raises(UserError, match="the sample has no 'image_ir'.*fill_missing=mean"):
        predict(*folders[:2], "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for flags, name in ((folders[:2], "vis"), (folders[2:], "ir")):
        summary = predict(*flags, "model.fill_missing=mean", "--output", tmp_path / f"{name}_out")
        assert summary["images"] == 4


def test_a_stopped_command_goes_on(predict, folders, tmp_path, monkeypatch):
    predict(*folders, "--output", tmp_path / "whole")
    bad = sorted((tmp_path / "vis").iterdir())[2]
    data = spoil(bad)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"{bad} cannot be read"):
        predict(*folders, "--output", out)
    assert [p.name for p in out.iterdir()] == ["progress.jsonl"]
    journal = out / "progress.jsonl"
    assert len(journal.read_text().splitlines()) == 3
    with open(journal, "a") as file:
        file.write('{"image_id": "cut o')
    with pytest.raises(UserError, match="holds predictions with batch=1, not 2: give the same options"):
        predict(*folders, "--output", out, "--batch", "2")
    with pytest.raises(UserError, match="with overrides="):
        predict(*folders, "--output", out, "train.seed=3")

    bad.write_bytes(data)
    seen = []
    run_batch = Predictor.run
    monkeypatch.setattr(Predictor, "run", lambda self, xs: seen.extend(xs) or run_batch(self, xs))
    summary = predict(*folders, "--output", out)
    assert (summary["images"], summary["finished_before"], len(seen)) == (2, 2, 2)
    for name in ("predictions.json", "predictions.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert journal.read_text() == (tmp_path / "whole/progress.jsonl").read_text()
    summary = predict(*folders, "--output", out)
    assert (summary["images"], summary["finished_before"], len(seen)) == (0, 4, 2)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_bad_pairs_can_be_left_out(predict, folders, tmp_path, workers):
    bad = sorted((tmp_path / "ir").iterdir())[0]
    data = spoil(bad)
    out = tmp_path / "out"
    arguments = [*folders, "--output", out, "--workers", workers, "--batch", "2", "--on-bad-pair", "skip"]
    summary = predict(*arguments)
    assert summary["images"] == 3 and len(summary["skipped"]) == 1
    assert f"{bad} cannot be read" in summary["skipped"][0]["why"]
    bad.write_bytes(data)
    assert predict(*arguments)["images"] == 1
    assert len({r["image_id"] for r in read(out)[0]}) == 4
    for path in (tmp_path / "vis").iterdir():
        spoil(path)
    with pytest.raises(UserError, match="none of the 4 pairs can be read: "):
        predict(*folders, "--output", tmp_path / "none", "--on-bad-pair", "skip")
    assert not (tmp_path / "none").exists()


def test_a_json_file_is_a_set(predict, pairs, tmp_path):
    content = json.loads((pairs / "annotations/val.json").read_text())
    content["categories"].reverse()
    for category in content["categories"]:
        category["id"] += 10
    for box in content["annotations"]:
        box["category_id"] += 10
    content["info"] = {"image_root": "elsewhere"}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    predict("--dataset", "synthetic_val", "--output", tmp_path / "known")
    summary = predict("--dataset", tmp_path / "mine.json", "--images", pairs, "--output", tmp_path / "mine")
    expected, results = (read(tmp_path / name)[0] for name in ("known", "mine"))
    assert [r["category_id"] - 10 for r in results] == [r["category_id"] for r in expected]
    assert summary["images"] == len(DatasetCatalog.get("synthetic_val"))
    unregister(str(tmp_path / "mine.json"))


def test_the_images_of_a_json_are_where_training_looks_for_them(predict, pairs, tmp_path):
    content = json.loads((pairs / "annotations/val.json").read_text())
    content.pop("info", None)
    shutil.copytree(pairs, tmp_path / "set", ignore=shutil.ignore_patterns("annotations"))
    file = tmp_path / "set/mine.json"  # beside its images
    file.write_text(json.dumps(content))
    assert predict("--dataset", file, "--output", tmp_path / "out")["images"] == 4
    unregister(str(file))


def _pair(folder: Path, *arguments: str, size: tuple[int, int] = (96, 72)) -> list[str]:
    """Arguments that predict one pair of files with weights that nobody wrote."""
    (folder / "vis").mkdir()
    (folder / "ir").mkdir()
    Image.new("RGB", (96, 72)).save(folder / "vis/a.png")
    Image.new("L", size).save(folder / "ir/a.png")
    return [*DETECTION, *arguments]


PAIR = ["--vis", "vis", "--ir", "ir", "--output", "out"]
TOOL = "tools/predict.py"
CASES = [
    Case("no weights", TOOL, lambda f: _pair(f, *PAIR), ["there are no weights"]),
    Case("no file of weights", TOOL, lambda f: _pair(f, *PAIR, "--weights", "w.pth"), ["w.pth"]),
    Case(
        "nothing to predict", TOOL, lambda f: _pair(f, "--output", "out"), ["give --dataset NAME, or --vis"]
    ),
    Case("both kinds", TOOL, lambda f: _pair(f, *PAIR, "--dataset", "x"), ["give --dataset NAME, or"]),
    Case("no folder", TOOL, lambda f: _pair(f, "--vis", "v", "--output", "o"), ["no such file or folder: v"]),
    Case("a batch of none", TOOL, lambda f: _pair(f, *PAIR, "--batch", "0"), ["--batch 0"]),
    Case("no score", TOOL, lambda f: _pair(f, *PAIR, "--threshold", "2"), ["--threshold 2"]),
    Case("a file as the folder", TOOL, lambda f: _pair(f, *PAIR[:4], "--output", "vis/a.png"), ["is a file"]),
    Case(
        "no set", TOOL, lambda f: _pair(f, "--dataset", "synthetic_vall", "--output", "o"), ["synthetic_val"]
    ),
    Case("no JSON", TOOL, lambda f: _pair(f, "--dataset", "a.json", "--output", "o"), ["a.json is missing"]),
    Case("images of no JSON", TOOL, lambda f: _pair(f, *PAIR, "--images", "x"), ["--images goes with"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_is_refused(case, tmp_path):
    refuse(case, tmp_path)


def test_pairs_of_two_sizes_leave_nothing_behind(predict, tmp_path):
    _pair(tmp_path, size=(90, 72))
    with pytest.raises(UserError, match="align_pairs.py"):
        predict("--vis", tmp_path / "vis", "--ir", tmp_path / "ir", "--output", tmp_path / "new/out")
    assert not (tmp_path / "new").exists()


def test_foreign_files_in_the_folder_stay(predict, folders, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.json").write_text("[]")
    with pytest.raises(UserError, match="predictions.json is of another tool"):
        predict(*folders, "--output", out)
    (out / "predictions.json").unlink()
    (out / "progress.jsonl").write_text("a list\n")
    with pytest.raises(UserError, match="progress.jsonl is no list of finished images"):
        predict(*folders, "--output", out)
    assert [p.name for p in out.iterdir()] == ["progress.jsonl"]
