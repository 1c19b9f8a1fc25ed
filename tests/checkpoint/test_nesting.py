"""Where a state dict lies in a file, and what stands before its names."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from helpers.weights import Detector, mae_state, randomize, same, save, vitdet

from ivtuning.checkpoint import load_pretrained
from ivtuning.checkpoint.files import read_state
from ivtuning.errors import UserError
from ivtuning.hub.names import local_path, split_key

STATE = {"a.w": torch.arange(3.0), "a.b": torch.ones(2)}
OTHER = {"a.w": torch.zeros(3), "a.b": torch.zeros(2)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1}]}
NESTED = {
    "torch": {"model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER, "epoch": 3},
    "timm": {"state_dict": STATE, "state_dict_ema": OTHER, "optimizer": OPTIMIZER, "arch": "vit"},
    "lightning": {"state_dict": STATE, "loops": {"fit": {"x": torch.ones(1)}}, "callbacks": {}},
    "mmengine": {"meta": {"epoch": 1}, "state_dict": OrderedDict(STATE), "ema_state_dict": OTHER},
    "network": {"network": STATE, "ema": OTHER, "step": torch.tensor(3)},
    "deep": {"model": {"module": {"state_dict": STATE}}, "best": 1.5},
    "one average": {"ema": STATE, "epoch": 1},
    "a queue": {"params": STATE, "queue": torch.zeros(4), "rng_state": torch.zeros(9)},
    "extra state": {**STATE, "_extra_state": {}, "version": None},
}


@pytest.mark.parametrize("case", NESTED)
def test_the_model_that_trains_is_found(tmp_path, case):
    assert same(read_state(save(tmp_path / "x.pth", NESTED[case])), STATE)


@pytest.mark.parametrize(
    "content, key",
    [
        ({"state_dict": OTHER, "state_dict_ema": STATE}, "state_dict_ema"),
        ({"teacher": STATE, "student": OTHER}, "teacher"),
        ({"model": OTHER, "ema": {"model": STATE, "decay": 0.9}}, "ema"),
        ({"model": OTHER, "ema": {"model": STATE, "decay": 0.9}}, "ema.model"),
        ({f"{part}.{n}": t for part, s in (("a", OTHER), ("b.c", STATE)) for n, t in s.items()}, "b.c"),
    ],
)
def test_a_key_chooses_a_part(tmp_path, content, key):
    assert same(read_state(f"{save(tmp_path / 'x.pth', content)}#{key}"), STATE)


@pytest.mark.parametrize(
    "content, key, message",
    [
        ({"teacher": STATE, "student": OTHER}, "", "several state dicts .teacher, student.: .*x.pth#teacher"),
        ({"model": STATE, "model_ema": OTHER}, "#modelema", "no part 'modelema'; .*did you mean 'model_ema'"),
        ({"g": {"net": STATE}, "d": {"net": OTHER}}, "#net", "several parts 'net'; it holds g.net, d.net"),
        (STATE, "#ema", "no part 'ema'; it holds one state dict"),
        ({0: torch.ones(1), 1: torch.ones(1)}, "", "no tensors by name, its keys are 0, 1: save model.state"),
        ({"w": torch.ones(1), 3: torch.ones(1)}, "", "a tensor's name is 3, which is no text"),
        ({("a", 1): torch.ones(1)}, "", "no tensors by name"),
        (OPTIMIZER, "", "no tensors by name, its keys are state, param_groups"),
        ({}, "", "no tensors by name, its keys are none"),
        (None, "", "no state dict but a NoneType"),
        (torch.ones(2), "", "no state dict but a Tensor"),
    ],
)  # fmt: skip
def test_what_is_no_single_state_dict_is_reported(tmp_path, content, key, message):
    with pytest.raises(UserError, match=message) as error:
        read_state(f"{save(tmp_path / 'x.pth', content)}{key}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("before", ["_orig_mod.", "module._orig_mod.", "module.module.", "module."])
def test_wrappers_are_taken_off(tmp_path, before):
    state = {f"{before}a._orig_mod.w": STATE["a.w"], f"{before}a._checkpoint_wrapped_module.b": STATE["a.b"]}
    assert same(read_state(save(tmp_path / "x.pth", state)), STATE)


@pytest.mark.parametrize("before", ["model.", "net.", "lit.detector.", "model._orig_mod.", "module.model."])
def test_what_stands_before_the_models_names_is_taken_off(tmp_path, before):
    source, model = randomize(Detector()), randomize(Detector(), 1)
    state = {f"{before}{n}": t for n, t in source.state_dict().items()}
    report = load_pretrained(model, save(tmp_path / "x.pth", {"state_dict": state}), strict=True)
    assert same(model.state_dict(), source.state_dict()) and report.fresh == report.ignored == []


@pytest.mark.parametrize("before", ["backbone.", "encoder.", "module.backbone.", "visual.trunk.", "net."])
def test_a_trunk_may_lie_anywhere(tmp_path, before):
    trunk = vitdet()
    load_pretrained(trunk, save(tmp_path / "x.pth", {f"{before}{n}": t for n, t in mae_state().items()}))
    assert torch.equal(trunk.pos_embed, mae_state()["pos_embed"])


def test_a_flat_average_beside_the_model(tmp_path):
    source, average, model = randomize(Detector()), randomize(Detector(), 1), Detector()
    parts = (("model", source), ("ema_model", average))
    state = {f"{part}.{n}": t for part, m in parts for n, t in m.state_dict().items()}
    path = save(tmp_path / "x.pth", {"state_dict": state})
    load_pretrained(model, path, strict=True)
    assert same(model.state_dict(), source.state_dict())
    load_pretrained(model, f"{path}#ema_model", strict=True)
    assert same(model.state_dict(), average.state_dict())


def test_names_with_the_mark_in_them(tmp_path):
    path = save(tmp_path / "run#3.pth", STATE)
    assert split_key(path) == (str(path), None) and local_path(path) == path
    assert split_key("https://x.org/a.pth?matching_heuristics=True#ema") == ("https://x.org/a.pth", "ema")
    assert split_key("runs#1/a.pth") == ("runs#1/a.pth", None)


def test_a_part_without_tensors_is_reported(tmp_path):
    file = save(tmp_path / "x.pth", {"net.w": torch.ones(1), "head._extra_state": None})
    with pytest.raises(UserError, match="has no part 'head'"):
        read_state(f"{file}#head")
