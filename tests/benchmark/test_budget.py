"""Launches, bytes and FLOPs of a step, counted from shapes."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from helpers.tools import line_of, load_tool
from torch import nn

from ivtuning.backbones.attention import choice
from ivtuning.backbones.swin import Swin, shift_mask
from ivtuning.benchmark.measures.cards import CARDS, Card
from ivtuning.benchmark.measures.flops import count_iv
from ivtuning.benchmark.measures.operators import OperatorCounter, Work
from ivtuning.benchmark.options import Options
from ivtuning.benchmark.parts.budget import budget
from ivtuning.benchmark.subjects.trunks import MAKERS

SIZE = (48, 48)


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), nn.Linear(8, 16)

    def forward(self, x):
        return self.mlp(self.norm(x)).flatten(1) + 1.0


def test_an_operator_is_a_launch_that_reads_and_writes_its_tensors_once():
    with torch.device("meta"):
        part, x = Part(), torch.empty(4, 3, 8)
    with OperatorCounter(part) as counter:
        y = part(x)
    statistics = 2 * 12 * 4
    read = {"norm": (96 + 8 + 8) * 4, "mlp": (96 + 8 * 16 + 16) * 4, "add": 192 * 4}
    assert counter.work == {
        "norms": Work(1, read["norm"] + 96 * 4 + statistics, 0),
        "mlp": Work(1, read["mlp"] + 192 * 4, 2 * 12 * 8 * 16),
        "other": Work(1, read["add"] + 192 * 4, 0),
    }
    with OperatorCounter(part) as counter:
        y.backward(torch.ones(4, 48, device="meta"))
    assert counter.work["norms"].launches == 1  # a pass back is in the groups of its forward pass


def test_broadcast_inputs_are_read_as_they_are_stored():
    row = torch.empty(1, 8, device="meta").expand(100, 8)
    with OperatorCounter(nn.Identity()) as counter:
        row + torch.empty(100, 8, device="meta")
    assert counter.work["other"] == Work(1, (8 + 800 + 800) * 4)


def test_fused_attention_is_one_launch_a_pass():
    q = torch.empty(1, 2, 5, 4, device="meta", requires_grad=True)
    with OperatorCounter(nn.Identity()) as counter:
        nn.functional.scaled_dot_product_attention(q, q, q).backward(torch.empty_like(q))
    assert counter.work["attention"] == Work(2, (4 + 8) * q.nbytes)


@pytest.mark.slow
def test_budget_of_both_methods(capsys):
    argv = ["--trunk", "vitdet_nano", "--depth", "2", "--batch", "2", "--json"]
    load_tool("benchmark").main(["budget", *argv])
    out, last = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    raw = json.loads(last)["raw"]["budget"]
    full, iv = raw["Full"], raw["IVTuning"]
    assert sum(group["flops"] for group in iv.values()) == 2 * count_iv("vitdet_nano", SIZE, 2)
    assert full["sites"]["launches"] < 20 < iv["sites"]["launches"]
    # A frozen trunk has no gradients of weights: a third less arithmetic, and fewer launches.
    assert iv["mlp"]["flops"] == pytest.approx(full["mlp"]["flops"] * 2 / 3)
    for group in ("attention", "mlp"):
        assert 0 < iv[group]["launches"] < full[group]["launches"]
        assert 0 < iv[group]["moved"] < full[group]["moved"]
    assert "2 blocks, 48 x 48 px, batch 2" in out and "NVIDIA H200: 4.8 TB/s" in out and "repeats" not in out
    lines = [line for line in out.splitlines() if line.startswith(("| Full ", "| IVTuning "))]
    launches = [
        f" {sum(group['launches'] for group in each.values()):,} " in line
        for each, line in zip((full, iv), lines, strict=True)
    ]
    assert launches == [True, True]


def test_half_precision_moves_fewer_bytes_and_leaves_no_fake_mask_behind(monkeypatch):
    small = dict(depths=(1, 2), num_heads=(1, 1), out_indices=(1,))
    monkeypatch.setitem(MAKERS, "swin_nano", partial(Swin, embed_dim=8, window_size=3, **small))
    single, half = (budget(Options(dtype=dtype), "swin_nano", "LoRA", SIZE) for dtype in ("fp32", "bf16"))
    assert single["mlp"].flops == half["mlp"].flops > 0
    assert 0 < half["attention"].moved < single["attention"].moved
    assert type(shift_mask(6, 6, 3, 1, torch.device("cpu"), torch.bfloat16)) is torch.Tensor


def test_plain_layer_norms_are_counted_in_single_precision(monkeypatch):
    """As CUDA's autocast runs Mona's and the prompt stem's, unlike a CPU's."""
    small = dict(depths=(1, 2), num_heads=(1, 1), out_indices=(1,))
    monkeypatch.setitem(MAKERS, "swin_nano", partial(Swin, embed_dim=8, window_size=3, **small))
    seen, forward = set(), nn.LayerNorm.forward
    monkeypatch.setattr(
        nn.LayerNorm, "forward", lambda self, x: seen.add((type(self), x.dtype)) or forward(self, x)
    )
    for method in ("Mona", "IVTuning"):
        seen.clear()
        budget(Options(dtype="bf16"), "swin_nano", method, SIZE)
        assert {dtype for kind, dtype in seen if kind is nn.LayerNorm} == {torch.float32}


def test_attention_is_counted_as_a_gpu_computes_it(monkeypatch):
    """A CPU's choice between explicit scores and fused attention has no part in it."""
    small = dict(depths=(1, 2), num_heads=(1, 1), out_indices=(1,))
    monkeypatch.setitem(MAKERS, "swin_nano", partial(Swin, embed_dim=8, window_size=3, **small))
    work = []
    for most in (0, 10**6):
        monkeypatch.setattr(choice, "PRODUCT_TOKENS", dict.fromkeys([torch.bfloat16, torch.float32], most))
        work.append(budget(Options(dtype="bf16"), "swin_nano", "Full", SIZE))
    assert work[0] == work[1]


def test_roofline_is_the_longer_of_bytes_and_flops():
    card = Card("a card", 2.0, 10.0, 100.0)
    assert card.seconds(20.0, 2.0, "fp32") == 2.0 and card.seconds(20.0, 2.0, "bf16") == 1.0
    assert all(card.fp32 < card.bf16 for card in CARDS.values())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--card", "h20"], ["h20", "h200"]),
        (["--method", "Mono"], ["Mono", "Mona"]),
        (["--method", "visible", "--trunk", "vitdet_nano"], ["visible trains nothing"]),
        (["--method", "parity", "--trunk", "vitdet_nano"], ["parity is measured with a config"]),
    ],
)
def test_unknown_names_are_reported(argv, words, capsys):
    line = line_of(capsys, ["budget", *argv], "benchmark")
    assert all(word in line for word in words)
