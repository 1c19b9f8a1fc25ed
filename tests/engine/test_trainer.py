"""The training step on toy models: precision, accumulation, clipping, averaging, a loss gone wrong."""

from __future__ import annotations

import itertools

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from ivtuning.engine.hooks import EMA
from ivtuning.engine.trainer import NonFiniteLoss, Trainer
from ivtuning.errors import UserError


class Regression(nn.Module):
    """Mean squared error of a linear map over the batch."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.scale = nn.Linear(3, 1), scale

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        y = torch.stack([sample["y"] for sample in batch])
        return {"loss": self.scale * (self.linear(x) - y).square().mean()}


def samples(count: int, bad: int | None = None):
    generator = torch.Generator().manual_seed(1)
    for i in range(count):
        x, y = torch.randn(3, generator=generator), torch.randn(1, generator=generator)
        yield {"x": x * float("nan") if i == bad else x, "y": y, "file_name": f"{i}.png"}


def batches(size: int, count: int = 8, bad: int | None = None):
    stream = samples(count, bad)
    while batch := list(itertools.islice(stream, size)):
        yield batch


def fit(model, loader, steps, hooks=(), **options):
    trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    trainer.register_hooks(list(hooks))
    trainer.train(0, steps)
    return trainer


def test_accumulation_equals_a_large_batch():
    large, small = Regression(), Regression()
    fit(large, batches(4), 2)
    fit(small, batches(2), 2, gradient_accumulation=2)
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_clipping_bounds_the_step():
    model = Regression(scale=1e3)
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, batches(4), 1, clip_grad_norm=0.5)
    change = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before, strict=True)])
    assert change.norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_loss_that_is_not_finite_names_the_files_and_leaves_the_weights():
    model = Regression()
    healthy = Regression()
    fit(healthy, batches(2), 2)
    with pytest.raises(NonFiniteLoss, match=r"iteration 2 \(loss=nan\) on 4.png, 5.png"):
        fit(model, batches(2, bad=5), 4)
    for a, b in zip(model.parameters(), healthy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bf16_on_the_cpu_is_close_to_fp32():
    exact, rounded = Regression(), Regression()
    fit(exact, batches(4), 2)
    fit(rounded, batches(4), 2, precision="bf16")
    gap = max(
        (a - b).abs().max().item() for a, b in zip(exact.parameters(), rounded.parameters(), strict=True)
    )
    assert 0 < gap < 0.05


def test_unknown_or_impossible_precision_is_reported():
    with pytest.raises(UserError, match="'half' is unknown.*bf16"):
        fit(Regression(), batches(2), 1, precision="half")
    with pytest.raises(UserError, match="needs CUDA"):
        fit(Regression(), batches(2), 1, precision="fp16")


class Watch(HookBase):
    def __init__(self, model):
        self.model, self.seen = model, []

    def after_step(self):
        self.seen.append([p.detach().clone() for p in self.model.parameters()])


def test_ema_is_the_running_average_and_swaps_in_and_out():
    model = Regression()
    expected = [p.detach().clone() for p in model.parameters()]
    ema, watch = EMA(model, decay=0.9), Watch(model)
    fit(model, batches(2), 3, [watch, ema])
    for weights in watch.seen:
        expected = [0.9 * e + 0.1 * w for e, w in zip(expected, weights, strict=True)]
    with ema.applied():
        for parameter, average in zip(model.parameters(), expected, strict=True):
            assert torch.allclose(parameter, average, atol=1e-6)
    for parameter, live in zip(model.parameters(), watch.seen[-1], strict=True):
        assert torch.equal(parameter, live)


def test_metrics_are_logged():
    trainer = fit(Regression(), batches(2), 2)
    latest = trainer.storage.latest()
    assert latest["total_loss"][1] == 1 and latest["total_loss"][0] > 0 and "data_time" in latest
