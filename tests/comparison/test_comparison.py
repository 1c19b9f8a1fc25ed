"""The comparison of all methods: runs of two steps, what is run again, failures, mean and spread."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.runs import TINY
from helpers.tools import line_of, load_tool

from ivtuning.comparison import ROWS, compare, jobs, markdown, runs, table
from ivtuning.config import build, load_config
from ivtuning.errors import UserError
from ivtuning.methods import METHODS
from ivtuning.tuning import TUNERS

CONFIG = "configs/synthetic/ivtuning.py"
COMPLETE = [m.name for m in ROWS.values()]


@pytest.fixture
def tiny(pairs, tmp_path) -> list[str]:
    """Overrides of a tiny detector that starts from a trunk file."""
    torch.manual_seed(0)
    model = runs.run.build_model(load_config(CONFIG, TINY))
    state = {name: p.data for name, p in model.backbone.net.named_base_parameters()}
    torch.save({"model": state}, tmp_path / "trunk.pth")
    return [*TINY[:-1], f"train.init_checkpoint={tmp_path / 'trunk.pth'}", "train.max_iter=2"]


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Labels of the runs that were trained; each "trains" to an AP that tells the method and the seed."""
    labels = []

    def work(job):
        labels.append(job.label)
        ap = 10.0 * list(ROWS).index(job.row) + job.seed**2
        lost = ("none", "visible", "infrared") if ROWS[job.row].missing else ("none",)
        figures = {name: {"AP": ap - i, "AP50": ap + 5} for i, name in enumerate(lost)}
        result = dict.fromkeys(table.SAME, 0) | {
            **{"method": job.row, "seed": job.seed, "identity": job.identity, "figures": figures},
            **{"seconds_per_step": 0.5 + job.seed, "processes": job.processes, "device": "cpu"},
        }
        with open(f"{job.folder}/result.json", "w") as f:
            json.dump(result, f)

    monkeypatch.setattr(runs, "work", work)
    return labels


@pytest.mark.slow
def test_two_methods_two_seeds_end_to_end(tiny, tmp_path, capsys):
    output = tmp_path / "out"
    only = ["infrared", "Mona"]
    results = compare(CONFIG, output, tiny, seeds=2, only=only, processes=1)
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))
    assert not results["failed"]
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["infrared only", "Mona", "Mona, no infrared", "Mona, no visible"]
    assert all(row["seeds"] == [0, 1] for row in rows.values())
    assert rows["infrared only"]["backbone_trainable"] == rows["infrared only"]["adapter_mb"] == 0
    mona = rows["Mona"]
    assert mona["ratio_of_base"] == mona["backbone_trainable"] / mona["backbone_base"] > 0
    assert mona["adapter_mb"] == pytest.approx(mona["backbone_trainable"] * 4 / 1e6)
    assert {"AP", "AP50", "AP-both", "AP-visible", "AP-infrared"} <= mona["figures"].keys()
    conditions = results["conditions"]
    assert conditions["pairs"] == {"train": 12, "test": 4} and conditions["iterations"] == 2
    assert conditions["width"] == 16

    folder = output / "Mona" / "seed1"
    assert {f.name for f in folder.iterdir()} >= {"result.json", "adapter.safetensors", "log.txt"}
    assert not list(folder.glob("*.pth"))
    # What is left of a run is its model: the trunk and the adapter file evaluate to the same figures.
    job = next(j for j in jobs.plan(conditions, tiny, 2, output, 1) if j.folder == str(folder))
    cfg = load_config(job.config, job.overrides)
    again = runs.run.evaluate_checkpoint(cfg, cfg.train.init_checkpoint, folder / "adapter.safetensors")
    figures = json.loads((folder / "result.json").read_text())["figures"]
    assert {k: again["bbox"][k] for k in figures["none"]} == pytest.approx(figures["none"])
    assert figures.keys() == {"none", "visible", "infrared"}

    assert load_tool("compare").main([*tiny, "--output", str(output), "--seeds", "2", "--only=Mona"]) == 0
    shown = capsys.readouterr().out
    assert "2 runs, 2 of them done before" in shown
    assert (output / "table.md").read_text(encoding="utf-8") in shown and "| Mona, no visible " in shown


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_results_and_the_same_failures(tiny, tmp_path):
    broken = [*tiny, "model.backbone.net.tuner.norm=XN"]
    here, apart = (
        compare(CONFIG, tmp_path / str(n), broken, seeds=1, only=["BitFit", "IVTuning"], processes=n)
        for n in (1, 2)
    )
    for results in here, apart:
        assert [row["name"] for row in results["rows"]] == ["BitFit"]
        assert results["failed"]["IVTuning, seed 0"].startswith("tuner.norm='XN': give BN, SyncBN or GN")
    assert here["rows"][0]["figures"] == apart["rows"][0]["figures"]
    assert apart["rows"][0]["processes"] == [2]


def test_a_killed_process_is_reported(tiny, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 50 steps done\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(runs.sys, "executable", str(script))
    results = compare(CONFIG, tmp_path / "out", tiny, seeds=1, only=["Full"], processes=2)
    log = tmp_path / "out" / "Full" / "seed0" / "log.txt"
    assert results["failed"] == {"Full, seed 0": f"ended by signal 9; see {log}"}


@pytest.mark.slow
def test_what_ran_is_skipped_and_what_changed_runs_again(tiny, tmp_path, trained):
    options = dict(seeds=2, processes=1)
    compare(CONFIG, tmp_path, tiny, **options, only=["Full"])
    assert trained == ["Full, seed 0", "Full, seed 1"]
    first = compare(CONFIG, tmp_path, tiny, **options)
    assert len(trained) == 2 * len(ROWS) and len(first["rows"]) == len(ROWS) + 8
    assert compare(CONFIG, tmp_path, tiny, **options) == first
    (tmp_path / "LoRA" / "seed1" / "result.json").write_text("{")
    compare(CONFIG, tmp_path, tiny, **options)
    assert trained[2 * len(ROWS) :] == ["LoRA, seed 1"]
    # Another config, or other weights in the trunk's file: nothing of before counts.
    for change in ("optimizer.lr=0.002", None):
        trained.clear()
        if change is None:
            torch.save({"model": {}}, tmp_path / "trunk.pth")
        overrides = [*tiny, change or "optimizer.lr=0.002"]
        results = compare(CONFIG, tmp_path, overrides, **options, only=["BitFit"])
        assert trained == ["BitFit, seed 0", "BitFit, seed 1"]
        assert [row["name"] for row in results["rows"]] == ["BitFit"]


def test_a_failing_run_is_reported_and_the_others_go_on(tiny, tmp_path, trained, monkeypatch, capsys):
    work = runs.work

    def fail(job):
        if job.label == "Mona, seed 0":
            raise UserError("the loss is not finite")
        if job.label == "LoRA, seed 0":
            raise RuntimeError("two\nlines")
        work(job)

    monkeypatch.setattr(runs, "work", fail)
    argv = [*tiny, "--output", str(tmp_path), "--seeds", "2", "--only", "Mona,LoRA,Full", "--processes=1"]
    assert load_tool("compare").main(argv) == 1
    assert trained == ["Full, seed 0", "Mona, seed 1", "LoRA, seed 1", "Full, seed 1"]
    failed = json.loads((tmp_path / "results.json").read_text())["failed"]
    log = tmp_path / "Mona" / "seed0" / "log.txt"
    assert failed["Mona, seed 0"] == f"the loss is not finite; see {log}"
    assert failed["LoRA, seed 0"].startswith("RuntimeError: two; see ")
    assert "Traceback" in log.read_text()
    text = capsys.readouterr()
    assert "| Mona (seeds 1) " in text.out and "Failed: Mona, seed 0: the loss is not finite" in text.out
    assert f"error: Mona, seed 0: the loss is not finite; see {log}" in text.err


@pytest.mark.slow
def test_mean_and_spread_are_numpys(tiny, tmp_path, trained):
    results = compare(CONFIG, tmp_path, tiny, seeds=3, processes=1)
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows)[: len(ROWS)] == COMPLETE
    ap = rows["Full"]["figures"]["AP"]
    assert ap["values"] == [100.0, 101.0, 104.0]
    assert ap["mean"] == pytest.approx(np.mean(ap["values"])) and ap["std"] == pytest.approx(
        np.std(ap["values"], ddof=1)
    )
    assert rows["Full, no infrared"]["figures"]["AP"]["values"] == [98.0, 99.0, 102.0]
    assert rows["Full"]["seconds_per_step"] == 1.5
    lines = markdown(results).splitlines()
    head, full, lost = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (lines[0], *(x for x in lines if x.startswith(("| Full ", "| Full, no infrared"))))
    )
    # Columns that the data do not report are left out.
    assert head[:3] == ["", "AP", "AP50"] and head[3] == "trained in backbone"
    assert full[:2] == ["Full", "101.7 ± 2.1"] and lost[1] == "99.7 ± 2.1" and lost[3] == ""
    one = markdown(compare(CONFIG, tmp_path, tiny, seeds=1, processes=1))
    assert "| Full " in one and "±" not in one.split("\n- ")[0]


def test_methods_differ_from_the_config_in_what_they_are_alone(tiny, tmp_path):
    tuner = ["model.backbone.net.tuner.norm=GN", "optimizer.params.added_lr_factor=7"]
    shared = jobs.conditions(CONFIG, [*tiny, *tuner])
    planned = {job.row: job for job in jobs.plan(shared, [*tiny, *tuner], 1, tmp_path, 1)}
    configs = {key: load_config(job.config, job.overrides) for key, job in planned.items()}
    nets = {key: cfg.model.backbone.net for key, cfg in configs.items()}
    for key, cfg in configs.items():
        assert cfg.optimizer.params.added_lr_factor == (3 if key == "IVTuning-3x" else 1)
        dropout = key == "IVTuning-dropout"
        assert cfg.dataloader.train.mapper.get("modality_dropout", 0) == (0.3 if dropout else 0)
        assert nets[key].tuner.get("norm") == ("GN" if key.startswith("IVTuning") else None)
    assert nets["LoRA"].tuner["rank"] == nets["Mona"].tuner.hidden_dim == nets["IVTuning"].tuner.hidden_dim
    compared = {METHODS[row.method].tuner.__name__ for row in ROWS.values() if row.method}
    assert compared | {"IVTuning"} == set(TUNERS)
    built = {key: build(net, "") for key, net in nets.items()}
    for key, net in built.items():
        method = METHODS[ROWS[key].method or "IVTuning"]
        assert (type(net.stem), type(net.tuner)) == (method.stem, method.tuner)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--only", "Mona,Lora"], "no method 'Lora'; did you mean 'LoRA'"),
        (["--seeds", "0"], "seeds=0"),
        (["--processes", "0"], "processes=0"),
        (["--iterations", "0"], "--iterations 0: give 1 or more"),
        (["train.init_checkpoint=nowhere.pth"], "no trunk file 'nowhere.pth': `make demo` writes"),
        (["train.init_checkpoint="], "no trunk file ''"),
        (["model.backbone.net.tuner=Full"], "give the data set's IV-tuning config"),
        (["dataloader.test.dataset.names=synthetic_dev"], "no data set is called 'synthetic_dev'"),
        (["--config-file", "configs/MSRS/nano_ivtuning.py"], "needs --output DIR"),
    ],
)
def test_bad_arguments_end_in_one_line(tiny, tmp_path, capsys, arguments, words):
    output = [] if "--config-file" in arguments else ["--output", str(tmp_path / "out")]
    assert words in line_of(capsys, [*tiny, *output, *arguments], "compare")
    assert not (tmp_path / "out").exists()
