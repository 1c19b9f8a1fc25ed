"""The visualizer: files, sets of every task, predictions of several models, and bad command lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.drawings import CLASSES, annotation, instances, write_pairs
from helpers.tools import ROOT, load_tool
from PIL import Image

from ivtuning import predictor
from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.classification import register_folder
from ivtuning.data.datasets.segmentation import register_segmentation
from ivtuning.data.labels import read_labels
from ivtuning.errors import UserError
from ivtuning.visualization import gallery, panels
from ivtuning.visualization.label_maps import WRONG
from ivtuning.visualization.panels import lay_out

TOOL = ROOT / "tools" / "visualize.py"


def stand_in(predict, classes=()):
    """In place of Predictor: what `predict` makes of a record, with the model's `classes`."""

    class StandIn:
        def __init__(self, *args):
            self.classes = list(classes)

        def __call__(self, record):
            return predict(record)

    return StandIn


def page_data(page: Path) -> list[dict]:
    """What a page knows about its pictures."""
    html = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="pictures">(.*?)</script>', html)[1])


@pytest.fixture(scope="module")
def tool():
    return load_tool("visualize")


def test_tool_draws_two_folders_without_a_model(tool, tmp_path):
    vis, ir = write_pairs(tmp_path, ["a", "b", "c"])
    out = tmp_path / "out"
    tool.main(["--vis", str(vis), "--ir", str(ir), "--output", str(out), "--limit", "2", "--grid"])
    assert sorted(p.name for p in out.iterdir()) == [
        "a.png",
        "b.png",
        "contact_sheet.png",
        "index.html",
        "thumbs",
    ]
    assert "predicted" not in (out / "index.html").read_text()


@pytest.fixture
def dataset(tmp_path):
    """A registered dataset of two pairs."""
    vis, ir = write_pairs(tmp_path, ["1D", "2N"])
    records = [
        {
            "file_name": str(vis / f"{stem}.png"),
            "ir_file_name": str(ir / f"{stem}.jpg"),
            "image_id": k,
            "height": 60,
            "width": 80,
            "time": time,
            "annotations": [annotation([10, 10, 30, 30], 1, modality="infrared")] * k,
        }
        for k, (stem, time) in enumerate([("1D", "day"), ("2N", "night")], 1)
    ]
    DatasetCatalog.register("drawn_pairs", lambda: records)
    MetadataCatalog.get("drawn_pairs").thing_classes = CLASSES
    yield "drawn_pairs"
    DatasetCatalog.remove("drawn_pairs")
    MetadataCatalog.pop("drawn_pairs")


def test_tool_draws_truth_and_predictions_of_a_dataset(tool, dataset, tmp_path, monkeypatch):
    from omegaconf import OmegaConf

    seen = {}

    def load_config(path, overrides):
        seen["config"] = (path, list(overrides))
        return OmegaConf.create({"train": {"init_checkpoint": "base.pth"}})

    def load(cfg, weights, adapter):
        seen["weights"] = (weights, adapter)
        return stand_in(lambda record: instances([[10, 10, 40, 40], [0, 0, 5, 5]], [0.8, 0.35], [1, 0]))()

    monkeypatch.setattr("ivtuning.config.load_config", load_config)
    monkeypatch.setattr(predictor, "Predictor", load)
    argv = ["--config-file", "c.py", "--weights", "w.pth", "--dataset", dataset, "train.seed=3"]
    tool.main([*argv, "--output", str(tmp_path / "out"), "--threshold", "0.4"])
    assert seen == {"config": ("c.py", ["train.seed=3"]), "weights": ("w.pth", None)}
    html = (tmp_path / "out" / "index.html").read_text()
    for piece in ("c.py", "w.pth", "train.seed=3", ">0.4<", "1D, day", "2 in ground truth, 1 predicted"):
        assert piece in html, piece
    assert page_data(tmp_path / "out" / "index.html") == [
        {"score": 100.0, "time": "day", "classes": {"car": [0, 0]}},
        {"score": pytest.approx(200 / 3), "time": "night", "classes": {"car": [1, 0]}},
    ]
    for side in ("visible", "infrared"):
        assert f'class="{side}" src="thumbs/{side}/1D.jpg"' in html
        assert Image.open(tmp_path / "out" / "thumbs" / side / "1D.jpg").size == (560, 420)
    with_both = Image.open(tmp_path / "out" / "2N.png").size

    seen.clear()
    tool.main([*argv, "--output", str(tmp_path / "truth"), "--no-predictions"])
    assert [picture["score"] for picture in page_data(tmp_path / "truth" / "index.html")] == [None, None]
    assert "weights" not in seen and "w.pth" not in (tmp_path / "truth" / "index.html").read_text()
    assert Image.open(tmp_path / "truth" / "2N.png").height < with_both[1]


@pytest.fixture
def labeled(tmp_path):
    """A registered set of two pairs with label maps, a day and a night one; the second has no infrared."""
    vis, ir = write_pairs(tmp_path / "set", ["1D", "2N"])
    (tmp_path / "set" / "segmentation").mkdir()
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 20:60] = 1
    images = []
    for k, (stem, time) in enumerate([("1D", "day"), ("2N", "night")], 1):
        Image.fromarray(labels).save(tmp_path / "set" / f"{stem}.png")
        image = {"id": k, "file_name": f"vis/{stem}.png", "sem_seg_file_name": f"{stem}.png", "time": time}
        partner = {"ir_file_name": f"ir/{stem}.jpg"} if k == 1 else {"missing": "infrared"}
        images.append(image | partner | {"height": 60, "width": 80})
    categories = [
        {"id": 0, "name": "ground", "color": [0, 0, 0]},
        {"id": 1, "name": "car", "color": [9, 99, 199]},
    ]
    path = tmp_path / "set" / "segmentation" / "val.json"
    path.write_text(json.dumps({"info": {}, "images": images, "categories": categories}))
    register_segmentation("drawn_labels", path, tmp_path / "set")
    yield "drawn_labels"
    DatasetCatalog.remove("drawn_labels")
    MetadataCatalog.pop("drawn_labels")


def half_right(record):
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 20:40] = 1
    return labels


def test_tool_draws_label_maps_of_a_dataset(tool, labeled, tmp_path, monkeypatch):
    monkeypatch.setattr("ivtuning.config.load_config", lambda path, overrides: None)
    monkeypatch.setattr(predictor, "Predictor", stand_in(half_right))
    argv = ["--config-file", "c.py", "--weights", "w.pth", "--dataset", labeled, "--grid"]
    tool.main([*argv, "--output", str(tmp_path / "out")])
    html = (tmp_path / "out" / "index.html").read_text()
    # of 4800 pixels 800 are car, half of them found: (4000/4400 + 400/800) / 2
    for piece in (
        "all (2 classes)",
        "mIoU here</dt><dd>70.5",
        "1D, day<small>pixel accuracy 91.7, mIoU 70.5",
    ):
        assert piece in html, piece
    assert "threshold" not in html and "in ground truth" not in html
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    both, single = (np.asarray(Image.open(tmp_path / "out" / f"{stem}.png")) for stem in ("1D", "2N"))
    scores = [picture["score"] for picture in page_data(tmp_path / "out" / "index.html")]
    assert scores == [pytest.approx(70.4545, abs=1e-4)] * 2
    assert html.count('<div class="compare">') == 1  # the second pair has one image
    assert (both == WRONG).all(-1).sum() > 400 * 49 and both.shape[1] == 4 * 560 + 12
    assert single.shape[1] == 3 * 560 + 8  # no column for what is missing

    tool.main([*argv, "--output", str(tmp_path / "truth"), "--no-predictions"])
    html = (tmp_path / "truth" / "index.html").read_text()
    assert "all (2 classes)" in html and "mIoU" not in html
    assert Image.open(tmp_path / "truth" / "1D.png").height < both.shape[0]


def test_a_set_in_another_order_is_drawn_in_the_models(tool, labeled, tmp_path, monkeypatch):
    def car_is_zero(record):
        labels = np.ones((60, 80), np.uint8)
        labels[20:40, 20:60] = 0
        return labels

    monkeypatch.setattr("ivtuning.config.load_config", lambda path, overrides: None)
    monkeypatch.setattr(predictor, "Predictor", stand_in(car_is_zero, ["car", "ground"]))
    argv = ["--config-file", "c.py", "--weights", "w.pth", "--dataset", labeled]
    tool.main([*argv, "--output", str(tmp_path / "out")])
    assert [picture["score"] for picture in page_data(tmp_path / "out" / "index.html")] == [100.0, 100.0]


@pytest.fixture
def classes(tmp_path):
    """A registered classification set: a red, a gray and a palette image of two classes."""
    for name, mode in (("rose/a", "RGB"), ("rose/b", "P"), ("tulip/c", "L")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (50, 40), 90).save(tmp_path / "set" / f"{name}.png")
    register_folder("drawn_flowers", tmp_path / "set")
    yield "drawn_flowers"
    unregister("drawn_flowers")


def test_tool_draws_classes_of_a_dataset(tool, classes, tmp_path, monkeypatch):
    tool.main(["--dataset", classes, "--output", str(tmp_path / "truth"), "--grid"])
    html = (tmp_path / "truth" / "index.html").read_text()
    assert "a<small>rose</small>" in html and "c<small>tulip</small>" in html and "top-1" not in html

    monkeypatch.setattr("ivtuning.config.load_config", lambda path, overrides: None)
    monkeypatch.setattr(predictor, "Predictor", stand_in(lambda record: torch.tensor([0.75, 0.25])))
    argv = ["--config-file", "c.py", "--weights", "w.pth", "--dataset", classes]
    tool.main([*argv, "--output", str(tmp_path / "out")])
    html = (tmp_path / "out" / "index.html").read_text()
    assert "c<small>tulip; predicted rose 0.75</small>" in html
    assert "top-1 accuracy here</dt><dd>66.7" in html and "threshold" not in html
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png", "c.png"]

    monkeypatch.setattr(predictor, "Predictor", stand_in(half_right))
    with pytest.raises(UserError, match="predicts label maps, which cannot be drawn on .*a.png"):
        tool.main([*argv, "--output", str(tmp_path / "wrong")])


def test_sets_of_detectron2_without_files_are_reported(tool, tmp_path):
    for name in ("coco_2017_val", "voc_2007_test", "flowers102_test"):
        with pytest.raises(UserError, match="is missing: unpack"):
            tool.main(["--dataset", name, "--output", str(tmp_path / "out")])
    with pytest.raises(UserError, match="lvis_v1_val needs the package lvis|is missing: unpack"):
        tool.main(["--dataset", "lvis_v1_val", "--output", str(tmp_path / "out")])


def test_several_models_are_compared_by_name(labeled, tmp_path):
    records, classes = gallery.read_dataset(labeled)
    assert classes == ["ground", "car"]
    painter = gallery.painter_of(labeled, 0.5)

    def models(record):
        return {"full": half_right(record), "tuned": read_labels(record)}

    page = gallery.draw_records(records[:1], painter, models, tmp_path / "out", False, {"source": "x"})
    html = page.read_text()
    assert "full pixel accuracy 91.7, mIoU 70.5; tuned pixel accuracy 100.0, mIoU 100.0" in html
    assert page_data(page) == [
        {"score": 100.0, "time": "day", "classes": {"ground": [0, 0], "car": [0, 0]}}  # of the last model
    ]
    assert "mIoU here full</dt><dd>70.5" in html and "mIoU here tuned</dt><dd>100.0" in html


@pytest.mark.parametrize("prepared", [True, False])
def test_files_are_drawn_as_the_configs_task(tool, labeled, tmp_path, monkeypatch, prepared):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"dataloader": {"evaluator": {"dataset_name": labeled}}})
    monkeypatch.setattr("ivtuning.config.load_config", lambda path, overrides: cfg)
    monkeypatch.setattr(predictor, "Predictor", stand_in(half_right))
    if not prepared:
        (tmp_path / "set" / "segmentation" / "val.json").unlink()
    legends = []
    monkeypatch.setattr(
        panels, "lay_out", lambda rows, legend, *_: legends.append(dict(legend)) or lay_out(rows, legend)
    )
    pair = ["--vis", str(tmp_path / "set/vis/1D.png"), "--ir", str(tmp_path / "set/ir/1D.jpg")]
    argv = [*pair, "--config-file", "c.py"]
    tool.main([*argv, "--weights", "w.pth", "--output", str(tmp_path / "out")])
    tool.main([*argv, "--output", str(tmp_path / "bare")])
    names = ["ground", "car"] if prepared else ["class 0", "class 1"]
    assert list(legends[0]) == names and legends[1] == {}
    assert Image.open(tmp_path / "bare" / "1D.png").width == 2 * 560 + 4


def test_predictions_of_another_task_are_reported(tool, labeled, dataset, tmp_path, monkeypatch):
    boxes = instances([[10, 10, 40, 40]], [0.8], [1])
    monkeypatch.setattr("ivtuning.config.load_config", lambda path, overrides: None)
    for name, prediction, words in ((dataset, half_right(None), "label maps"), (labeled, boxes, "boxes")):
        monkeypatch.setattr(predictor, "Predictor", stand_in(lambda record, made=prediction: made))
        argv = ["--config-file", "c.py", "--weights", "w.pth", "--dataset", name]
        with pytest.raises(UserError, match=f"predicts {words}, which cannot be drawn on .*1D.png"):
            tool.main([*argv, "--output", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "give one of --dataset"),
        (["--vis", "a.png"], "--vis PATH with --ir PATH"),
        (["--dataset", "x", "--curves", "run"], "give one of"),
        (["--dataset", "x", "--weights", "w.pth"], "go with --config-file"),
        (["--dataset", "x", "train.seed=1"], "go with --config-file"),
        (["--dataset", "x", "--threshold", "30"], "from 0 to 1"),
        (["--dataset", "x", "--limit", "0"], "at least 1"),
        (["--dataset", "drawn_pairs,x"], "one set after the other"),
        (["--dataset", "drawn_pair"], "did you mean 'drawn_pairs'"),
    ],
)
def test_bad_command_lines_are_reported(tool, dataset, tmp_path, argv, words):
    with pytest.raises(UserError, match=words):
        tool.main([*argv, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_tool_ends_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    run = subprocess.run(
        [sys.executable, TOOL, "--dataset", "x", "--output", tmp_path / "file"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "projects")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and run.stdout == ""
    assert re.fullmatch(r"error: --output .*file is a file: name a folder\n", run.stderr)


def test_help_has_an_example_of_every_use(tool, capsys):
    with pytest.raises(SystemExit) as end:
        tool.main(["--help"])
    shown = capsys.readouterr().out.partition("example")[2]
    assert end.value.code == 0
    assert "msrs_seg_test" in shown
    for flag in ("--dataset", "--weights", "--adapter", "--vis", "--curves"):
        assert flag in shown
