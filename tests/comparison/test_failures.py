"""A comparison's runs that fail, diverge or are stopped, and arguments that end it at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.comparisons import call
from helpers.tools import line_of, load_tool

from ivtuning.comparison import markdown, runs, summary
from ivtuning.engine.trainer import NonFiniteLoss
from ivtuning.errors import UserError


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_results_and_the_same_failures(tiny, tmp_path):
    broken = [*tiny, "model.backbone.net.tuner.norm=XN"]
    here, apart = (
        call(tmp_path / str(n), broken, seeds=1, only=["BitFit", "IVTuning"], processes=n) for n in (1, 2)
    )
    for results in here, apart:
        assert [row["name"] for row in results["rows"]] == ["BitFit"]
        assert results["failed"]["IVTuning, seed 0"].startswith("tuner.norm='XN': give BN, SyncBN or GN")
    assert here["rows"][0]["figures"] == apart["rows"][0]["figures"]
    assert apart["rows"][0]["processes"] == [2]


@pytest.fixture
def run_by(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Has the processes of runs be a shell script; its $3 is the job."""

    def set_script(text: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        monkeypatch.setattr(runs.sys, "executable", str(script))

    return set_script


def test_a_killed_process_is_reported(tiny, tmp_path, run_by):
    run_by("echo 50 steps done\nkill -9 $$")
    results = call(tmp_path / "out", tiny, seeds=1, only=["Full"], processes=2)
    log = tmp_path / "out" / "Full" / "all" / "seed0" / "log.txt"
    assert results["failed"] == {"Full, seed 0": f"ended by signal 9; see {log}"}


@pytest.fixture
def waiting(tmp_path, run_by) -> Iterator[Path]:
    """Runs are processes of a minute that leave their number in this file; that of seed 1 soon ends."""
    number = tmp_path / "number"
    run_by(f"case $3 in *'seed 1'*) sleep 1 ;; *) echo $$ > {number}; exec timeout 60 cat ;; esac")
    start = time.monotonic()
    yield number
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


def test_a_stop_ends_the_processes_that_run(tiny, tmp_path, monkeypatch, waiting):
    write = runs._write

    def stop_after_a_run(plan, failed):
        if waiting.exists():
            raise KeyboardInterrupt("stopped")
        return write(plan, failed)

    monkeypatch.setattr(runs, "_write", stop_after_a_run)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        call(tmp_path / "out", tiny, seeds=3, only=["Full"], processes=2)


def test_a_stop_ends_the_processes_while_others_are_started(tiny, tmp_path, monkeypatch, waiting):
    submit = runs.ThreadPoolExecutor.submit

    def stop_at_the_second(pool, function, job, *args):
        while job.seed and not (waiting.exists() and waiting.read_text()):
            time.sleep(0.05)
        if job.seed:
            raise KeyboardInterrupt("stopped")
        return submit(pool, function, job, *args)

    monkeypatch.setattr(runs.ThreadPoolExecutor, "submit", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        call(tmp_path / "out", tiny, seeds=2, only=["Full"], processes=2)


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
    log = tmp_path / "Mona" / "all" / "seed0" / "log.txt"
    assert failed["Mona, seed 0"] == f"the loss is not finite; see {log}"
    assert failed["LoRA, seed 0"].startswith("RuntimeError: two; see ")
    assert "Traceback" in log.read_text()
    text = capsys.readouterr()
    assert "| Mona (seeds 1) " in text.out and "Failed: Mona, seed 0: the loss is not finite" in text.out
    assert f"error: Mona, seed 0: the loss is not finite; see {log}" in text.err


@pytest.fixture
def rates(monkeypatch) -> list[str]:
    """Labels of the runs that were trained: those at 0.01 diverge, and the first search at 0.001 fails."""
    labels = []

    def train(cfg, progress, replace):
        labels.append(progress)
        if cfg.optimizer.lr >= 0.01:
            raise NonFiniteLoss("the loss is not finite at iteration 3")
        if progress.endswith("at 0.001") and labels.count(progress) == 1:
            raise RuntimeError("odd")
        return {"bbox": {"AP": 40.0}}

    monkeypatch.setattr(runs.run, "train", train)
    monkeypatch.setattr(runs, "_keep_model", lambda *args: dict.fromkeys(summary.SAME, 1))
    return labels


def test_a_rate_that_diverged_is_remembered(tiny, tmp_path, rates, capsys):
    options = dict(only=["LoRA"], seeds=1, search=[1, 3, 10], search_size=4)
    results = call(tmp_path, tiny, **options)
    searched = [f"LoRA, search at {rate}" for rate in ("0.001", "0.003", "0.01")]
    assert rates == [*searched, "LoRA, seed 0"] and list(results["failed"]) == [searched[0]]
    found = results["search"]["LoRA"]
    assert found["rates"] == [0.003, 0.01] and found["figures"] == [40.0, None] and found["chosen"] == 0.003
    assert found["diverged"] == [None, "the loss is not finite at iteration 3"]
    assert "| **40.0 at 0.003** | diverged at 0.01 |" in " ".join(markdown(results).split())
    assert f"{searched[2]} diverged: the loss is not finite" in capsys.readouterr().err
    # What failed for another reason is run again; the lower one of equal rates is chosen.
    rates[:] = searched[:1]
    results = call(tmp_path, tiny, **options)
    assert rates[1:] == [searched[0], "LoRA, seed 0"] and not results["failed"]


def test_a_row_whose_rates_all_diverged_is_reported(tiny, tmp_path, rates, capsys):
    options = dict(only=["LoRA"], seeds=1, search=[1, 3], search_size=4)
    fast = [*tiny, "optimizer.lr=0.1"]
    results = call(tmp_path, fast, **options)
    assert results["failed"] == {"LoRA": "every rate of its search diverged: add lower factors to --search"}
    table = markdown(results)
    assert "diverged at 0.3 | - |" in " ".join(table.split()) and "no runs" in table
    assert "s/step" not in table and " \n" not in table
    assert "| 2/2 [" in capsys.readouterr().err  # the bar does not wait for its other runs
    assert call(tmp_path, fast, **options) == results and len(rates) == 2
    # No rate is at fault where none is searched for: the run is trained again.
    for count in (3, 4):
        assert (
            "not finite" in call(tmp_path / "plain", fast, only=["LoRA"], seeds=1)["failed"]["LoRA, seed 0"]
        )
        assert len(rates) == count


def test_equal_rows_are_drawn(tmp_path):
    """Two points at one place have nothing else to be sorted by."""
    row = {"name": "a", "missing": None, "pairs": 5, "backbone_trainable": 3, "seconds": 2.0}
    rows = [row | {"figures": {"AP": {"mean": mean, "std": None}}} for mean in (1.0, 2.0)]
    drawn = runs.charts.draw({"rows": rows, "conditions": {"metric": "AP"}}, tmp_path)
    assert len(drawn) == 3 and all(path.stat().st_size for path in drawn)


def test_charts_that_fail_hide_no_error(tiny, tmp_path, trained, monkeypatch):
    def fail(*args):
        raise OSError("no room for charts")

    monkeypatch.setattr(runs.charts, "draw", fail)
    with pytest.raises(OSError, match="no room for charts"):
        call(tmp_path, tiny, only=["Mona"], against="Mona", seeds=1)

    def stop(job):
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(runs, "work", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        call(tmp_path, tiny, only=["Mona"], against="Mona", seeds=2)


def test_a_stop_leaves_tables_and_charts_of_what_has_run(tiny, tmp_path, trained, monkeypatch):
    work = runs.work

    def stop_at_the_second(job):
        if job.seed == 1:
            raise KeyboardInterrupt
        work(job)

    monkeypatch.setattr(runs, "work", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "out", tiny, only=["Mona"], against="Mona", seeds=2)
    assert json.loads((tmp_path / "out/results.json").read_text())["rows"][0]["seeds"] == [0]
    assert (tmp_path / "out/score_by_seconds.png").stat().st_size > 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--only", "Mona,Lora"], "no method 'Lora'; did you mean 'LoRA'"),
        (["--seeds", "0"], "--seeds 0: give 1 or more"),
        (["--processes", "0"], "--processes 0: give 1 or more"),
        (["--iterations", "0"], "--iterations 0: give 1 or more"),
        (["--sizes", "4,0"], "--sizes 0,4: give 1 or more"),
        (["--sizes", "4,x"], "--sizes 4,x: give numbers"),
        (["--sizes", "13"], "--sizes 13: synthetic_train has 12 pairs"),
        (["--search", "1e-4,1e-3"], "--search 0.0001,0.001: give factors"),
        (["--search", "1", "--hold-out", "0"], "--hold-out 0: the search needs pairs"),
        (
            ["--search", "1", "--search-size", "11"],
            "--search-size 11: of the 12 pairs of synthetic_train 2 are",
        ),
        (["--variant", "IVTuning"], "--variant 'IVTuning': write it as"),
        (["--variant", "Full: train.max_iter=1"], "there is a row Full: choose another name"),
        (["--variant", "visible only: train.max_iter=1"], "there is a row visible only: choose another name"),
        (["--variant", "GN: model.backbone.net.tuner.nrm=GN"], "has no 'nrm'; did you mean 'norm'"),
        (["--against", "Ful"], "--against Ful: no such row"),
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
