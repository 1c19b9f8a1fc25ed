"""Training curves: what is read of a run, and which panels are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig
from helpers.tools import load_tool
from omegaconf import OmegaConf
from PIL import Image

from ivtuning.errors import UserError
from ivtuning.visualization.curves import draw_curves, plot_curves, read_curves, smooth


def write_run(folder: Path, losses, scores=(), metric="bbox/AP", best_metric=None):
    folder.mkdir(parents=True)
    lines = [{"iteration": 20 * i, "total_loss": v, "lr": 1e-4} for i, v in enumerate(losses)]
    lines += [{"iteration": 100 * i, metric: v, f"{metric}-day": v} for i, v in enumerate(scores)]
    (folder / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in lines))
    if best_metric is not None:
        train = {"best_metric": best_metric, "ddp": {"find_unused_parameters": False}}
        LazyConfig.save(OmegaConf.create({"train": train}), str(folder / "config.yaml"))
    return folder


def panels(*runs: Path) -> dict[str, list[str]]:
    """What the picture says: by the panel's title, its legend and the words in it."""
    figure = draw_curves({run.name: read_curves(run) for run in runs})
    return {
        axes.get_title(): [t.get_text() for t in (*axes.get_legend().get_texts(), *axes.texts)]
        for axes in figure.axes
    }


def test_metrics_are_read_through_resume_and_a_killed_writer(tmp_path):
    run = write_run(tmp_path / "run", [4.0, 3.0, 2.0], [float("nan"), 12.5])
    with open(run / "metrics.json", "a") as file:
        file.write('{"iteration": 20, "total_loss": 2.5}\n{"iteration": 60, "total_lo')
    curves = read_curves(run)
    assert curves.loss.tolist() == [[0, 4.0], [20, 2.5], [40, 2.0]]
    assert curves.metric == "bbox/AP" and curves.scores.tolist() == [[100, 12.5]]


@pytest.mark.parametrize(
    ("metric", "title"),
    [("bbox/AP", "box AP"), ("sem_seg/mIoU", "mean IoU"), ("classification/top1", "top-1 accuracy")],
)
def test_every_task_is_drawn_by_its_own_metric(tmp_path, metric, title):
    run = write_run(tmp_path / "run", [4.0, 3.0], [10.0, 41.25], metric)
    assert panels(run) == {"total loss": ["run"], title: ["run (best 41.2)"]}
    waiting = write_run(tmp_path / "waiting", [4.0, 3.0], best_metric=metric)
    assert panels(waiting)[title] == ["waiting", "not evaluated yet"]
    assert panels(run, waiting)[title] == ["run (best 41.2)", "waiting"]


def test_the_runs_own_metric_comes_first(tmp_path):
    run = write_run(
        tmp_path / "run", [4.0], [10.0, 30.0], "bbox/AP50_11point", best_metric="bbox/AP50_11point"
    )
    assert panels(run)["bbox/AP50_11point"] == ["run (best 30.0)"]
    without = write_run(tmp_path / "without", [4.0], [10.0, 30.0], "sem_seg/mIoU", best_metric="")
    assert panels(without)["mean IoU"] == ["without (best 30.0)"]


def test_runs_of_several_tasks_have_a_panel_each(tmp_path):
    boxes = write_run(tmp_path / "boxes", [4.0], [10.0, 30.0])
    maps = write_run(tmp_path / "maps", [4.0], [20.0, 50.0], "sem_seg/mIoU")
    assert panels(boxes, maps) == {
        "total loss": ["boxes", "maps"],
        "box AP": ["boxes (best 30.0)"],
        "mean IoU": ["maps (best 50.0)"],
    }


@pytest.mark.parametrize("config", [None, "not: [yaml", "train: 3", "train: {best_metric: }"])
def test_runs_that_nothing_is_known_about(tmp_path, config):
    run = write_run(tmp_path / "run", [4.0, 3.0])
    if config is not None:
        (run / "config.yaml").write_text(config)
    assert panels(run)["evaluation"] == ["run", "not evaluated yet"]


def test_configs_with_python_objects_are_read(tmp_path):
    run = write_run(tmp_path / "run", [4.0])
    text = "model: {range: !!python/object/apply:builtins.range [0, 3], size: !!python/tuple [1, 2]}\n"
    (run / "config.yaml").write_text(f"{text}train:\n  best_metric: sem_seg/mIoU\n")
    assert panels(run)["mean IoU"] == ["run", "not evaluated yet"]


def test_smoothing_keeps_level_and_ends():
    assert smooth(np.full(50, 3.0), 7) == pytest.approx(3.0)
    noisy = np.arange(100.0) + np.tile([5, -5], 50)
    assert np.abs(smooth(noisy, 10)[10:-10] - np.arange(100)[10:-10]).max() < 1.1
    assert smooth(np.array([1.0, 2.0, 3.0]), 9).tolist() == [1.5, 2.0, 2.5]
    assert smooth(np.array([]), 3).size == 0


def test_curves_of_two_runs_differ_from_those_of_one(tmp_path, capsys):
    a = write_run(tmp_path / "a", [4, 3, 2, 1.5] * 20, [10, 30])
    b = write_run(tmp_path / "b", [5, 4.5, 4] * 20)
    one = plot_curves([a], tmp_path / "one.png").read_bytes()
    load_tool("visualize").main(["--curves", str(a), str(b), "--output", str(tmp_path / "out")])
    assert "curves.png" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "curves.png") as image:
        assert image.width > 1000
    assert (tmp_path / "out" / "curves.png").read_bytes() != one
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["curves.png"]


def test_bad_runs_are_reported(tmp_path):
    with pytest.raises(UserError, match="metrics.json"):
        read_curves(tmp_path)
    run = write_run(tmp_path / "run", [4.0])
    path = run / "metrics.json"
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(UserError, match="metrics.json:1: "):
        read_curves(run)
    path.write_text('{"iteration": 3, "lr": 0.1}\n')
    with pytest.raises(UserError, match="no total_loss and no scores yet"):
        read_curves(run)
    path.write_text("")
    with pytest.raises(UserError, match="no total_loss and no scores yet"):
        read_curves(run)


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", '"3.5"', "[1]", "1" + "0" * 400])
def test_values_that_are_no_numbers_are_left_out(tmp_path, value):
    run = write_run(tmp_path / "run", [4.0])
    with open(run / "metrics.json", "a") as file:
        file.write(f'{{"iteration": 20, "total_loss": {value}, "bbox/AP": {value}}}\n')
        file.write('\n{"iteration": 40, "total_loss": 2}\n')
    assert read_curves(run).loss.tolist() == [[0, 4.0], [40, 2.0]]


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": null}',
        '{"iteration": 1e999}',
        '{"iteration": -1}',
        '{"iteration": ' + "9" * 400 + "}",
        "[1]",
        "[" * 100_000,
        "3",
        "null",
        "{}",
    ],
    ids=lambda line: line[:20],
)
def test_lines_that_are_no_metrics_are_named(tmp_path, line):
    run = write_run(tmp_path / "run", [4.0])
    path = run / "metrics.json"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(UserError, match=r"metrics.json:1: not a line"):
        read_curves(run)


@pytest.mark.parametrize("config", ["train: {best_metric: [a]}", "train: {best_metric: 5}", "\0", "{}"])
def test_configs_that_name_no_metric(tmp_path, config):
    run = write_run(tmp_path / "run", [4.0], [10.0])
    (run / "config.yaml").write_text(config)
    assert read_curves(run).metric == "bbox/AP"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_an_editor_saved_is_read(tmp_path, encoding):
    run = write_run(tmp_path / "run", [4.0, 3.0])
    text = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text(text, encoding=encoding)
    assert len(read_curves(run).loss) == 2
