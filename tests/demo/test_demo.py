"""The demo from end to end, with runs of two steps."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from html import escape
from itertools import chain

import numpy as np
import pytest
import torch
from helpers.browser import needs_browser, run_page
from helpers.runs import TINY
from omegaconf import OmegaConf

from ivtuning import demo
from ivtuning.checkpoint.files import read
from ivtuning.config import load_config
from ivtuning.data.datasets.segmentation import segmentation_dicts
from ivtuning.data.labels import read_labels
from ivtuning.demo import detection, segmentation
from ivtuning.demo.page import write_demo_page
from ivtuning.demo.rows import Table
from ivtuning.errors import UserError
from ivtuning.visualization.gallery import read_dataset


@pytest.mark.slow
def test_demo_writes_table_results_adapters_and_pictures(pairs, tmp_path, monkeypatch, capsys):
    scenes = {"val": {"single_share": 0.36}}
    monkeypatch.setattr(demo, "generate", lambda root: scenes)
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

    segmented = {row["name"]: row for row in results["segmentation"]["rows"]}
    assert list(segmented) == ["visible only", "full", "IV-tuning"]
    scores = [f"IoU_{name}" for name in ("background", "person", "engine", "lamp", "sign")]
    scores += ["mIoU", "mIoU_day", "mIoU_night", "found_both", "found_visible", "found_infrared"]
    for name, row in segmented.items():
        assert all(0 <= row[key] <= 100 or np.isnan(row[key]) for key in scores)
        folder = tmp_path / "demo" / "segmentation" / name.replace(" ", "_")
        trained = read(folder / "model_final.pth")["model"]
        same = all(torch.equal(value, trained[f"backbone.net.{key}"]) for key, value in trunk.items())
        assert same == (name != "full")
        assert (folder / "adapter.safetensors").stat().st_size >= row["adapter_mb"] * 1e6
        # The same stem and tuner on the same trunk, whatever the task.
        cost = ("backbone_trainable", "backbone_base", "ratio_of_total", "adapter_mb", "iterations")
        assert {key: row[key] for key in cost} == {key: rows[name][key] for key in cost}

    pictures = tmp_path / "demo" / "pictures"
    for folder in (pictures, pictures / "segmentation"):
        assert len(list(folder.glob("*.png"))) == 5
        assert (folder / "index.html").is_file()
    page = (tmp_path / "demo" / "index.html").read_text()
    for link in re.findall('(?:href|src)="([^"]+)"', page):
        assert (tmp_path / "demo" / link).is_file()
    assert 'href="pictures/index.html"' in page and 'href="pictures/segmentation/index.html"' in page
    out = capsys.readouterr().out
    for table in (detection.table(results), segmentation.table(results)):
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
      const box = document.querySelector(".table"), name = box.querySelector("tbody th");
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


@pytest.mark.parametrize("part", [detection, segmentation])
def test_rows_differ_in_stem_tuner_and_their_rate_alone(part):
    first, *others = (load_config(part.CONFIG, [f"method={method}"]) for method in part.ROWS.values())
    for cfg in (first, *others):
        del cfg.model.backbone.net.stem, cfg.model.backbone.net.tuner, cfg.train.output_dir
        del cfg.optimizer.params.added_lr_factor
    assert all(cfg == first for cfg in others)


def test_both_tasks_have_one_recipe():
    boxes, maps = (load_config(f"configs/synthetic/{name}.py") for name in ("ivtuning", "seg_ivtuning"))
    del boxes.train.output_dir, maps.train.output_dir, boxes.train.best_metric, maps.train.best_metric
    assert boxes.train == maps.train and boxes.lr_multiplier == maps.lr_multiplier
    assert boxes.optimizer == maps.optimizer
    assert boxes.model.backbone.net == maps.model.backbone.net
    assert (boxes.dataloader.train.total_batch_size, boxes.dataloader.train.mapper) == (
        maps.dataloader.train.total_batch_size,
        maps.dataloader.train.mapper,
    )
