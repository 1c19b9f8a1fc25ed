"""The log of what was loaded, from where, and what stays as it was initialized."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers.tiny import swin
from helpers.weights import (
    Detector,
    base_of,
    mae_state,
    mmdet_state,
    randomize,
    sam_state,
    save,
    vitdet,
)

from ivtuning.checkpoint import load_weights, save_adapter


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ivtuning"), "propagate", True)
    caplog.set_level(logging.INFO, "ivtuning")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "ivtuning"]


def test_base_and_adapter_are_logged(tmp_path, lines):
    base = save(tmp_path / "mae.pth", mae_state())
    model = randomize(Detector(), 1)
    load_weights(model, base, strict=False)
    (line,) = lines()
    assert line.startswith(
        f"weights: 27 tensors (ViT) from {base}; zero: 4, blocks.0.attn (2), blocks.1.attn (2)"
    )
    assert f"as initialized: {len(model.state_dict()) - 31}, " in line and "backbone.net.tuner" in line
    save_adapter(model, tmp_path / "a.safetensors")
    load_weights(Detector(), base, tmp_path / "a.safetensors")
    line = lines()[-1]
    count = len(model.state_dict()) - 31
    adapter = tmp_path / "a.safetensors"
    assert line == (
        f"adapter: {count} tensors (IVTuning, backbone and task) from {adapter}; as initialized: none"
    )


@pytest.mark.parametrize(
    "build, make, source",
    [
        (vitdet, sam_state, "ViT of SAM, 1 of them resized"),
        (vitdet, lambda: base_of(vitdet()), "ViT"),
        (swin, lambda: base_of(swin()), "Swin"),
        (swin, lambda: mmdet_state(base_of(swin())), "Swin of mmdetection"),
    ],
)
def test_the_kind_of_file_is_logged(tmp_path, lines, build, make, source):
    load_weights(build(), save(tmp_path / "x.pth", make()), strict=False)
    assert f"tensors ({source}) from {tmp_path}/x.pth" in lines()[0]


def test_the_chosen_part_is_logged(tmp_path, lines):
    path = save(tmp_path / "x.pth", {"model": mae_state(), "ema": {"pos_embed": torch.zeros(1)}})
    load_weights(vitdet(), path, strict=False)
    first, second = lines()
    assert first == f"{path}: taking 'model'; it also holds 'ema' (choose with {path}#ema)"
    assert second.startswith("weights: ")
