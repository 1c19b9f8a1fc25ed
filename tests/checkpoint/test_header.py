"""Headers of adapter files, and what else is given as one."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.weights import Detector, randomize, same, save, snapshot
from safetensors.torch import load_file, save_file

from ivtuning.checkpoint import load_adapter, save_adapter
from ivtuning.checkpoint.adapter import group_sizes, read_metadata
from ivtuning.errors import UserError

GONE = object()


@pytest.fixture(scope="module")
def model():
    return randomize(Detector())


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """The header and the tensors of an adapter."""
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    return save_adapter(model, path), load_file(path)


FAULTS = {
    "no format": ({"format": GONE}, "format: field required"),
    "text as format": ({"format": "1"}, "format: .*integer .it is '1'."),
    "null as format": ({"format": None}, "format: .*integer"),
    "zero as format": ({"format": 0}, "format: "),
    "yes as format": ({"format": True}, "format: "),
    "format of later": ({"format": 9, "versions": {"ivtuning": "7"}}, "newer ivtuning .7."),
    "format of later, no writer": ({"format": 9, "versions": None}, "newer ivtuning"),
    "no stem": ({"stem": GONE}, "stem: field required"),
    "text as stem": ({"stem": "PromptStem"}, "stem: .*PromptStem"),
    "no name of the stem": ({"stem": {}}, "stem.name: field required"),
    "null as tuner": ({"tuner": None}, "tuner: "),
    "a number as tuner's name": ({"tuner": {"name": 3}}, "tuner.name: .*string"),
    "an unknown tuner": ({"tuner": {"name": "IVTunning"}}, "unknown here; did you mean 'IVTuning'"),
    "another tuner": ({"tuner": {"name": "Mona"}}, "made by tuner Mona, not IVTuning: set model.*tuner=Mona"),
    "no groups": ({"groups": []}, "groups: .*at least 1"),
    "unknown groups": ({"groups": ["heads"]}, r"groups\[0\]: .*'backbone' or 'task'"),
    "text as groups": ({"groups": "backbone"}, "groups: "),
    "a lacking group": ({"groups": ["task"]}, "the tensor backbone/.* is in none of its groups .task"),
    "no fingerprint": ({"fingerprint": GONE}, "fingerprint: field required"),
    "null as fingerprint": ({"fingerprint": None}, "fingerprint: "),
    "a short fingerprint": ({"fingerprint": "abc"}, "fingerprint: "),
    "another base": ({"fingerprint": "0" * 64}, "trained on base 000000000000"),
    "a list as base": ({"base_weights": ["a.pth"]}, "base_weights: "),
    "no versions": ({"versions": GONE}, "versions: field required"),
    "a list as versions": ({"versions": ["1"]}, "versions: "),
    "text as widths": ({"widths": "32"}, "widths: "),
    "text as notes": ({"metadata": "AP=3"}, "metadata: "),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_and_change_nothing(tmp_path, model, written, case):
    changes, message = FAULTS[case]
    header = {k: v for k, v in (written[0] | changes).items() if v is not GONE}
    path, before = tmp_path / "a.safetensors", snapshot(model)
    save_file(written[1], path, {"ivtuning": json.dumps(header)})
    with pytest.raises(UserError, match=message) as error:
        load_adapter(model, path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "header is not valid JSON"), ("", "header is not valid JSON"), ("null", "header is a NoneType"),
        ("[1]", "header is a list"), ('"x"', "header is a str"), ("3", "header is a int"),
        ("[" * 100_000, "header is not valid JSON"), ("{}", "header has format: field required"),
    ],
)  # fmt: skip
def test_headers_that_are_no_objects(tmp_path, written, text, message):
    save_file(written[1], tmp_path / "a.safetensors", {"ivtuning": text})
    for reading in (read_metadata, group_sizes):
        with pytest.raises(UserError, match=message):
            reading(tmp_path / "a.safetensors")


def test_facts_of_later_versions_are_kept(tmp_path, model, written):
    header = written[0] | {"license": "MIT"}
    save_file(written[1], tmp_path / "a.safetensors", {"ivtuning": json.dumps(header)})
    assert load_adapter(model, tmp_path / "a.safetensors")["license"] == "MIT"


def test_tensors_that_do_not_fit_the_header(tmp_path, model, written):
    header, tensors = written
    name = "backbone/stem.norm.weight"
    for changes, message in (
        ({"other": torch.ones(1)}, "the tensor other is in none of its groups"),
        ({"task/other.w": torch.ones(1)}, "1 tensor differing .task/other.w: file 1, model none"),
        ({name: torch.ones(1, 2, 3)}, f"1 tensor differing .{name}: file 1x2x3, model "),
        ({name: tensors[name].int()}, f"{name} is int32, the model's is float32"),
    ):
        save_file(tensors | changes, tmp_path / "a.safetensors", {"ivtuning": json.dumps(header)})
        with pytest.raises(UserError, match=message):
            load_adapter(model, tmp_path / "a.safetensors")
    lacking = {n: t for n, t in tensors.items() if n != name}
    save_file(lacking, tmp_path / "a.safetensors", {"ivtuning": json.dumps(header)})
    with pytest.raises(UserError, match=f"1 tensor differing .{name}: file none"):
        load_adapter(model, tmp_path / "a.safetensors")


def test_what_else_is_given_as_an_adapter(tmp_path, model):
    save(tmp_path / "x.pth", model.state_dict())
    save(tmp_path / "renamed.safetensors", model.state_dict())
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html>")
    (tmp_path / "text.safetensors").write_text("adapter of Monday")
    for name, message in (
        ("x.pth", "no safetensors file: give full weights as --weights"),
        ("renamed.safetensors", "no safetensors file: give full weights as --weights"),
        ("page.safetensors", "a web page"),
        ("text.safetensors", "a text file"),
    ):
        with pytest.raises(UserError, match=message):
            load_adapter(model, tmp_path / name)
