"""Two processes against one: DDP, gradient accumulation, FSDP, nodes."""

from __future__ import annotations

import argparse
import copy
import itertools
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import tiny
from helpers.runs import config
from helpers.tools import load_tool
from helpers.two_processes import free_port, in_two, node
from torch import nn
from torch.distributed.tensor import DTensor

from ivtuning.checkpoint.checkpointer import Checkpointer
from ivtuning.checkpoint.files import read
from ivtuning.engine import run
from ivtuning.engine.hooks import EMA
from ivtuning.engine.parallel import parallelize, whole_parameters
from ivtuning.engine.trainer import NonFiniteLoss, Trainer
from ivtuning.tuning import Full, IVTuning, LoRA
from ivtuning.tuning.stems import PromptStem, SumStem, VisibleOnly

DDP = dict(broadcast_buffers=False)


class Toy(nn.Module):
    """A trunk whose loss is a mean over samples; statistics of the batch enter through its norms alone."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.net = trunk
        self.head = nn.Linear(sum(shape.channels for shape in trunk.output_shape().values()), 3)

    def forward(self, batch):
        features = self.net(torch.stack([s["x"] for s in batch])).values()
        scores = self.head(torch.cat([f.mean((2, 3)) for f in features], 1))
        return {"loss": nn.functional.cross_entropy(scores, torch.tensor([s["y"] for s in batch]))}


def toy(kind: str = "iv", norm: str = "GN") -> Toy:
    torch.manual_seed(0)
    if kind == "iv":
        tuner = IVTuning(hidden_dim=16, norm=norm, dropout=0.0, zero_init=False)
        return Toy(tiny.vitdet(PromptStem(norm=norm, zero_init=False), tuner, activation_checkpointing="mlp"))
    if kind == "lora":
        return Toy(tiny.plain_vit(VisibleOnly(), LoRA(rank=2), activation_checkpointing="block"))
    return Toy(tiny.swin(SumStem(), Full()))


def batches(size: int, rank: int = 0, world: int = 1, start: int = 0):
    """The stream's batches of `size` samples; each process gets its contiguous share of the global one."""
    for batch in itertools.count(start):
        samples = []
        for position in range(size):
            g = torch.Generator().manual_seed(100 * batch * world + rank * size + position)
            samples.append({"x": torch.randn(6, 48, 48, generator=g), "y": int(g.initial_seed()) % 3})
        yield samples


def trainer_of(model: nn.Module, loader, kind: str = "ddp", **options) -> Trainer:
    parallel = parallelize(model, model.net, kind, DDP)
    trained = [p for p in model.parameters() if p.requires_grad]
    return Trainer(parallel, loader, torch.optim.AdamW(trained, lr=1e-3, eps=1e-3), **options)


def assert_close(state: dict, expected: dict, bound: float = 1e-5) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=bound, msg=name)


def fit(model: nn.Module, loader, steps: int, **options) -> dict:
    trainer_of(model, loader, **options).train(0, steps)
    return model.state_dict()


def test_accumulation_is_a_large_batch_but_for_batch_norm():
    large = fit(toy(), batches(4), 2)
    stream = (half for batch in batches(4) for half in (batch[:2], batch[2:]))
    assert_close(fit(toy(), stream, 2, gradient_accumulation=2), large, 1e-6)

    # Each of the small batches is normalized by its own statistics, and counts in the running ones.
    large = fit(toy(norm="BN"), batches(4), 2)
    stream = (half for batch in batches(4) for half in (batch[:2], batch[2:]))
    small = fit(toy(norm="BN"), stream, 2, gradient_accumulation=2)
    counters = [name for name in large if name.endswith("num_batches_tracked")]
    assert counters and all(small[n] == 2 * large[n] for n in counters)
    name = "net.tuner.blocks.0.adapter1.up.weight"
    assert not torch.allclose(small[name], large[name], atol=1e-5)


def count_reductions(rank: int, kind: str) -> dict:
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    model = toy(kind)
    trainer = trainer_of(model, batches(1, rank, 2), gradient_accumulation=3)
    sizes = []

    def hook(state, bucket):
        sizes.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    trainer.model.register_comm_hook(None, hook)
    trainer.train(0, 2)
    return {"sizes": sizes, "trained": sum(p.nbytes for p in model.parameters() if p.requires_grad)}


@pytest.mark.parametrize("kind", ["iv", "full"])
def test_ddp_reduces_what_trains_once_a_step(tmp_path, kind):
    whole = sum(p.nbytes for p in toy(kind).parameters())
    for counts in in_two(tmp_path, count_reductions, kind):
        assert counts["sizes"] == [counts["trained"]] * 2
        assert counts["trained"] == whole if kind == "full" else counts["trained"] < 0.7 * whole


def fit_in_two(rank: int, kind: str) -> dict:
    model = toy("iv")
    trainer_of(model, batches(2, rank, 2), kind, gradient_accumulation=2, clip_grad_norm=0.1).train(0, 2)
    return model.state_dict() if kind == "ddp" else whole_state(model)


def whole_state(model: nn.Module) -> dict:
    return {n: v.full_tensor() if isinstance(v, DTensor) else v for n, v in model.state_dict().items()}


def alone(kind: str, steps: int) -> tuple[dict, Trainer]:
    """One process that sees the samples of both, in the same steps."""
    model = toy(kind)
    both = (a + b for a, b in zip(batches(2, 0, 2), batches(2, 1, 2), strict=True))
    trainer = trainer_of(model, both, gradient_accumulation=2, clip_grad_norm=0.1)
    ema = EMA(model, 0.9)
    trainer.register_hooks([ema])
    trainer.train(0, steps)
    return {**model.state_dict(), **{f"ema.{n}": v for n, v in ema.average.items()}}, trainer


def test_ddp_steps_are_those_of_one_process(tmp_path):
    expected = alone("iv", 2)[0]
    expected = {n: v for n, v in expected.items() if not n.startswith("ema.")}
    for state in in_two(tmp_path, fit_in_two, "ddp"):
        assert_close(state, expected)


def fsdp_run(rank: int, kind: str, folder) -> dict:
    """Two steps and a checkpoint; another two steps of a second run that goes on from it."""
    facts = {}
    for first, last in ((0, 2), (2, 4)):
        model = toy(kind)
        if first:
            with torch.no_grad():  # what the checkpoint does not bring would show
                for p in model.parameters():
                    p.fill_(7.0)
        trainer = trainer_of(
            model, batches(2, rank, 2, start=2 * first), "fsdp", gradient_accumulation=2, clip_grad_norm=0.1
        )
        ema = EMA(model, 0.9)
        trainer.register_hooks([ema])
        checkpointer = Checkpointer(model, str(folder))
        checkpointer.add_checkpointable("trainer", trainer)
        checkpointer.resume()
        trainer.train(first, last)
        checkpointer.save(f"model_{last}", iteration=last - 1)
    facts["bytes"] = sum(p.to_local().nbytes for p in model.parameters())
    facts["sharded"] = all(isinstance(p, DTensor) for p in model.parameters())
    # Ranks with more images than others must not wait for them.
    sample = next(batches(1))
    with torch.no_grad(), whole_parameters(model):
        facts["whole"] = not any(isinstance(p, DTensor) for p in model.parameters())
        losses = [model(sample)["loss"].item() for _ in range(1 + rank)]
    facts["loss"] = losses[0]
    facts["again"] = all(isinstance(p, DTensor) for p in model.parameters())
    trainer.train(4, 5)  # and training goes on
    return facts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["iv", "lora", "full"])
def test_fsdp_steps_and_files_are_those_of_one_process(tmp_path, kind):
    ranks = in_two(tmp_path, fsdp_run, kind, tmp_path)
    for steps in (2, 4):
        expected, trainer = alone(kind, steps)
        file = read(tmp_path / f"model_{steps}.pth")
        average = file["trainer"]["hooks"]["EMA"]["average"]
        assert_close({**file["model"], **{f"ema.{n}": v for n, v in average.items()}}, expected)
        moments = trainer.optimizer.state_dict()
        assert file["trainer"]["optimizer"]["param_groups"] == moments["param_groups"]
        for index, moment in moments["state"].items():
            assert_close(file["trainer"]["optimizer"]["state"][index], moment)
    model = toy(kind)
    whole = sum(p.nbytes for p in model.parameters())
    model.load_state_dict(file["model"])
    loss = model(next(batches(1)))["loss"].item()
    for rank in ranks:
        assert rank["sharded"] and rank["whole"] and rank["again"]
        assert 0.45 < rank["bytes"] / whole < 0.55
        assert rank["loss"] == pytest.approx(loss, abs=1e-5)


def a_bad_loss_in_one(rank: int, folder) -> dict:
    """What both processes report of a loss that is not finite in the second one, and their weights."""
    facts = {}
    for kind in ("ddp", "fsdp"):
        model = toy("lora")
        trainer = trainer_of(model, stream_of(rank, bad=2 if rank else None), kind)
        trainer.ahead = 1
        with pytest.raises(NonFiniteLoss) as error:
            trainer.train(0, 9)
        facts[kind] = {"error": str(error.value), "weights": whole_state(model)}
    return facts


def stream_of(rank: int, bad: int | None = None):
    for number, batch in enumerate(batches(2, rank, 2)):
        scale = float("nan") if number == bad else 1.0
        yield [{**s, "x": s["x"] * scale, "file_name": f"{rank}-{number}.png"} for s in batch]


@pytest.mark.slow
def test_a_bad_loss_in_one_process_leaves_the_weights_in_all_and_is_reported_by_all(tmp_path):
    both = (a + b for a, b in zip(stream_of(0), stream_of(1), strict=True))
    expected = fit(toy("lora"), both, 2)
    for facts in in_two(tmp_path, a_bad_loss_in_one, tmp_path):
        for kind in ("ddp", "fsdp"):
            assert "iteration 2 (loss=nan) on 1-2.png, 1-2.png" in facts[kind]["error"]
            assert_close(facts[kind]["weights"], expected)


class Steep(Toy):
    """Its gradient is not finite for samples named "bad", though the loss is."""

    def forward(self, batch):
        far = torch.tensor([0.0 if s["file_name"] == "bad.png" else 1.0 for s in batch]).mean()
        return {"loss": super().forward(batch)["loss"] + (self.head.bias * far).abs().sqrt().sum()}


def a_bad_gradient_in_one(rank: int, folder) -> dict:
    """What both processes report of a gradient that is not finite in the second one, and their weights."""
    facts = {}
    for kind, bound in itertools.product(("ddp", "fsdp"), (0.0, 1.0)):
        model = Steep(toy("lora").net)
        model.head = toy("lora").head
        trainer = trainer_of(model, named(rank, bad=2 if rank else None), kind, clip_grad_norm=bound)
        trainer.ahead = 1
        with pytest.raises(NonFiniteLoss) as error:
            trainer.train(0, 9)
        facts[f"{kind} {bound}"] = {"error": str(error.value), "weights": whole_state(model)}
    return facts


def named(rank: int, bad: int | None = None):
    for number, batch in enumerate(stream_of(rank)):
        yield [{**s, "file_name": "bad.png"} if number == bad else s for s in batch]


@pytest.mark.slow
def test_a_bad_gradient_in_one_process_leaves_the_weights_in_all_and_is_reported_by_all(tmp_path):
    expected = {}
    for bound in (0.0, 1.0):
        model = Steep(toy("lora").net)
        model.head = toy("lora").head
        both = (a + b for a, b in zip(stream_of(0), stream_of(1), strict=True))
        expected[bound] = fit(model, both, 2, clip_grad_norm=bound)
    for facts in in_two(tmp_path, a_bad_gradient_in_one, tmp_path):
        for name, found in facts.items():
            line = "the gradient is not finite at iteration 2 on 0-2.png, 0-2.png, bad.png, bad.png"
            assert line in found["error"], name
            assert_close(found["weights"], expected[float(name.split()[1])])


def evaluate_few_images(rank: int) -> dict:
    """Whether the model is evaluated without DistributedDataParallel; it has running statistics."""
    model = nn.BatchNorm1d(2)

    def evaluate(cfg, evaluated) -> dict:
        return {"alone": evaluated is model}

    run.check_evaluation = lambda *args: None
    run.load_model = lambda *args: model
    run.evaluate = evaluate
    return run.evaluate_checkpoint(None, "w.pth")


def test_processes_evaluate_without_waiting_for_each_other(tmp_path):
    """DistributedDataParallel shares the running statistics in each forward pass, and so hangs."""
    assert in_two(tmp_path, evaluate_few_images) == [{"alone": True}] * 2


def other_draws(rank: int) -> dict:
    model = copy.deepcopy(toy())
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(rank)
    return whole_state(parallelize(model, model.net, "fsdp", {}))


@pytest.mark.slow
def test_fsdp_starts_from_the_first_process_weights(tmp_path):
    for state in in_two(tmp_path, other_draws):
        assert all((v == 0).all() for n, v in state.items() if "num_batches" not in n and "running" not in n)


def train_on_nodes(rank: int, folder, kind: str) -> dict:
    from detectron2.utils import comm

    options = [f"train.parallel={kind}", "train.ema_decay=0.9", "train.checkpointer.period=2"]
    options += ["train.eval_period=2", "dataloader.train.total_batch_size=4"]
    options += ["model.roi_heads.box_predictor.test_score_thresh=0.0"]
    for steps in (2, 3):
        cfg = config(folder, *options, f"train.max_iter={steps}")
        if steps == 2:
            run.setup(cfg, argparse.Namespace(config_file="", eval_only=False, overrides=[]))
        results = run.train(cfg, resume=steps == 3)
    where = dict(rank=comm.get_rank(), local=comm.get_local_rank(), world=comm.get_world_size())
    return {"where": where, "AP": results.get("bbox", {}).get("AP")}


@pytest.mark.slow
def test_two_nodes_train_save_and_resume_alike_by_ddp_and_fsdp(pairs, tmp_path, capsys):
    for kind in ("ddp", "fsdp"):
        nodes = in_two(tmp_path / kind, train_on_nodes, free_port(), kind, target=node)
        assert [n["where"] for n in nodes] == [dict(rank=r, local=0, world=2) for r in (0, 1)]
        assert nodes[0]["AP"] is not None and nodes[1]["AP"] is None
    for name in ("model_0000001", "model_final", "model_best"):
        ddp, fsdp = (read(tmp_path / kind / f"{name}.pth") for kind in ("ddp", "fsdp"))
        assert_close(fsdp["model"], ddp["model"])
        assert fsdp["iteration"] == ddp["iteration"]
    capsys.readouterr()
    argv = ["--config-file", str(tmp_path / "fsdp/config.yaml")]
    argv += ["--weights", str(tmp_path / "fsdp/model_final.pth"), "--output", str(tmp_path / "a.safetensors")]
    load_tool("export_adapter").main(argv)
    assert (tmp_path / "a.safetensors").stat().st_size > 10_000


def statistics_in_evaluations(rank: int, folder) -> dict:
    """A digest of the buffers in each evaluation of a whole run, and of one that goes on from its middle."""
    seen: dict[str, list[float]] = {"whole": [], "again": []}

    def evaluate(cfg, model, stop=None) -> dict:
        assert not isinstance(model, nn.parallel.DistributedDataParallel)  # which waits for the other process
        seen[Path(cfg.train.output_dir).name].append(sum(b.double().sum().item() for b in model.buffers()))
        return {}

    run.evaluate = evaluate
    options = ["train.checkpointer.period=2", "train.eval_period=2", "train.max_iter=4", "train.best_metric="]
    options += ["dataloader.train.total_batch_size=4"]
    whole = config(folder / "whole", *options)
    run.setup(whole, argparse.Namespace(config_file="", eval_only=False, overrides=[]))
    run.train(whole)
    if rank == 0:
        (folder / "again").mkdir()
        for name in ("model_0000001.pth", "metrics.json"):
            shutil.copy(folder / "whole" / name, folder / "again")
        (folder / "again/last_checkpoint").write_text("model_0000001.pth")
    dist.barrier()
    run.train(config(folder / "again", *options), resume=True)
    return seen


@pytest.mark.slow
def test_processes_evaluate_with_the_same_statistics_before_and_after_a_resume(pairs, tmp_path):
    """Each has batch norms with statistics of its own; evaluation and checkpoints use the main one's."""
    first, second = in_two(tmp_path, statistics_in_evaluations, free_port(), target=node)
    assert first == second and len(first["whole"]) == 2
    assert first["again"] == first["whole"][1:]


def test_one_process_is_left_alone():
    model = toy()
    assert parallelize(model, model.net, "fsdp", {}) is model
    assert not any(isinstance(p, DTensor) for p in model.parameters())
