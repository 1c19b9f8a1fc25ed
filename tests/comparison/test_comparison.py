"""The comparison: runs of two steps, what is run again, chosen rates, sizes, rows, and its tables."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from helpers.comparisons import CONFIG, call
from helpers.tools import load_tool

from ivtuning.comparison import ROWS, Options, compare, markdown, runs
from ivtuning.comparison.conditions import versions
from ivtuning.comparison.models import final
from ivtuning.comparison.plan import Plan
from ivtuning.config import build, load_config
from ivtuning.errors import UserError
from ivtuning.methods import METHODS
from ivtuning.tuning import TUNERS


@pytest.mark.slow
def test_two_rows_end_to_end(tiny, tmp_path, capsys, monkeypatch):
    """Search, sizes, a missing image; the model that is left, and the printed command, give the figures."""
    output = tmp_path / "out"
    options = dict(sizes=[6], search=[1, 3], search_size=4, hold_out=0.4, missing=True, seeds=1)
    results = call(output, tiny, only=["infrared", "Mona"], against="infrared", **options)
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))
    assert not results["failed"]
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["infrared only", "Mona", "Mona, no infrared", "Mona, no visible"]
    assert rows["infrared only"]["backbone_trainable"] == rows["infrared only"]["adapter_mb"] == 0
    mona = rows["Mona"]
    assert mona["ratio_of_base"] == mona["backbone_trainable"] / mona["backbone_base"] > 0
    assert mona["adapter_mb"] == pytest.approx(mona["backbone_trainable"] * 4 / 1e6)
    assert {"bbox/AP", "bbox/AP50", "bbox/AP-both"} <= mona["figures"].keys()
    assert len(results["search"]["Mona"]["figures"]) == 2
    conditions = results["conditions"]
    assert conditions["pairs"] == {"train": 12, "test": 4} and conditions["iterations"] == 2
    assert conditions["search_pairs"] == {"train": 4, "val": 5} and conditions["width"] == 16
    parts = {
        name: {image["id"] for image in json.loads((output / f"data/{name}.json").read_text())["images"]}
        for name in ("search_train", "search_val", "train_6_seed0")
    }
    assert {name: len(ids) for name, ids in parts.items()} == {
        "search_train": 4,
        "search_val": 5,
        "train_6_seed0": 6,
    }
    assert not parts["search_train"] & parts["search_val"]
    assert list(output.glob("score_by_*.png"))
    assert mona["versions"] == [versions()] and f"fp32. {versions()}." in (output / "table.md").read_text()

    folder = output / "Mona" / "6" / "seed0"
    assert {f.name for f in folder.iterdir()} >= {"result.json", "adapter.safetensors", "log.txt"}
    assert not list(output.glob("*/*/*/*.pth"))
    argv = shlex.split(mona["command"])[3:]
    figures = json.loads((folder / "result.json").read_text())["figures"]["none"]
    cfg = load_config(argv[1], argv[2:])
    again = runs.run.evaluate_checkpoint(cfg, cfg.train.init_checkpoint, folder / "adapter.safetensors")
    assert {f"bbox/{k}": v for k, v in again["bbox"].items() if f"bbox/{k}" in figures} == figures
    load_tool("train_net").main(argv)
    again = json.loads((output / "Mona/6/seed0_again/results.json").read_text())["results"]["bbox"]
    assert {f"bbox/{k}": v for k, v in again.items() if v is not None} == figures

    # A later call with missing=True evaluates what is left, and trains nothing.
    result = json.loads((folder / "result.json").read_text())
    without = {lost: result["figures"].pop(lost) for lost in ("visible", "infrared")}
    (folder / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(runs.run, "train", None)
    assert not call(output, tiny, only=["infrared", "Mona"], against="infrared", **options)["failed"]
    result = json.loads((folder / "result.json").read_text())
    assert result["figures"] == {"none": figures, **without}
    assert "Mona, 6 pairs, seed 0" in (folder / "log.txt").read_text()
    # The adapter of a run with another config is no use.
    (folder / "result.json").write_text(json.dumps(result | {"identity": "other"}))
    call(output, tiny, only=["infrared", "Mona"], against="infrared", **options)
    assert not (folder / "result.json").exists()


def test_what_ran_is_skipped_and_what_is_new_is_added(tiny, tmp_path, trained):
    call(tmp_path, tiny, only=["Full"], seeds=2)
    assert trained == ["Full, seed 0", "Full, seed 1"]
    results = call(tmp_path, tiny, only=["LoRA"], seeds=1, variants=["GN: model.backbone.net.tuner.norm=GN"])
    assert trained[2:] == ["LoRA, seed 0", "GN, seed 0"]
    # All that has finished is in the table, variants of earlier calls too.
    again = call(tmp_path, tiny, only=["LoRA"], seeds=1)
    assert len(trained) == 4 and again["rows"] == results["rows"]
    assert [row["name"] for row in again["rows"]] == ["LoRA", "Full", "GN"]
    (tmp_path / "LoRA" / "all" / "seed0" / "result.json").write_text("{")
    call(tmp_path, tiny, only=["LoRA"], seeds=1)
    assert trained[4:] == ["LoRA, seed 0"]
    call(tmp_path, tiny, only=["LoRA"], seeds=1, missing=True)
    call(tmp_path, tiny, only=["LoRA"], seeds=1)
    assert trained[5:] == ["LoRA, seed 0"]


def test_what_a_later_call_asks_for_hides_no_earlier_run(tiny, tmp_path, trained):
    call(tmp_path, tiny, only=["Full", "LoRA"], seeds=2)
    rows = call(tmp_path, tiny, only=["LoRA"], seeds=1, missing=True)["rows"]
    named = {row["name"]: row["seeds"] for row in rows}
    assert named == {"LoRA": [0, 1], "Full": [0, 1], "LoRA, no infrared": [0], "LoRA, no visible": [0]}
    call(tmp_path, tiny, only=["LoRA"], seeds=1, sizes=[4])
    results = call(tmp_path, tiny, only=["LoRA", "Mona"], seeds=1)
    sized = [(row["key"], row["pairs"]) for row in results["rows"] if row["missing"] is None]
    assert sized == [("Mona", 4), ("LoRA", 4), ("Mona", None), ("LoRA", None), ("Full", None)]
    assert "### All training pairs" in markdown(results)


def test_more_factors_may_lie_on_one_side(tiny, tmp_path, trained):
    with pytest.raises(UserError, match="--search 3,10: give factors .* on both sides of 1"):
        call(tmp_path, tiny, only=["LoRA"], seeds=1, search=[3, 10])
    call(tmp_path, tiny, only=["LoRA"], seeds=1, search=[0.3, 1])
    trained.clear()
    assert call(tmp_path, tiny, only=["LoRA"], seeds=1, search=[3, 10])["search"]["LoRA"]["factor"] == 3
    assert trained == ["LoRA, search at 0.003", "LoRA, search at 0.01", "LoRA, seed 0"]
    # A factor that another row alone has had is nothing around this row's.
    found = call(tmp_path, tiny, only=["Mona"], seeds=1, search=[30])["search"]
    assert (found["Mona"]["factor"], found["Mona"]["edge"], found["LoRA"]["edge"]) == (3, False, False)
    call(tmp_path / "edge", tiny, only=["LoRA"], seeds=1, search=[0.3, 1, 3])
    found = call(tmp_path / "edge", tiny, only=["Mona"], seeds=1, search=[10])["search"]
    assert (found["Mona"]["edge"], found["LoRA"]["factor"], found["LoRA"]["edge"]) == (False, 3, True)


def test_variants_have_names_and_schedules_of_their_own(tiny, tmp_path, trained):
    with pytest.raises(UserError, match="two have the same name"):
        call(tmp_path, tiny, variants=["a b: train.max_iter=3", "a_b: train.max_iter=4"])
    (row,) = call(tmp_path, tiny, variants=["long, twice: train.max_iter=3"], seeds=1)["rows"]
    assert row["seconds"] == 1.5


def test_the_versions_of_all_runs_are_stated(tiny, tmp_path, trained, monkeypatch):
    first = markdown(call(tmp_path, tiny, only=["LoRA"], seeds=2))  # as earlier versions left them
    assert first.count("unknown version") == 1 and versions() not in first
    file = tmp_path / "LoRA/all/seed0/result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"versions": "ivtuning 0.1, torch 2.0"}))
    text = markdown(call(tmp_path, tiny, only=["LoRA"], seeds=2))
    assert "fp32. ivtuning 0.1, torch 2.0; unknown version." in text


def test_rates_are_those_of_the_config_that_runs(tiny, tmp_path):
    variants = ["slow: optimizer.params.added_lr_factor=0.5", "all: model.backbone.net.tuner=Full"]
    overrides = [*tiny, "optimizer.lr=0.01", "optimizer.params.trunk_lr_factor=0.1"]
    options = Options(variants=variants, only=["IVTuning", "IVTuning-3x", "Full", "BitFit", "both"])
    plan = Plan(CONFIG, overrides, tmp_path / "out", options)
    rates = {key: plan.final_jobs(key, None)[0].rate for key in plan.present}
    assert rates == {
        **{"IVTuning": 0.01, "IVTuning-3x": 0.03, "Full": 0.001, "BitFit": 0.01, "both": 0.01},
        **{"slow": 0.005, "all": 0.001},
    }


def test_another_comparison_is_not_mixed_with_that_of_the_folder(tiny, tmp_path, trained):
    call(tmp_path, tiny, only=["Full"], seeds=1)
    with pytest.raises(UserError, match="holds a comparison with overrides"):
        call(tmp_path, [*tiny, "optimizer.lr=0.002"], only=["Full"])
    torch.save({"model": {}}, tmp_path / "trunk.pth")
    with pytest.raises(UserError, match="holds a comparison with trunk_sha256"):
        call(tmp_path, tiny, only=["Full"])
    (tmp_path / "results.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="is no result of a comparison"):
        call(tmp_path, tiny, only=["Full"])


def test_the_rate_is_chosen_for_each_row_and_used_for_all_sizes_and_seeds(tiny, tmp_path, trained):
    options = dict(only=["LoRA", "Full"], search=[0.1, 1, 3, 10], sizes=[4, 8], seeds=2, search_size=4)
    results = call(tmp_path, [*tiny, "optimizer.params.trunk_lr_factor=0.1"], **options)
    assert trained[:4] == [f"LoRA, search at {rate}" for rate in ("0.0001", "0.001", "0.003", "0.01")]
    assert trained[4:8] == [f"Full, search at {rate}" for rate in ("1e-05", "0.0001", "0.0003", "0.001")]
    assert len(trained) == 8 + 2 * 2 * 2
    found = results["search"]
    assert {key: f["chosen"] for key, f in found.items()} == {"LoRA": 0.003, "Full": 0.0003}
    assert not found["LoRA"]["edge"]
    commands = {(row["key"], row["pairs"]): row["command"] for row in results["rows"]}
    assert "optimizer.lr=0.003" in commands["LoRA", 4] and "train_4_seed0.json" in commands["LoRA", 4]
    full = load_config(CONFIG, shlex.split(commands["Full", 8])[5:])
    assert full.optimizer.lr == 3e-3  # heads and trunk move together
    assert full.optimizer.params.trunk_lr_factor == full.optimizer.params.added_lr_factor == 0.1
    text = markdown(results)
    assert "### 4 training pairs" in text and "**" in text
    trained.clear()
    call(tmp_path, [*tiny, "optimizer.params.trunk_lr_factor=0.1"], **options | {"search": [1, 30]})
    assert trained == ["LoRA, search at 0.03", "Full, search at 0.003"]


def test_rows_differ_from_the_config_in_what_they_are_alone(tiny, tmp_path):
    tuner = ["model.backbone.net.tuner.norm=GN", "optimizer.params.added_lr_factor=7"]
    plan = Plan(CONFIG, [*tiny, *tuner], tmp_path / "out", Options(variants=["B 8: method=lora"], only=ROWS))
    planned = {key: plan.final_jobs(key, None)[0] for key in plan.present}
    configs = {key: load_config(job.config, job.overrides) for key, job in planned.items()}
    nets = {key: cfg.model.backbone.net for key, cfg in configs.items()}
    assert list(configs) == [*ROWS, "B_8"]
    for key, cfg in configs.items():
        assert cfg.optimizer.params.added_lr_factor == (3 if key == "IVTuning-3x" else 1)
        dropout = key == "IVTuning-dropout"
        assert cfg.dataloader.train.mapper.get("modality_dropout", 0) == (0.3 if dropout else 0)
        assert nets[key].tuner.get("norm") == ("GN" if key.startswith("IVTuning") else None)
    assert nets["LoRA"].tuner["rank"] == nets["Mona"].tuner.hidden_dim == nets["IVTuning"].tuner.hidden_dim
    assert nets["B_8"].tuner == nets["LoRA"].tuner
    compared = {METHODS[row.method].tuner.__name__ for row in ROWS.values() if row.method}
    assert compared | {"IVTuning"} == set(TUNERS)
    for key in ROWS:
        net, method = build(nets[key], ""), METHODS[ROWS[key].method or "IVTuning"]
        assert (type(net.stem), type(net.tuner)) == (method.stem, method.tuner)


def test_the_widths_that_a_config_states_are_used(tiny, tmp_path):
    config = "configs/MSRS/vit_t_ivtuning.py"
    row = ROWS["LoRA"]
    cfg = load_config(config, row.overrides([], None))
    assert cfg.model.backbone.net.tuner["rank"] == cfg.methods.LoRA["rank"] == 24


@pytest.mark.slow
def test_label_maps_are_compared_by_their_own_figure(pairs, tmp_path):
    config = "configs/synthetic/seg_ivtuning.py"
    small = ["model.backbone.net.embed_dim=24", "model.backbone.net.num_heads=2", "train.max_iter=1"]
    small.append("dataloader.train.total_batch_size=2")
    torch.manual_seed(0)
    model = runs.run.build_model(load_config(config, [*small, "train.init_checkpoint="]))
    torch.save({"model": dict(model.backbone.net.named_base_parameters())}, tmp_path / "trunk.pth")
    overrides = [*small, f"train.init_checkpoint={tmp_path / 'trunk.pth'}"]
    options = Options(only=["both"], seeds=1, sizes=[2], search=[1], hold_out=2, search_size=2, processes=1)
    results = compare(config, tmp_path / "out", overrides, options)
    assert not results["failed"] and results["conditions"]["metric"] == "sem_seg/mIoU"
    (row,) = results["rows"]
    assert 0 <= row["figures"]["sem_seg/mIoU"]["mean"] <= 100 and row["pairs"] == 2
    assert "mIoU" in markdown(results)


def test_the_model_of_a_row_is_the_one_that_was_evaluated():
    for decay, name in ((0, "model_final.pth"), (0.9, "model_averaged.pth")):
        cfg = load_config(CONFIG, [f"train.ema_decay={decay}", "train.output_dir=out"])
        assert final(cfg) == f"out/{name}"
