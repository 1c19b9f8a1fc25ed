"""Runs that are killed at every kind of moment and go on: the folder equals that of an uninterrupted run."""

from __future__ import annotations

import os
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
    "train.output_dir=out",
]
# One of so many moments is tried; 1 tries all of them, in some minutes.
EVERY = int(os.environ.get("KILL_EVERY", "11"))


def train(folder: Path, synthetic: Path, *flags: str, at: int = 0, log: str = "") -> Outcome:
    config = str(ROOT / "configs/synthetic/ivtuning.py")
    folder.mkdir(exist_ok=True)
    environment = {"DETECTRON2_DATASETS": str(synthetic), "KILL_AT": str(at), "KILL_LOG": log}
    return run(TOOL, ["--config-file", config, *flags, *OPTIONS], folder, environment)


@pytest.fixture(scope="module")
def whole(synthetic, tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted run, and the moments in it."""
    folder = tmp_path_factory.mktemp("whole")
    log = folder / "moments"
    outcome = train(folder / "work", synthetic, log=str(log))
    assert outcome.code == 0, outcome.err
    return folder / "work" / "out", log.read_text().splitlines()


def killed_and_resumed(folder: Path, synthetic: Path, at: int, again: int | None = None) -> Path:
    """The folder of a run that was killed at a moment, and perhaps again when it went on."""
    assert train(folder, synthetic, at=at).code == -9
    if again is not None:
        assert train(folder, synthetic, "--resume", at=again).code == -9
    resumed = train(folder, synthetic, "--resume")
    assert resumed.code == 0, resumed.err
    return folder / "out"


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_folder(whole, synthetic, tmp_path):
    expected, moments = whole
    assert {"after save", "before replace", "after evaluate", "before write", "after unlink"} <= {*moments}
    for at in range(1 + EVERY // 2, len(moments) + 1, EVERY):
        out = killed_and_resumed(tmp_path / str(at), synthetic, at)
        assert not differences(out, expected), f"killed at moment {at}, {moments[at - 1]}"


@pytest.mark.slow
def test_a_run_that_is_killed_twice_and_after_its_last_checkpoint(whole, synthetic, tmp_path):
    expected, moments = whole
    last = len(moments) - 1 - moments[::-1].index("before evaluate")
    numbered = max(i for i, m in enumerate(moments[:last]) if m == "before save")  # model_final's
    for name, at, again in (("final", numbered + 1, 3), ("results", len(moments) - 5, None)):
        out = killed_and_resumed(tmp_path / name, synthetic, at, again)
        assert not differences(out, expected), f"killed at moment {at}, {moments[at - 1]}"
