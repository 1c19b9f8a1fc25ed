"""A run's folder: whose it is, what may enter it, and how a run leaves it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.folders import differences
from helpers.isolation import Outcome, run
from helpers.runs import TINY
from helpers.tools import ROOT, package_environment

from ivtuning.errors import UserError
from ivtuning.utils.files import atomic_write, remove_temporaries
from ivtuning.utils.locks import FolderLock

DRIVER = "tests/helpers/killed_training.py"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def arguments(*extra: str) -> list[str]:
    options = ["train.max_iter=2", "train.checkpointer.period=1", "train.ema_decay=0.9"]
    config = str(ROOT / "configs/synthetic/ivtuning.py")
    return ["--config-file", config, *TINY, *options, "train.output_dir=out", *extra]


@pytest.fixture(scope="module")
def train(synthetic):
    """Runs tools/train_net.py in a folder, with overrides and flags."""

    def run_there(folder: Path, *extra: str, **variables: str) -> Outcome:
        environment = {"DETECTRON2_DATASETS": str(synthetic), **variables}
        return run(DRIVER, arguments(*extra), folder, environment)

    return run_there


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory) -> Path:
    """The folder in which a run has finished."""
    folder = tmp_path_factory.mktemp("finished") / "work"
    folder.mkdir()
    outcome = train(folder)
    assert outcome.code == 0, outcome.err
    return folder


def line(outcome: Outcome) -> str:
    assert outcome.code == 1, outcome.out + outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    (found,) = [x for x in outcome.err.splitlines() if x.startswith("error: ")]
    return found


def test_a_run_leaves_what_it_promises(finished):
    names = {p.name for p in (finished / "out").iterdir() if not p.name.startswith("events")}
    assert names == {
        *("config.yaml", "log.txt", "metrics.json", "results.json", "best.json", "last_checkpoint"),
        *("model_0000000.pth", "model_0000001.pth", "model_final.pth", "model_best.pth"),
        "model_averaged.pth",
    }
    results = json.loads((finished / "out/results.json").read_text())
    assert results["iterations"] == 2 and "AP50" in results["results"]["bbox"]
    last = json.loads((finished / "out/metrics.json").read_text().splitlines()[-1])
    assert last["iteration"] == 2 and "bbox/AP" in last
    log = (finished / "out/log.txt").read_text()
    assert "torch 2" in log and "trained" in log and len(log) < 12_000


def test_what_is_refused_or_finished_changes_nothing(finished, train):
    before = content(finished)
    assert "holds a run already (model_0000000.pth): go on with it by --resume" in line(train(finished))
    outcome = train(finished, "--resume")
    assert outcome.code == 0 and "is finished (2 iterations)" in outcome.out
    assert "out/results.json" in outcome.out
    said = line(train(finished, "--resume", "model.backbone.net.embed_dim=48"))
    assert "model_final.pth: a checkpoint of another model" in said
    said = line(train(finished, "--resume", "train.max_iter=1"))
    assert "has 2 iterations behind it, more than train.max_iter=1" in said
    said = line(train(finished, "--resume", "train.ema_decay=0"))
    assert "it has EMA, and this run has none" in said
    assert content(finished) == before


def test_an_evaluation_writes_its_results_and_nothing_else(finished, train):
    before = content(finished)
    train(finished, "--eval-only", "--weights", "out/model_final.pth", "dataloader.test.mapper.drop=infrared",
          "model.fill_missing=mean")  # fmt: skip
    after = content(finished)
    assert {name for name in after if after[name] != before.get(name)} == {"out/results.json", "out/log.txt"}
    results = json.loads(after["out/results.json"])
    assert results["test"] == "synthetic_val"
    assert results["weights"] == "out/model_final.pth" and "AP50" in results["results"]["bbox"]


def test_a_run_that_fails_before_its_first_step_leaves_nothing(train, tmp_path, synthetic):
    (tmp_path / "work").mkdir()
    for extra in (["train.init_checkpoint=gone.pth"], ["model.pixel_std=[0,0,0,0,0,0]"]):
        line(train(tmp_path / "work", *extra))
        assert not list((tmp_path / "work").iterdir())


def damage_optimizer(state: dict) -> None:
    moments = state["trainer"]["optimizer"]["state"]
    moments[0]["exp_avg"] = torch.ones(3, 3, 3)


def damage_all_moments(state: dict) -> None:
    for moments in state["trainer"]["optimizer"]["state"].values():
        moments["exp_avg"] = moments["exp_avg"].flatten()[:1].clone()


def damage_step(state: dict) -> None:
    state["trainer"]["optimizer"]["state"][0]["step"] = "two"


def damage_rate(state: dict) -> None:
    state["trainer"]["optimizer"]["param_groups"][0]["lr"] = "1e-3"


def damage_groups(state: dict) -> None:
    del state["trainer"]["optimizer"]["param_groups"][-1]


def damage_iteration(state: dict) -> None:
    state["trainer"]["iteration"] = "1"


def damage_average(state: dict) -> None:
    average = state["trainer"]["hooks"]["EMA"]["average"]
    average.pop(next(iter(average)))


def damage_schedule(state: dict) -> None:
    state["trainer"]["hooks"]["LRScheduler"]["base_lrs"] = [0.1]


def damage_figures(state: dict) -> None:
    state["trainer"]["hooks"]["Metrics"]["figures"]["lr"] = 3


def damage_trainer(state: dict) -> None:
    del state["trainer"]


def damage_weights(state: dict) -> None:
    state["model"][next(iter(state["model"]))].fill_(float("nan"))


@pytest.mark.parametrize(
    "damage, words",
    [
        (damage_optimizer, "exp_avg of parameter 0 is (3, 3, 3), not"),
        (damage_all_moments, "exp_avg of parameter 0 is (1,), not"),
        (damage_step, "step of parameter 0 is 'two'"),
        (damage_rate, "parameter group 0 of the optimizer: lr='1e-3'"),
        (damage_groups, "parameter groups of the optimizer, not"),
        (damage_iteration, "the iteration is '1'"),
        (damage_average, "the average of the weights: 1 other tensors"),
        (damage_schedule, "base_lrs are [0.1]"),
        (damage_figures, "lr of Metrics is no figure"),
        (damage_trainer, "it lacks trainer; weights alone start a new run"),
        (damage_weights, "holds NaN or infinite numbers"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(finished, synthetic, monkeypatch, damage, words):
    """Called directly: the tool's own way to it is the same for all."""
    from ivtuning.config import load_config
    from ivtuning.data.datasets.detection import register_known
    from ivtuning.engine import run as engine

    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic))
    register_known()
    monkeypatch.chdir(finished)
    marker = Path("out/last_checkpoint")
    state = torch.load("out/model_final.pth", weights_only=True)
    damage(state)
    torch.save(state, "out/model_damaged.pth")
    marker.write_text("model_damaged.pth")
    argv = arguments()[2:]
    try:
        with pytest.raises(UserError, match=re.escape(words)) as error:
            engine.train(load_config(str(ROOT / "configs/synthetic/ivtuning.py"), argv), resume=True)
        assert "\n" not in str(error.value) and "model_damaged.pth" in str(error.value)
    finally:
        marker.write_text("model_final.pth")
        Path("out/model_damaged.pth").unlink()
    assert not Path("out/.lock").exists()


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("best.json", "{", "best.json:1: not valid JSON"),
        ("best.json", '{"metric": "bbox/AP", "value": "high", "iteration": 2}', "no record of a metric"),
        ("metrics.json", "figures\n{}\n", "metrics.json:1: not a line of metrics"),
        ("last_checkpoint", "model_0000009.pth", "model_final.pth is whole: go on from it after"),
    ],
)
def test_a_damaged_file_is_named(finished, train, name, text, words):
    file = finished / "out" / name
    good = file.read_text()
    file.write_text(text)
    try:
        before = content(finished)
        assert words in line(train(finished, "--resume"))
        assert content(finished) == before
    finally:
        file.write_text(good)


@pytest.mark.parametrize("name", ["last_checkpoint", "metrics.json", "best.json", "config.yaml", "log.txt"])
def test_a_folder_in_the_place_of_a_file_is_named(finished, train, name):
    file, aside = finished / "out" / name, finished / "aside"
    file.rename(aside)
    file.mkdir()
    try:
        before = content(finished)
        assert f"out/{name} is a folder" in line(train(finished, "--resume"))
        assert content(finished) == before
    finally:
        file.rmdir()
        aside.rename(file)


def test_a_lock_names_its_owner_and_outlives_nobody(tmp_path, caplog):
    lock = FolderLock(tmp_path)
    with pytest.raises(UserError, match="in use by this process"):
        FolderLock(tmp_path)
    code = "from pathlib import Path; from ivtuning.utils.locks import FolderLock; FolderLock(Path('.'))"
    other = [sys.executable, "-c", code]
    done = subprocess.run(other, cwd=tmp_path, env=package_environment(), capture_output=True, text=True)
    assert f"in use by process {os.getpid()} on " in done.stderr
    lock.release()
    assert not list(tmp_path.iterdir())
    assert subprocess.run(other, cwd=tmp_path, env=package_environment()).returncode == 0
    assert (tmp_path / ".lock").exists()  # nobody released it
    FolderLock(tmp_path).release()
    assert "has ended: taking it over" in caplog.text and not list(tmp_path.iterdir())


def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f".a.{dead.pid}.tmp", ".model_final.pth.tmp", f".b.{os.getppid()}.tmp"):
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "c") as temp:
        temp.touch()
        assert str(os.getpid()) in temp.name
    remove_temporaries(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f".b.{os.getppid()}.tmp", "c"}


def test_two_runs_do_not_share_a_folder(synthetic, train, tmp_path):
    """The second is refused while the first one runs."""
    folder = tmp_path / "work"
    (folder / "out").mkdir(parents=True)
    lock = FolderLock(folder / "out")
    try:
        assert "out is in use by process" in line(train(folder))
    finally:
        lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("by, code, periods", [("SIGTERM", 143, (3, 2)), ("SIGINT", 130, (3,))])
def test_a_signal_saves_and_says_how_to_go_on(synthetic, train, tmp_path, by, code, periods):
    # Between two numbered checkpoints, and at one of them.
    checkpoints = {3: "model_stopped.pth", 2: "model_0000001.pth"}
    for period in periods:
        options = [f"train.checkpointer.period={period}", "train.max_iter=4", "train.eval_period=2"]
        whole, log = tmp_path / f"whole{period}", tmp_path / f"moments{period}"
        whole.mkdir()
        assert train(whole, *options, KILL_LOG=str(log)).code == 0
        moments = log.read_text().splitlines()
        step = [i for i, m in enumerate(moments, 1) if m == "before run_step"][1]
        for at in (step, moments.index("before evaluate") + 1):
            cut = tmp_path / f"cut{period}_{at}"
            cut.mkdir()
            outcome = train(cut, *options, KILL_AT=str(at), KILL_BY=by)
            assert outcome.code == code, outcome.err
            assert "Traceback" not in outcome.out + outcome.err
            (said,) = [x for x in outcome.err.splitlines() if x.startswith("error: ")]
            assert f"stopped by {by} after 2 of 4 iterations: the same command with --resume" in said
            assert (cut / "out/last_checkpoint").read_text() == checkpoints[period]
            assert train(cut, *options, "--resume").code == 0
            assert not differences(cut / "out", whole / "out")


def test_ctrl_c_inside_a_file_of_weights_is_no_error_of_torch(tmp_path):
    class Interrupted:
        def write(self, data):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.pth") as temp:
        temp.touch()
        torch.save({"x": torch.ones(3)}, Interrupted())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_of_a_comparison_end_with_it(tmp_path):
    """The pipe that a worker reads closes when its parent is killed."""
    code = """if True:
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-m", "ivtuning.comparison", "{}"], stdin=subprocess.PIPE)
        print(child.pid, flush=True)
        time.sleep(100)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=package_environment(), stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        if "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            break
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{worker}").exists()
