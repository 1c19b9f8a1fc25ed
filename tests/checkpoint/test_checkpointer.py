from __future__ import annotations

import errno
import math
import os
import resource
import subprocess
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import hooks
from helpers.weights import Detector, randomize, same, snapshot
from torch import nn

from ivtuning.checkpoint import checkpointer as module
from ivtuning.checkpoint.checkpointer import Checkpointer
from ivtuning.engine.hooks import EMA, BestCheckpoint
from ivtuning.engine.trainer import Trainer
from ivtuning.errors import UserError


class Recorder:
    """A checkpointable that keeps what it is given."""

    def __init__(self, **state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def make(folder, seed=0, **state):
    model = randomize(Detector(), seed)
    return model, Checkpointer(model, str(folder), trainer=Recorder(**state))


def marker(folder):
    return (folder / "last_checkpoint").read_text()


def files(folder):
    return sorted(os.listdir(folder))


def test_round_trip_and_marker(tmp_path):
    model, writer = make(tmp_path, 1, step=3)
    writer.save("model_0000003", iteration=3)
    assert (
        files(tmp_path) == ["last_checkpoint", "model_0000003.pth"]
        and marker(tmp_path) == "model_0000003.pth"
    )
    other, reader = make(tmp_path, 2)
    assert reader.resume() == {"iteration": 3}
    assert same(other.state_dict(), model.state_dict()) and reader.checkpointables["trainer"].state == {
        "step": 3
    }


def test_what_is_written_loads_without_running_code(tmp_path):
    state = {
        "best": np.float64(0.5),
        "flags": [np.bool_(True), (np.int64(3), None)],
        "table": np.arange(3.0),
        np.str_("name"): OrderedDict(a=torch.ones(2)),
        7: "text",
    }
    _, writer = make(tmp_path, **{str(k): v for k, v in state.items()})
    writer.save("m", iteration=np.int64(9))
    data = torch.load(tmp_path / "m.pth", weights_only=True)
    trainer = data["trainer"]
    assert data["iteration"] == 9 and type(data["iteration"]) is int
    assert trainer["best"] == 0.5 and type(trainer["best"]) is float
    assert trainer["flags"] == [True, (3, None)] and type(trainer["flags"][0]) is bool
    assert torch.equal(trainer["table"], torch.arange(3.0, dtype=torch.float64))
    assert torch.equal(trainer["name"]["a"], torch.ones(2)) and trainer["7"] == "text"


def test_objects_are_refused_before_anything_is_written(tmp_path):
    _, writer = make(tmp_path, hook=Recorder())
    with pytest.raises(TypeError, match="checkpoint.trainer.hook is a Recorder"):
        writer.save("m")
    assert files(tmp_path) == []


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch):
        return {"loss": self.layer(batch[0]["x"]).square().mean()}


def test_the_trainers_whole_state(tmp_path):
    def build():
        model = Tiny()
        loader = [[{"x": torch.ones(1, 2)}]] * 9
        trainer = Trainer(model, loader, torch.optim.AdamW(model.parameters(), lr=0.1))
        writer = Checkpointer(model, str(tmp_path), trainer=trainer)
        ema = EMA(model, 0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2)
        best = BestCheckpoint(writer, "bbox/AP", 0, ema)
        periodic = hooks.PeriodicCheckpointer(writer, 2, max_to_keep=2)
        trainer.register_hooks([hooks.LRScheduler(trainer.optimizer, scheduler), ema, best, periodic])
        best.best = 41.0
        return trainer, writer

    trainer, _ = build()
    trainer.train(0, 5)
    assert files(tmp_path) == ["last_checkpoint", "model_0000001.pth", "model_0000003.pth", "model_final.pth"]
    torch.load(tmp_path / "model_final.pth", weights_only=True)
    other, reader = build()
    reader.resume()
    assert other.iter == 4
    mine, theirs = (t.optimizer.state_dict()["state"][0]["exp_avg"] for t in (trainer, other))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("metric", "values", "improved"),
    [
        ("bbox/AP", (3.0, 2.0, math.nan, 4.0), [3.0, 4.0]),
        ("bbox/MR", (3.0, 2.0, math.nan, 4.0), [3.0, 2.0]),
        ("bbox/MR-all-day", (3.0, 3.0, 1.0), [3.0, 1.0]),
        ("saliency/MAE", (0.1, 0.2, 0.05), [0.1, 0.05]),
        ("saliency/S", (0.1, 0.2, 0.05), [0.1, 0.2]),
    ],
)
def test_the_best_value_is_the_smallest_of_errors(metric, values, improved, tmp_path):
    _, writer = make(tmp_path)
    best = BestCheckpoint(writer, metric, 1)
    found = []
    for i, value in enumerate(values):
        latest = {metric: (value, i)}
        best.trainer = SimpleNamespace(iter=i, storage=SimpleNamespace(latest=lambda now=latest: now))
        if (better := best._improved()) is not None:
            best.best = better
            found.append(better)
    assert found == improved


def test_the_best_model_does_not_move_the_marker(tmp_path):
    model, writer = make(tmp_path)
    writer.save("model_0000001")
    writer.save_model("model_best", metric=0.5)
    assert marker(tmp_path) == "model_0000001.pth"
    assert torch.load(tmp_path / "model_best.pth", weights_only=True).keys() == {"model", "metric"}


@pytest.mark.parametrize("at", ["torch.save", "marker"])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, at):
    model, writer = make(tmp_path, 1)
    writer.save("model_0000001", iteration=1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*args, **kwargs):
        if at == "torch.save":
            args[1].write(b"half")
        else:
            Path(args[0]).touch()
        raise full

    if at == "torch.save":
        monkeypatch.setattr(module.torch, "save", fail)
    else:
        monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError) as error:
        writer.save("model_0000003", iteration=3)
    assert error.value.errno == errno.ENOSPC
    name = "model_0000003.pth" if at == "torch.save" else "last_checkpoint"
    assert error.value.filename == str(tmp_path / name)
    assert not [f for f in files(tmp_path) if f.endswith(".tmp")]
    monkeypatch.undo()
    assert marker(tmp_path) == "model_0000001.pth"
    other, reader = make(tmp_path, 2)
    assert reader.resume()["iteration"] == 1


def test_a_file_that_may_not_grow_any_further(tmp_path):
    """The real thing: the kernel refuses the write in the middle, and torch hides its error."""
    writer = Checkpointer(nn.Linear(1000, 500), str(tmp_path))
    writer.save("model", iteration=1)
    before = (tmp_path / "model.pth").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            writer.save("model", iteration=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG and error.value.filename == str(tmp_path / "model.pth")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert files(tmp_path) == ["last_checkpoint", "model.pth"]


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_last_checkpoint_names_the_good_one_before(tmp_path, damage):
    model, writer = make(tmp_path, 1)
    for i in (1, 3, 5):
        writer.save(f"model_{i}", iteration=i)
        os.utime(tmp_path / f"model_{i}.pth", (i, i))
    writer.save_model("model_best")  # newer, but no run can go on from it
    last, middle = tmp_path / "model_5.pth", tmp_path / "model_3.pth"
    middle.write_bytes(middle.read_bytes()[:-50])
    os.utime(middle, (3, 3))
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[: 300 if damage == "cut" else 0])
    other, reader = make(tmp_path, 2)
    before = snapshot(other)
    with pytest.raises(UserError) as error:
        reader.resume()
    assert str(last) in str(error.value) and f"{tmp_path / 'model_1.pth'} is whole" in str(error.value)
    assert "\n" not in str(error.value) and same(other.state_dict(), before)
    (tmp_path / "last_checkpoint").write_text("model_1.pth")  # the way out that it names
    assert reader.resume()["iteration"] == 1


def test_no_checkpoint_is_whole(tmp_path):
    _, writer = make(tmp_path)
    writer.save("m")
    (tmp_path / "m.pth").write_bytes(b"")
    with pytest.raises(
        UserError, match="no other checkpoint in .* is whole: start anew with another train.output_dir"
    ):
        writer.resume()


def test_another_models_checkpoint_is_refused(tmp_path):
    writer = Checkpointer(Detector(classes=5), str(tmp_path))
    writer.save("m")
    model, reader = make(tmp_path)
    before = snapshot(model)
    with pytest.raises(UserError, match="another model: other tensors: 4 .*cls_score.weight"):
        reader.resume()
    assert same(model.state_dict(), before)


def test_another_trainers_state_is_refused(tmp_path):
    first, second = (Checkpointer(Tiny(), str(tmp_path)) for _ in range(2))
    first.add_checkpointable("optimizer", torch.optim.SGD(first.model.parameters(), lr=1))
    first.save("m")
    groups = [{"params": [p]} for p in second.model.parameters()]
    second.add_checkpointable("optimizer", torch.optim.SGD(groups, lr=1))
    with pytest.raises(UserError, match="m.pth: its trainer's state does not fit this run"):
        second.resume()


def test_the_way_out_quotes_the_folder(tmp_path):
    folder = tmp_path / "my runs; it's"
    _, writer = make(folder)
    for name in ("model_0000001", "model_0000002"):
        writer.save(name)
    (folder / "model_0000002.pth").write_bytes(b"")
    with pytest.raises(UserError) as error:
        writer.resume()
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True)
    assert marker(folder) == "model_0000001.pth"


def test_missing_file(tmp_path):
    _, reader = make(tmp_path)
    with pytest.raises(UserError, match="no file .*nope.pth"):
        reader.load(str(tmp_path / "nope.pth"))


def test_ddp_writes_on_the_main_process_without_a_prefix(tmp_path, monkeypatch):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = randomize(Detector(), 1)
        wrapped = nn.parallel.DistributedDataParallel(model)
        Checkpointer(wrapped, str(tmp_path)).save("m")
        other = randomize(Detector(), 2)
        Checkpointer(nn.parallel.DistributedDataParallel(other), str(tmp_path)).resume()
    finally:
        torch.distributed.destroy_process_group()
    assert same(other.state_dict(), model.state_dict())
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    silent = Checkpointer(model, str(tmp_path))
    silent.save("n"), silent.save_model("o")
    assert not {"n.pth", "o.pth"} & set(files(tmp_path)) and marker(tmp_path) == "m.pth"
