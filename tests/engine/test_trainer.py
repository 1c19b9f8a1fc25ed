"""The training step on toy models: precision, accumulation, clipping, averaging, a loss gone wrong."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from ivtuning.checkpoint.checkpointer import Checkpointer
from ivtuning.engine.hooks import EMA
from ivtuning.engine.saving import Checkpoints
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


class Capped(nn.Module):
    """A loss that is infinite for a bad batch, and whose gradient is finite all the same."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, batch):
        return {"square": self.weight.square().sum(), "far": torch.tensor(batch[0]["far"])}


def far(*losses: float):
    return ([{"far": loss, "file_name": f"{i}.png"}] for i, loss in enumerate(losses))


OPTIMIZERS = {
    "fused": partial(torch.optim.AdamW, lr=0.1, fused=True),
    "each tensor": partial(torch.optim.AdamW, lr=0.1, foreach=False),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_host_that_runs_ahead_learns_of_a_bad_loss_a_step_later_and_keeps_the_weights(kind, scaled):
    losses = [1.0, 2.0, float("inf"), 3.0, 4.0]
    healthy, model = Capped(), Capped()
    for net, steps in ((healthy, 2), (model, 5)):
        optimizer = OPTIMIZERS[kind](net.parameters())
        trainer = Trainer(net, far(*losses), optimizer, clip_grad_norm=1.0)
        trainer.ahead = 1  # as on CUDA
        if scaled:  # as with fp16
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        if steps == 2:
            trainer.train(0, steps)
        else:
            with pytest.raises(NonFiniteLoss, match=r"iteration 2 \(far=inf\) on 2.png"):
                trainer.train(0, steps)
            assert trainer.iter == 3
    assert torch.equal(model.weight, healthy.weight) and not torch.equal(model.weight, torch.ones(3))


class Known(HookBase):
    """How many losses the storage has at the end of each step."""

    def before_train(self):
        self.counts = []

    def after_step(self):
        self.counts.append(len(self.trainer.storage.history("total_loss").values()))


def test_losses_of_a_host_that_runs_ahead_are_those_of_their_steps():
    def figures(ahead: int):
        model, known = Regression(), Known()
        trainer = Trainer(model, batches(2), torch.optim.SGD(model.parameters(), lr=0.1))
        trainer.ahead = ahead
        trainer.register_hooks([known])
        trainer.train(0, 4)
        return known.counts, trainer.storage.history("total_loss").values()

    (now, expected), (behind, later) = figures(0), figures(1)
    # The first step is waited for, as the run's folder is made after it.
    assert now == [1, 2, 3, 4] and behind == [1, 1, 2, 3]
    assert later == expected and [iteration for _, iteration in later] == [0, 1, 2, 3]


def test_a_checkpoint_waits_for_the_losses_of_its_step(tmp_path):
    model = Capped()
    trainer = Trainer(model, far(1.0, float("nan")), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.ahead = 1
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.add_checkpointable("trainer", trainer)
    trainer.register_hooks([Checkpoints(checkpointer, period=1)])
    with pytest.raises(NonFiniteLoss, match="iteration 1"):
        trainer.train(0, 2)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000000.pth"]


class Steep(nn.Module):
    """A finite loss whose gradient is infinite where the root of the weight is taken at zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, batch):
        return {"root": (self.weight * batch[0]["far"]).abs().sqrt().sum() + self.weight.square().sum()}


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("clip_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_gradient_that_is_not_finite_is_reported_and_leaves_the_weights(kind, clip_grad_norm, ahead):
    healthy, model = Steep(), Steep()
    for net, steps in ((healthy, 2), (model, 5)):
        # Two batches a step: the bad one is the first of the third step.
        losses = far(1.0, 2.0, 1.0, 2.0, 0.0, 2.0, 1.0, 2.0, 1.0, 2.0)
        trainer = Trainer(
            net,
            losses,
            OPTIMIZERS[kind](net.parameters()),
            clip_grad_norm=clip_grad_norm,
            gradient_accumulation=2,
        )
        trainer.ahead = ahead
        if steps == 2:
            trainer.train(0, steps)
        else:
            with pytest.raises(
                NonFiniteLoss, match="the gradient is not finite at iteration 2 on 4.png, 5.png"
            ):
                trainer.train(0, steps)
            assert trainer.iter == 2 + ahead
    assert torch.equal(model.weight, healthy.weight) and not torch.equal(model.weight, torch.ones(3))


def test_a_loss_scaler_skips_a_gradient_that_is_not_finite_and_goes_on():
    model = Steep()
    trainer = Trainer(model, far(1.0, 0.0, 2.0), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # as with fp16
    trainer.train(0, 3)
    assert model.weight.isfinite().all() and trainer.scaler.get_scale() == 2.0


def resumed(folder, before: Trainer, after: Trainer) -> Trainer:
    """`after`, with the state that `before` has in a checkpoint."""
    for trainer in (before, after):
        checkpointer = Checkpointer(trainer.model, str(folder))
        checkpointer.add_checkpointable("trainer", trainer)
        if trainer is before:
            trainer.train(0, 2)
            checkpointer.save("model_0000001")
        else:
            checkpointer.resume()
    return after


@pytest.mark.parametrize("name", ["Adafactor", "SGD", "AdamW", "NAdam", "ASGD", "Rprop"])
def test_the_state_of_an_optimizer_is_resumed(name, tmp_path):
    def trainer():
        model = nn.Sequential(nn.Linear(3, 4), Regression())
        model.forward = lambda batch: model[1](batch) | {"other": model[0].weight.square().sum()}
        return Trainer(model, batches(2), getattr(torch.optim, name)(model.parameters(), lr=0.01))

    whole = trainer()
    state = resumed(tmp_path, whole, trainer()).optimizer.state_dict()["state"]
    for index, expected in whole.optimizer.state_dict()["state"].items():
        for key, value in expected.items():
            torch.testing.assert_close(state[index][key], value)


def test_an_optimizers_unknown_state_must_be_finite(tmp_path):
    model = Regression()
    before, after = (
        Trainer(model, batches(2), torch.optim.Adafactor(model.parameters(), lr=0.01)) for _ in range(2)
    )
    before.train(0, 2)
    state = before.state_dict()
    state["optimizer"]["state"][0]["row_var"].fill_(float("nan"))
    with pytest.raises(UserError, match="row_var of parameter 0 holds NaN"):
        after.check_state(state)


def test_loss_scaling_may_begin_in_a_resumed_run(tmp_path):
    before, after = (
        Trainer(model, batches(2), torch.optim.SGD(model.parameters(), lr=0.1))
        for model in (Regression(), Regression())
    )
    after.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # as with fp16
    assert resumed(tmp_path, before, after).scaler.get_scale() == 4.0
