"""Benchmark runs that do not fit into CUDA's memory: the others' figures stay. Nothing here is timed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from ivtuning.benchmark.measures.memory import attempt, fitting, missing_note
from ivtuning.benchmark.measures.timing import interleaved
from ivtuning.benchmark.options import Options
from ivtuning.benchmark.parts import infer, profile, step
from ivtuning.benchmark.report import Row

NANO = Options(trunk="vitdet_nano", depth=2, repeats=1, large=False)


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_does_not_fit_is_none_and_freed():
    held = []

    def run():
        large = torch.zeros(8)
        held.append(weakref.ref(large))
        full()

    assert attempt(run) is None
    gc.collect()
    assert held[0]() is None
    assert fitting({"a": lambda: 1, "b": full, "c": lambda: 3}) == {"a": 1, "c": 3}
    with pytest.raises(ValueError):  # any other error is the caller's
        attempt(lambda: int("x"))


def test_notes_name_what_did_not_fit():
    times = {"a": [1.0, 3.0], "b": [2.0, 2.0]}
    assert missing_note(times, "a", "b") == ""
    assert Row.between(times, "a", "b", target="t") == Row(1.0, (0.5, 1.5), "t")
    assert Row.between(times, "a", "c", target="t") == Row(None, None, "t", "out of memory: c")
    assert Row.of_bytes({"a": 2, "b": 4}, "a", "b", "n") == Row(0.5, note="n")
    assert Row.of_bytes({"a": 2}, "c", "b", "n").note == "out of memory: c, b"


def test_rounds_go_on_without_the_run_that_does_not_fit():
    calls = []

    def breaks():
        calls.append("b")
        if calls.count("b") == 3:
            full()

    runs = {"a": lambda: calls.append("a"), "b": breaks, "c": lambda: calls.append("c")}
    times = interleaved(dict(runs), 3, "test", may_not_fit=True)
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "c": 3}
    assert "".join(calls) == "abcabcabcac"
    calls.clear()
    with pytest.raises(torch.OutOfMemoryError):
        interleaved(dict(runs), 3, "test")


@pytest.mark.slow
def test_step_without_the_reference(monkeypatch):
    monkeypatch.setattr(step, "plain", full)
    result = step.measure(NANO)
    assert result.rows["step_over_reference"] == Row(note="out of memory: reference")
    assert "reference" not in result.raw["saved_bytes"] and "reference" not in result.raw["step_seconds"]
    assert result.rows["step_over_full"].value > 0 and result.rows["saved_over_full"].value > 0
    assert result.listings[0].lines[-1][:3] == ["reference", "out of memory", ""]


@pytest.mark.slow
def test_step_whose_forward_fits_alone(monkeypatch):
    """Full fine-tuning breaks in its first step, after its activations were counted."""
    make = step.training_step

    def training_step(trunk, x, options):
        return (
            full if sum(p.requires_grad for p in trunk.patch_embed.parameters()) else make(trunk, x, options)
        )

    monkeypatch.setattr(step, "training_step", training_step)
    result = step.measure(NANO)
    assert result.rows["step_over_full"].note == result.rows["utilization_full"].note == "out of memory: full"
    assert result.rows["utilization_iv"].value > 0 and result.rows["step_over_reference"].value > 0
    assert result.rows["saved_over_full"].value > 0 and result.facts["saved_floor"] > 0


@pytest.mark.slow
def test_step_without_anything(monkeypatch):
    monkeypatch.setattr(step, "build", full)
    monkeypatch.setattr(step, "frozen_trunk", full)
    monkeypatch.setattr(step, "LARGE", (64, 64))
    result = step.measure(Options(trunk="vitdet_nano", depth=2, repeats=1))
    assert all(row.value is None and row.note.startswith("out of memory: ") for row in result.rows.values())
    assert result.rows["adapter_forward_share"].note == "out of memory: bare, iv"
    assert result.rows["step_over_reference_1024"].note == "out of memory: iv, reference"


@pytest.mark.slow
def test_inference_and_profile_of_what_is_left(monkeypatch):
    build = infer.build

    def small(name, stem, tuner, *args, **kwargs):
        if type(tuner).__name__ in ("Frozen", "Full"):
            full()
        return build(name, stem, tuner, *args, **kwargs)

    monkeypatch.setattr(infer, "build", small)
    result = infer.measure(NANO)
    assert result.rows["infer_over_trunk"].note == "out of memory: trunk"
    assert [line[1] == "out of memory" for line in result.listings[0].lines] == [False, True]
    monkeypatch.setattr(profile, "build", small)
    result = profile.measure(NANO)
    assert result.raw.keys() == {"IV-tuning"} and len(result.listings) == 2
    assert result.listings[0].lines[1] == ["full fine-tuning", "out of memory", "", ""]
