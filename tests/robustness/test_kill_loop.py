"""Runs that are killed at every kind of moment and go on: the folder equals that of an uninterrupted run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.folders import differences
from helpers.isolation import Outcome, run
from helpers.runs import TINY
from helpers.tools import ROOT

TOOL = "tests/helpers/killed_training.py"
OPTIONS = [
    *TINY,
    "train.max_iter=4",
    "train.checkpointer.period=2",
    "train.checkpointer.max_to_keep=1",
    "train.eval_period=1",
    "train.log_period=3",
    "train.ema_decay=0.9",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
]


def train(
    folder: Path, synthetic: Path, *flags: str, at: int = 0, by: str = "SIGKILL", log: str = ""
) -> Outcome:
    argv = [
        "--config-file",
        str(ROOT / "configs/synthetic/ivtuning.py"),
        *flags,
        *OPTIONS,
        "train.output_dir=out",
    ]
    folder.mkdir(exist_ok=True)
    environment = {"DETECTRON2_DATASETS": str(synthetic), "KILL_AT": str(at), "KILL_BY": by, "KILL_LOG": log}
    return run(TOOL, argv, folder, environment)


@pytest.fixture(scope="module")
def whole(synthetic, tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted run, and the moments in it."""
    folder = tmp_path_factory.mktemp("whole")
    log = folder / "moments"
    outcome = train(folder / "work", synthetic, log=str(log))
    assert outcome.code == 0, outcome.err
    return folder / "work" / "out", log.read_text().splitlines()


def test_killed_anywhere(whole, synthetic, tmp_path):
    expected, moments = whole
    step = int(__import__("os").environ.get("STEP", "8"))
    for at in range(1, len(moments) + 1, step):
        folder = tmp_path / str(at)
        killed = train(folder, synthetic, at=at)
        assert killed.code == -9, killed.err
        resumed = train(folder, synthetic, "--resume")
        assert resumed.code == 0, f"{at} {moments[at - 1]}: {resumed.err}"
        assert not differences(folder / "out", expected), f"{at} {moments[at - 1]}"
        shutil.rmtree(folder)
