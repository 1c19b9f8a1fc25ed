"""Tests import ivtuning before detectron2, run on one thread, and see the repository as the working folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ivtuning  # noqa: F401

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def repository_root(monkeypatch):
    monkeypatch.chdir(ROOT)
