"""Figures of a run at Weights & Biases, read from the files that the library keeps when it is offline."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import pytest
from helpers.runs import config

from ivtuning.engine import run
from ivtuning.engine.wandb_writer import check_wandb
from ivtuning.errors import UserError

pytest.importorskip("wandb", reason="the extra `wandb` is not installed")


def records(file: Path):
    """The records of a .wandb file, which has LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, held = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # too little for a header: filled with zeros
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        held += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record


def figures(folder: Path) -> tuple[list[dict[str, float]], set[str]]:
    """What a run's folder sent in order, and the ids under which it did."""
    lines, ids = [], set()
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                lines.append(
                    {
                        (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
                        for item in record.history.item
                    }
                )
    return lines, ids


@pytest.mark.slow
def test_a_run_and_its_resumed_one_send_the_lines_of_metrics_json(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = ["train.wandb=tiny", "train.log_period=2", "train.checkpointer.period=2"]
    run.train(config(tmp_path, *options, "train.max_iter=2"))
    run.train(config(tmp_path, *options, "train.max_iter=4"), resume=True)

    lines, ids = figures(tmp_path)
    assert ids == {(tmp_path / "wandb" / "run_id").read_text().strip()}
    written = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in written] == [1, 3, 4]
    for line in written:
        sent = {k: v for s in lines if s["iteration"] == line["iteration"] for k, v in s.items()}
        assert {k: sent.get(k) for k in line} == pytest.approx(line, nan_ok=True)
    run.train(config(tmp_path, *options, "train.wandb=", "train.max_iter=2"), replace=True)
    assert not (tmp_path / "wandb").exists()


def test_a_run_that_cannot_send_is_refused_before_its_first_step(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        run.train(config(tmp_path / "out", "train.wandb=tiny"))
    assert not list((tmp_path / "out").iterdir())


def test_without_the_library_the_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'ivtuning\[wandb\]'"):
        check_wandb()
