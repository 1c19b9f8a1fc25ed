"""The benchmark's part `model`: a config's whole model beside its full fine-tuning. Nothing here is timed."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.tools import load_tool
from torch import nn

from ivtuning.backbones.trunk import find_trunk
from ivtuning.benchmark.measures.shares import shares
from ivtuning.benchmark.options import Options
from ivtuning.benchmark.parts import model
from ivtuning.benchmark.subjects.batches import random_batch
from ivtuning.config import load_config
from ivtuning.engine.parameters import count_parameters
from ivtuning.engine.run import build_model
from ivtuning.errors import UserError
from ivtuning.heads.dino import HungarianMatcher


def options(name: str, *overrides: str) -> Options:
    return Options(
        config=f"configs/synthetic/{name}.py", overrides=overrides, size=(96, 96), batch=2, repeats=1
    )


def full():
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino_ivtuning", "codetr_ivtuning", "ivtuning", "seg_ivtuning"])
def test_model_and_its_full_fine_tuning(name, capsys):
    argv = ["model", "--config-file", f"configs/synthetic/{name}.py", "--size", "96", "--batch", "2"]
    load_tool("benchmark").main([*argv, "--repeats", "1", "--json", "train.precision=bf16"])
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    raw = result["raw"]["model"]
    assert result["model_step_over_full"] > 0 and result["model_infer_over_full"] > 0
    assert result["notes"]["model_peak_over_full"] == "on CUDA only"
    built = build_model(load_config(f"configs/synthetic/{name}.py"))
    assert raw["trained"]["config"] == count_parameters(built)["model_trainable"] < raw["trained"]["full"]
    for part in raw["shares"].values():
        assert 0 < part["backbone"] < 1 and ("matching" in part) == (name[:4] in ("dino", "code"))
    assert "train.precision=bf16, 96 x 96 px, batch 2, bf16 in training" in result["conditions"]["model"]
    lines = [line for line in out.splitlines() if line.startswith(("| IVTuning ", "| Full "))]
    assert [f" {raw['trained'][key]:,} " in line for key, line in zip(("config", "full"), lines, strict=True)]


def test_steps_train_nothing_and_inference_follows():
    subject = model.make_subject(load_config("configs/synthetic/dino_ivtuning.py"), (64, 96), 1)
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    subject.train()
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.any() for p in trained) and subject.optimizer.state
    assert all(torch.equal(p, before[name]) for name, p in subject.model.named_parameters())
    subject.model.eval()
    subject.infer()


def test_twin_of_visible_images_alone_keeps_its_stem():
    cfg = load_config("configs/synthetic/ivtuning.py", ["method=visible"])
    twin = model.full_twin(cfg)
    assert twin.model.backbone.net.stem == cfg.model.backbone.net.stem
    assert type(find_trunk(build_model(twin)).trunk.tuner).__name__ == "Full"
    assert model.tuner_name(cfg) != model.tuner_name(twin) == "Full"
    del cfg.model.backbone["net"]
    with pytest.raises(UserError, match="no model.backbone.net"):
        model.full_twin(cfg)


def test_one_that_does_not_fit_leaves_the_other(monkeypatch):
    build = model.build_model

    def small(cfg):
        return full() if model.tuner_name(cfg) == "Full" else build(cfg)

    monkeypatch.setattr(model, "build_model", small)
    result = model.measure(options("seg_ivtuning"))
    assert result.rows["model_step_over_full"].note == "out of memory: full"
    assert result.rows["model_infer_over_full"].note == "out of memory: full"
    config, twin = result.listings[0].lines
    assert twin == ["Full", "out of memory", "out of memory", "", "out of memory", "", "", ""]
    assert float(config[1]) > 0 and result.raw["infer_seconds"].keys() == {"config"}


def test_inference_stays_where_training_does_not_fit(monkeypatch):
    monkeypatch.setattr(model.Trainer, "run_step", lambda self: full())
    result = model.measure(options("seg_ivtuning"))
    assert result.rows["model_step_over_full"].note == "out of memory: config, full"
    assert result.rows["model_infer_over_full"].value > 0
    assert [line[1] for line in result.listings[0].lines] == ["out of memory"] * 2


def test_shares_put_everything_back():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(2, 2)

        def forward(self, x):
            return self.backbone(self.backbone(x))

    net, matcher = Net(), vars(HungarianMatcher)["__call__"]
    assert shares(net, lambda: net(torch.zeros(1, 2))).keys() == {"backbone"}
    with pytest.raises(torch.OutOfMemoryError):
        shares(net, full)
    assert "forward" not in vars(net.backbone) and vars(HungarianMatcher)["__call__"] is matcher


def test_batches_hold_labels_of_all_tasks():
    net = nn.Module()
    net.register_buffer("pixel_mean", torch.zeros(6, 1, 1))
    first, second = random_batch(net, (40, 60), 2)
    assert first["image"].shape == (6, 40, 60) and first["image"].dtype == torch.uint8
    assert not torch.equal(first["image"], second["image"])
    boxes = first["instances"].gt_boxes.tensor
    assert len(boxes) == 12 and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes <= torch.tensor([60, 40, 60, 40])).all()
    assert set(first["instances"].gt_classes.tolist()) == set(first["sem_seg"].unique().tolist()) == {0, 1}
    assert first["label"] in (0, 1) and not first["instances"].has("gt_masks")
    net.roi_heads = nn.Module()
    net.roi_heads.mask_on = True
    assert random_batch(net, (40, 60), 1)[0]["instances"].gt_masks.tensor.shape == (12, 40, 60)
