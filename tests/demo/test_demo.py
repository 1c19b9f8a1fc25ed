"""The demo from end to end, with runs of two steps."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from html import escape
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.browser import needs_browser, run_page
from helpers.runs import TINY
from omegaconf import OmegaConf

from ivtuning import demo
from ivtuning.checkpoint.files import read
from ivtuning.config import load_config
from ivtuning.data.datasets.detection import register_pairs
from ivtuning.data.datasets.segmentation import segmentation_dicts
from ivtuning.data.labels import read_labels
from ivtuning.data.modalities import TIMES
from ivtuning.data.synthetic.drone import generate_drone_set
from ivtuning.demo import detection, oriented, segmentation
from ivtuning.demo.page import write_demo_page
from ivtuning.demo.rows import Table
from ivtuning.demo.task import spread
from ivtuning.errors import UserError
from ivtuning.visualization.gallery import read_dataset


@pytest.mark.slow
def test_demo_writes_table_results_adapters_and_pictures(pairs, tmp_path, monkeypatch, capsys):
    for name in ("generate", "generate_drone_set"):
        monkeypatch.setattr(demo, name, lambda root: None)
    generate_drone_set(tmp_path / "drone", train=4, val=2, size=(96, 80))
    for split in ("train", "val"):
        json_file = tmp_path / "drone" / "annotations" / f"{split}.json"
        register_pairs(f"synthetic_drone_{split}", json_file, tmp_path / "drone")
    # The tiny sizes, but not TINY's empty trunk file: the demo makes its own.
    tiny = [*TINY[:-1], "model.sem_seg_head.decoder.channels=8", "train.max_iter=2"]
    results = demo.main(tmp_path / "demo", tiny)

    assert json.loads((tmp_path / "demo" / "results.json").read_text()) == json.loads(json.dumps(results))
    rows = {row["name"]: row for row in results["rows"]}
    assert [row["name"] for row in results["missing"]] == ["IV-tuning, no infrared", "IV-tuning, no visible"]
    assert list(rows) == ["visible only", "infrared only", "full", "IV-tuning"]
    known = {"AP", "AP50", "AP_both", "backbone_trainable", "ratio_of_base", "adapter_mb"}
    assert known <= rows["full"].keys()
    assert rows["visible only"]["backbone_trainable"] == rows["infrared only"]["backbone_trainable"] == 0
    assert rows["full"]["backbone_trainable"] > rows["full"]["backbone_base"]
    assert 0 < rows["IV-tuning"]["backbone_trainable"] < rows["IV-tuning"]["backbone_base"]
    assert {row["iterations"] for row in rows.values()} == {2}

    trunk = read(tmp_path / "demo" / "trunk.pth")["model"]
    for name, row in rows.items():
        folder = tmp_path / "demo" / name.replace(" ", "_")
        trained = read(folder / "model_final.pth")["model"]
        same = all(torch.equal(value, trained[f"backbone.net.{key}"]) for key, value in trunk.items())
        assert same == (name != "full")
        assert (folder / "adapter.safetensors").stat().st_size >= row["adapter_mb"] * 1e6
    # The first weights of neck and heads are fresh: no row goes on from another's.
    assert all(key.split(".")[0] in ("patch_embed", "pos_embed", "blocks") for key in trunk)

    for name, row in {row["name"]: row for row in results["oriented"]["rows"]}.items():
        assert all(0 <= row[key] <= 100 or np.isnan(row[key]) for key in ("AP", "AP50", "AP_both"))
        trained = read(tmp_path / "demo/oriented" / name.replace(" ", "_") / "model_final.pth")["model"]
        assert trained["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 2 * 5
    shares = results["single_modality_share"], results["oriented"]["single_modality_share"]
    for share, name in zip(shares, ("synthetic_val", "synthetic_drone_val"), strict=True):
        objects = [a["modality"] for record in read_dataset(name)[0] for a in record["annotations"]]
        assert share == pytest.approx(1 - objects.count("both") / len(objects))

    segmented = {row["name"]: row for row in results["segmentation"]["rows"]}
    scores = [f"IoU_{name}" for name in ("background", "person", "engine", "lamp", "sign")]
    scores += ["mIoU", "mIoU_day", "mIoU_night", "found_both", "found_visible", "found_infrared"]
    for row in segmented.values():
        assert all(0 <= row[key] <= 100 or np.isnan(row[key]) for key in scores)
    for task in ("oriented", "segmentation"):
        assert [row["name"] for row in results[task]["rows"]] == ["visible only", "full", "IV-tuning"]
        for row in results[task]["rows"]:
            name = row["name"]
            folder = tmp_path / "demo" / task / name.replace(" ", "_")
            trained = read(folder / "model_final.pth")["model"]
            same = all(torch.equal(value, trained[f"backbone.net.{key}"]) for key, value in trunk.items())
            assert same == (name != "full")
            assert (folder / "adapter.safetensors").stat().st_size >= row["adapter_mb"] * 1e6
            # The same stem and tuner on the same trunk, whatever the task.
            cost = ("backbone_trainable", "backbone_base", "ratio_of_total", "adapter_mb", "iterations")
            assert {key: row[key] for key in cost} == {key: rows[name][key] for key in cost}

    pictures = tmp_path / "demo" / "pictures"
    for folder, count in (("", 4), ("oriented", 2), ("segmentation", 4)):
        assert len(list((pictures / folder).glob("*.png"))) == count + 1  # and the contact sheet
        assert (pictures / folder / "index.html").is_file()
    page = (tmp_path / "demo" / "index.html").read_text()
    for link in re.findall('(?:href|src)="([^"]+)"', page):
        assert (tmp_path / "demo" / link).is_file()
    for folder in ("", "oriented/", "segmentation/"):
        assert f'href="pictures/{folder}index.html"' in page
    out = capsys.readouterr().out
    for part in demo.PARTS:
        table = part.table(results)
        assert table.text() in out and table.html() in page
        for cell in (*table.heads, *table.notes, *chain(*table.body)):
            assert escape(cell) in page
    assert "IV-tuning" in out and "AP50" in out and "mIoU" in out and "results.json" in out


@needs_browser
def test_the_page_fits_a_phone(tmp_path):
    names = ["a row with a long name"] * 3
    table = Table(
        ["", *(f"figure\n{k}" for k in range(12))], [[n, *["1,234,567"] * 12] for n in names], ["A note."]
    )
    page = write_demo_page(
        tmp_path, {"boxes <b>": table}, {"boxes <b>": tmp_path / "pictures" / "index.html"}
    )
    script = """const { scrollWidth, clientWidth } = document.documentElement;
      const box = document.querySelector(".scroll"), name = box.querySelector("[scope=row]");
      const before = name.getBoundingClientRect().left; box.scrollLeft = 200; await pause();
      return [scrollWidth <= clientWidth, box.scrollLeft, name.getBoundingClientRect().left - before,
              document.querySelectorAll("td").length, document.querySelector("h2").textContent]"""
    visit = run_page(page, script, width=360, height=700)
    assert visit.value == [True, 200, 0, 36, "boxes <b>"] and visit.requests == []
    assert all("contact_sheet.png" in error for error in visit.errors)  # which is not there


def test_a_wrong_override_stops_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "generate", None)
    for wrong in ("train.max_itre=2", "model.sem_seg_head.decoder.chanels=8", "model.roi_heads.num_class=3"):
        with pytest.raises(UserError, match="did you mean"):
            demo.main(tmp_path / "demo", [wrong])
    assert not list(tmp_path.iterdir())


def test_pictures_are_spread_over_the_set():
    records = [{"number": n, "time": TIMES[n % 2]} for n in range(32)]
    drawn = spread(records, 16)
    numbers = [record["number"] for record in drawn]
    assert numbers == sorted(set(numbers)) and len(numbers) == 16 and {0, 31} <= set(numbers)
    assert {record["time"] for record in drawn} == set(TIMES)
    assert spread(records, 40) == records


def test_objects_are_found_by_their_own_class(pairs, monkeypatch):
    """A model that knows every label finds all; one that mistakes lamps for signs, all but the lamps."""
    records = {r["image_id"]: r for r in segmentation_dicts("synthetic_seg_val")}
    objects, classes = read_dataset("synthetic_val")

    def perfect(record):
        return read_labels(records[record["image_id"]])

    cfg = OmegaConf.create({"train": {"output_dir": ""}})
    monkeypatch.setattr(segmentation, "Predictor", lambda *_: perfect)
    shares = segmentation.recall(cfg)
    assert set(shares.values()) == {100.0}

    def mistaken(record):
        labels = perfect(record)
        return np.where(labels == 3, 4, labels)

    monkeypatch.setattr(segmentation, "Predictor", lambda *_: mistaken)
    share = defaultdict(list)
    for a in (a for record in objects for a in record["annotations"]):
        share[f"found_{a['modality']}"].append(classes[a["category_id"]] != "lamp")
    assert any(not all(hits) for hits in share.values())
    assert segmentation.recall(cfg) == {
        key: pytest.approx(100 * np.mean(hits)) for key, hits in share.items()
    }


@pytest.mark.parametrize("part", demo.PARTS)
def test_rows_differ_in_stem_tuner_and_their_rate_alone(part):
    first, *others = part.TASK.load(Path("output"), []).values()
    for cfg in (first, *others):
        del cfg.model.backbone.net.stem, cfg.model.backbone.net.tuner, cfg.train.output_dir
        del cfg.optimizer.params.added_lr_factor
    assert all(cfg == first for cfg in others)


@pytest.mark.parametrize("part", [oriented, segmentation])
def test_all_tasks_have_one_recipe(part):
    """They differ in the metric of the best weights; oriented boxes take fewer iterations and more flips."""
    boxes, other = (load_config(task.config) for task in (detection.TASK, part.TASK))
    if part is oriented:
        assert other.train.max_iter < boxes.train.max_iter
        other.train.max_iter = boxes.train.max_iter
        other.dataloader.train.mapper = boxes.dataloader.train.mapper
    for cfg in (boxes, other):
        del cfg.train.output_dir, cfg.train.best_metric
    assert boxes.train == other.train and boxes.lr_multiplier == other.lr_multiplier
    assert boxes.optimizer == other.optimizer
    assert boxes.model.backbone.net == other.model.backbone.net
    assert (boxes.dataloader.train.total_batch_size, boxes.dataloader.train.mapper) == (
        other.dataloader.train.total_batch_size,
        other.dataloader.train.mapper,
    )
