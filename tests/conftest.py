"""Tests run on one thread, in the repository's root, with detectron2 prepared for import."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Read when triton is imported: its kernels run in Python, on the CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs a network

from ivtuning import compat  # noqa: E402

compat.prepare()
torch.set_num_threads(1)
# With all modules in memory, looking for garbage as often as Python does by itself takes 5 % of the suite.
gc.set_threshold(50_000, 20, 20)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def repository_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def fresh_logs():
    """detectron2 keeps its log handlers for the life of the process; they outlive the test's stdout."""
    from detectron2.utils.logger import setup_logger

    yield
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "ivtuning"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    """A folder to serve as $DETECTRON2_DATASETS, with a small synthetic set in it."""
    from ivtuning.data.synthetic.generate import generate

    root = tmp_path_factory.mktemp("datasets")
    generate(root / "synthetic", train=12, val=4, size=(96, 72))
    return root


@pytest.fixture
def pairs(synthetic, monkeypatch) -> Path:
    """The small synthetic set, registered as synthetic_train and synthetic_val; gone again afterwards."""
    from ivtuning.data.datasets.detection import register_known

    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic))
    register_known()
    yield synthetic / "synthetic"
    monkeypatch.undo()
    register_known()


@pytest.fixture
def register(tmp_path):
    """A function (content of a JSON, name) -> name that registers a set of boxes for one test."""
    from helpers.sets import registering

    from ivtuning.data.datasets.detection import register_pairs

    with registering(tmp_path, "annotations", register_pairs) as make:
        yield make
