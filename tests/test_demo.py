"""The demo from end to end, with runs of two steps."""

from __future__ import annotations

import json

import pytest
import torch
from test_run import TINY

from ivtuning import demo
from ivtuning.checkpoint.files import read


def test_demo_writes_table_results_adapters_and_pictures(pairs, tmp_path, monkeypatch, capsys):
    scenes = {"val": {"single_share": 0.36}}
    monkeypatch.setattr(demo, "generate", lambda root: scenes)
    # The tiny sizes, but not TINY's empty trunk file: the demo makes its own.
    results = demo.main(tmp_path / "demo", [*TINY[:-1], "train.max_iter=2"])

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

    assert len(list((tmp_path / "demo" / "pictures").glob("*.png"))) == 5
    assert (tmp_path / "demo" / "pictures" / "index.html").is_file()
    out = capsys.readouterr().out
    assert "IV-tuning" in out and "AP50" in out and "results.json" in out


@pytest.mark.parametrize("name", list(demo.ROWS))
def test_rows_differ_in_stem_tuner_and_their_rate_alone(name):
    from ivtuning.config import load_config

    row, first = (load_config(demo.ROWS[n]) for n in (name, "visible only"))
    for cfg in (row, first):
        del cfg.model.backbone.net.stem, cfg.model.backbone.net.tuner, cfg.train.output_dir
        del cfg.optimizer.params.added_lr_factor
    assert row == first
