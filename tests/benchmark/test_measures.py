"""Bytes, FLOPs and turns as the benchmark counts them. Nothing here is timed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ivtuning.benchmark.measures import flops
from ivtuning.benchmark.measures.flops import count, count_iv, energy, floor, frozen_trunk, rate
from ivtuning.benchmark.measures.memory import peak_bytes, saved_bytes
from ivtuning.benchmark.measures.timing import interleaved, ratio, summary
from ivtuning.benchmark.options import Options
from ivtuning.benchmark.subjects import trunks
from ivtuning.benchmark.subjects.reference import plain
from ivtuning.tuning import IVTuning
from ivtuning.tuning.stems import PromptStem


def test_saved_bytes_count_storages_once_and_no_parameters():
    frozen = nn.Linear(8, 16).requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(frozen, lambda: frozen(x)) == 0  # its weight alone
    hidden = 4 * 16 * 4
    assert saved_bytes(frozen, lambda: frozen(x).sin()) == hidden
    assert (
        saved_bytes(frozen, lambda: (lambda h: h.sin() + h.view(16, 4).cos().view(4, 16))(frozen(x)))
        == hidden
    )
    trained = nn.Linear(8, 16)
    assert saved_bytes(trained, lambda: trained(x).sin()) == hidden + x.nbytes
    with torch.no_grad():
        assert saved_bytes(trained, lambda: trained(x).sin()) == 0


def test_saved_bytes_see_checkpointing():
    from torch.utils.checkpoint import checkpoint

    net = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8))
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(net, lambda: net(x)) > 4 * 64 * 4
    assert saved_bytes(net, lambda: checkpoint(net, x, use_reentrant=False)) == x.nbytes


def test_peak_is_of_cuda_alone():
    ran = []
    peak = peak_bytes(lambda: ran.append(torch.zeros(1 << 20, device=Options().device)))
    assert (peak is None and not ran) if not torch.cuda.is_available() else peak >= 4 << 20


def test_runs_take_turns():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, "test")
    assert calls == ["a", "b"] * 4  # one round is not counted
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_ratios_are_formed_round_by_round():
    times = {"a": [1.0, 4.0, 30.0], "b": [2.0, 4.0, 10.0]}
    assert ratio(times, "a", "b") == (1.0, 0.5, 3.0)
    assert summary(times)["a"] == {"median": 4.0, "min": 1.0, "max": 30.0}


def test_floor_is_that_of_linear_layers_and_attention():
    """Forward f, input gradient f, weight gradient f: 2/3 without it, more where attention has none."""
    result = floor("vitdet_nano", (48, 48), 2)
    assert result["ratio"] == result["frozen"] / result["full"]
    assert 2 / 3 < result["ratio"] < 0.8
    assert floor("vitdet_nano", (96, 96), 2)["ratio"] > result["ratio"]


def test_floor_of_vitdet_b():
    assert floor("vitdet_b", (512, 512))["ratio"] == pytest.approx(0.698, abs=5e-4)


@pytest.mark.slow
def test_flops_of_iv_tuning_are_those_of_its_modules():
    """Beside the frozen trunk's: two adapters a block with their weight gradients, and what the stem adds."""
    frozen = floor("vitdet_nano", (48, 48), 2)["frozen"]
    assert count_iv("vitdet_nano", (48, 48), 2) > frozen
    two, four, six = (count_iv("vitdet_nano", (48, 48), depth) for depth in (2, 4, 6))
    assert six - four == four - two > floor("vitdet_nano", (48, 48), 2)["frozen"] / 2
    trunk = trunks.build("vitdet_nano", PromptStem(), IVTuning(), 2)
    assert count(plain(trunk), (48, 48)) == two


def test_rate_is_that_of_the_best_product(monkeypatch):
    taken = {"product": [0.5, 0.25, 2.0]}
    monkeypatch.setattr(flops, "interleaved", lambda runs, *_: runs["product"]() is not None and taken)
    assert rate(torch.device("cpu"), torch.bfloat16) == 2 * 64**3 / 0.25


def test_gradient_runs_through_all_of_the_frozen_trunk():
    trunk = frozen_trunk("vitdet_nano", 4)
    energy(trunk(torch.randn(1, 6, 48, 48))).backward()
    trained = [(n, p) for n, p in trunk.named_parameters() if p.requires_grad]
    assert [n for n, _ in trained] == ["stem.shift"]
    assert trained[0][1].grad.abs().min() > 0
