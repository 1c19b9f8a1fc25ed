"""Whole runs of a tiny detector on synthetic pairs: training, exact resume, evaluation, two processes."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from helpers.runs import TINY, config

from ivtuning.backbones import trunk
from ivtuning.checkpoint.files import read as read_checkpoint
from ivtuning.engine import run
from ivtuning.engine.trainer import Trainer


class Killed(Exception):
    pass


def kill_after(monkeypatch, iteration: int) -> None:
    """Let training stop after the step `iteration`, when all hooks have run."""
    after_step = Trainer.after_step

    def after_step_or_killed(self):
        after_step(self)
        if self.iter == iteration:
            raise Killed

    monkeypatch.setattr(Trainer, "after_step", after_step_or_killed)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Folder and results of an uninterrupted run with some options; tests share the runs of equal options."""
    runs = {}

    def train(*options: str):
        if options not in runs:
            folder = tmp_path_factory.mktemp("whole")
            runs[options] = folder, run.train(config(folder, *options))
        return runs[options]

    return train


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", [2, 4])
@pytest.mark.parametrize("accumulate, ema, workers", [(1, 0.9, 0), (2, 0.0, 2)])
def test_a_killed_run_resumes_to_bit_equal_weights(
    pairs, whole_run, tmp_path, monkeypatch, killed_after, accumulate, ema, workers
):
    options = [
        "train.max_iter=6",
        "train.checkpointer.period=2",
        "train.eval_period=2",
        f"train.gradient_accumulation={accumulate}",
        f"train.ema_decay={ema}",
        f"dataloader.train.num_workers={workers}",
    ]
    folder, whole = whole_run(*options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, killed_after)
        run.train(config(tmp_path, *options))
    resumed = run.train(config(tmp_path, *options), resume=True)

    assert resumed["bbox"] == pytest.approx(whole["bbox"], nan_ok=True)
    a, b = (read_checkpoint(where / "model_final.pth") for where in (folder, tmp_path))
    assert a["iteration"] == b["iteration"] == 5
    assert a["trainer"]["hooks"].keys() == b["trainer"]["hooks"].keys() >= {"LRScheduler"}
    assert (folder / "best.json").read_text() == (tmp_path / "best.json").read_text()
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name]), name
    if ema:
        for name, value in a["trainer"]["hooks"]["EMA"]["average"].items():
            assert torch.equal(value, b["trainer"]["hooks"]["EMA"]["average"][name]), name
            for where in (folder, tmp_path):  # the weights that were evaluated
                assert torch.equal(read_checkpoint(where / "model_averaged.pth")["model"][name], value), name


def test_a_run_goes_on_with_the_rates_that_it_is_given(pairs, tmp_path, monkeypatch):
    options = ["train.max_iter=4", "train.checkpointer.period=2", "train.log_period=1"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 2)
        run.train(config(tmp_path, *options))
    run.train(config(tmp_path, *options, "optimizer.lr=1e-5", "optimizer.weight_decay=0.3"), resume=True)
    groups = read_checkpoint(tmp_path / "model_final.pth")["trainer"]["optimizer"]["param_groups"]
    assert max(group["initial_lr"] for group in groups) < 4e-5
    assert max(group["weight_decay"] for group in groups) == 0.3
    rates = [json.loads(line).get("lr") for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert rates[1] > 1e-4 and max(rates[2:4]) < 4e-5


def test_a_config_that_yaml_cannot_hold_leaves_one_pickle(pairs, tmp_path):
    cfg = config(tmp_path, "train.max_iter=1")
    cfg.note = lambda: None
    run.train(cfg)
    assert (tmp_path / "config.yaml.pkl").is_file()
    assert not [path for path in tmp_path.iterdir() if ".tmp" in path.name]


def test_frozen_tensors_are_bit_equal_and_every_trained_one_moves(pairs, tmp_path):
    cfg = config(tmp_path, "train.max_iter=3", "optimizer.weight_decay=0.0", "optimizer.lr=0.01")
    seed_all_rng(cfg.train.seed)
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in run.build_model(cfg).named_parameters()}
    run.train(cfg)
    after = read_checkpoint(tmp_path / "model_final.pth")["model"]
    for name, (value, trains) in before.items():
        assert torch.equal(value, after[name]) != trains, name


def test_a_run_looks_for_the_trunk_once(pairs, tmp_path, monkeypatch):
    """Whoever needs the trunk is given its place."""
    calls = []

    def counted(model):
        calls.append(model)
        return trunk.find_trunk(model)

    save = run.build_model(config(tmp_path))
    torch.save({"model": save.state_dict()}, tmp_path / "start.pth")
    for name, module in list(sys.modules.items()):
        if name.startswith("ivtuning.") and module is not trunk and hasattr(module, "find_trunk"):
            monkeypatch.setattr(module, "find_trunk", counted)
    options = ["train.max_iter=1", f"train.init_checkpoint={tmp_path / 'start.pth'}", "train.precision=bf16"]
    run.train(config(tmp_path / "out", *options, "train.frozen_dtype=bf16", "train.ema_decay=0.9"))
    assert len(calls) == 1


def test_the_log_says_which_images_are_used(pairs, tmp_path, caplog):
    caplog.set_level("INFO", logger="ivtuning")
    run.train(config(tmp_path, "train.max_iter=1", "method=visible"))
    assert "input: visible only, infrared is ignored" in caplog.text


def test_metrics_and_results_are_written(pairs, tmp_path):
    results = run.train(config(tmp_path, "train.max_iter=2", "train.log_period=1"))
    assert {"AP", "AP50", "AP-day", "AP50-night", "AP-both", "AP-person"} <= results["bbox"].keys()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {"total_loss", "lr", "iteration"} <= lines[0].keys()
    assert any("bbox/AP" in line for line in lines)
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_best_checkpoint_is_the_better_one_and_survives_a_resume(pairs, tmp_path, monkeypatch):
    scores = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr(run, "evaluate", lambda cfg, model, stop: {"bbox": {"AP": next(scores)}})
    options = ["train.eval_period=1", "train.checkpointer.period=1"]
    run.train(config(tmp_path, "train.max_iter=2", *options))
    best = read_checkpoint(tmp_path / "model_best.pth")
    assert best["metric"] == 30.0 and "trainer" not in best
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    run.train(config(tmp_path, "train.max_iter=3", *options), resume=True)
    assert read_checkpoint(tmp_path / "model_best.pth")["metric"] == 30.0
    assert json.loads((tmp_path / "best.json").read_text())["value"] == 30.0


def test_a_folder_is_replaced_where_that_is_asked_for(pairs, tmp_path):
    run.train(config(tmp_path, "train.max_iter=2", "train.checkpointer.period=1"))
    run.train(config(tmp_path, "train.max_iter=1"), replace=True)
    assert {p.name for p in tmp_path.glob("model_*")} == {"model_final.pth", "model_best.pth"}
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_evaluating_a_checkpoint_gives_the_runs_own_figures(pairs, tmp_path):
    cfg = config(tmp_path, "train.max_iter=2", "model.roi_heads.box_predictor.test_score_thresh=0.0")
    results = run.train(cfg)
    again = run.evaluate_checkpoint(cfg, str(tmp_path / "model_final.pth"))
    assert again["bbox"] == pytest.approx(results["bbox"], nan_ok=True)


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_runs_on_the_cpu(pairs, tmp_path, precision):
    run.train(config(tmp_path, "train.max_iter=2", f"train.precision={precision}"))
    for value in read_checkpoint(tmp_path / "model_final.pth")["model"].values():
        assert value.dtype != torch.bfloat16


@pytest.mark.parametrize("wanted", [True, False])
def test_every_run_sets_cudnn_as_its_config_says(pairs, tmp_path, monkeypatch, wanted):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not wanted)
    seen = []

    def build_model(cfg):
        seen.append(torch.backends.cudnn.benchmark)
        raise Killed

    monkeypatch.setattr(run, "build_model", build_model)
    with pytest.raises(Killed):
        run.train(config(tmp_path, f"train.cudnn_benchmark={wanted}"))
    assert seen == [wanted]


def test_loader_processes_end_with_the_run(pairs, tmp_path, monkeypatch):
    options = ["train.max_iter=2", "dataloader.train.num_workers=2"]
    run.train(config(tmp_path / "whole", *options))
    assert not multiprocessing.active_children()
    with monkeypatch.context() as patch, pytest.raises(Killed) as killed:
        kill_after(patch, 0)
        run.train(config(tmp_path / "cut", *options))
    assert killed.traceback and not multiprocessing.active_children()


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(pairs, tmp_path):
    command = [sys.executable, "-m", "ivtuning.engine.launch", "--standalone", "--nproc_per_node=2"]
    command += ["tools/train_net.py", "--config-file", "configs/synthetic/ivtuning.py", *TINY]
    command += [f"train.output_dir={tmp_path}", "train.max_iter=2", "dataloader.train.total_batch_size=4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "World size: 2" in done.stdout and "bbox results of synthetic_val" in done.stdout
    state = read_checkpoint(tmp_path / "model_final.pth")
    assert state["iteration"] == 1 and all(v.isfinite().all() for v in state["model"].values())
