"""Which precisions a device has, and the warning of a CPU that has no instructions for bfloat16."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers.runs import TINY

from ivtuning.config import load_config
from ivtuning.engine import precision
from ivtuning.engine.checks import check_run
from ivtuning.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def warned(monkeypatch, caplog):
    """A function (cost of bfloat16, function without arguments) -> the warnings that the function logs."""

    def call(cost: float, function) -> list[str]:
        monkeypatch.setattr(precision, "bfloat16_cost", lambda: cost)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="ivtuning"):
            function()
        return [record.getMessage() for record in caplog.records]

    return call


def test_types_of_autocast():
    assert precision.autocast_dtype("fp32", CPU) is None
    assert precision.autocast_dtype("bf16", CPU) is torch.bfloat16
    assert precision.autocast_dtype("fp16", CUDA) is torch.float16
    with pytest.raises(
        UserError, match=r"^x='bf61' is unknown: use fp32, bf16, fp16; did you mean 'bf16' or 'fp16'\?$"
    ):
        precision.autocast_dtype("bf61", CPU, "x")


def test_a_cpu_that_emulates_bfloat16_is_told_of(warned):
    (line,) = warned(68.7, lambda: precision.warn_if_slow("bf16", CPU))
    assert line == (
        "bfloat16 products take 69 times as long as float32's on this CPU: train.precision=fp32 is faster"
    )
    assert not warned(1.5, lambda: precision.warn_if_slow("bf16", CPU))
    assert not warned(68.7, lambda: precision.warn_if_slow("bf16", CUDA))
    assert not warned(68.7, lambda: precision.warn_if_slow("fp32", CPU))


def test_a_run_is_warned_before_it_begins(warned, pairs):
    cfg = load_config(
        "configs/quick/ivtuning.py",
        [*TINY, "train.device=cpu", "train.precision=bf16", "train.init_checkpoint="],
    )
    (line,) = warned(30, lambda: check_run(cfg))
    assert "30 times as long" in line


def test_the_cost_is_measured_in_both_types(monkeypatch):
    seconds = {torch.bfloat16: 3.0, torch.float32: 2.0}
    monkeypatch.setattr(precision, "_seconds", seconds.get)
    assert precision.bfloat16_cost() == 1.5
    monkeypatch.undo()
    assert precision.bfloat16_cost() > 0
