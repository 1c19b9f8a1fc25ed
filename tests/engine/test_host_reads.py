"""A training step in which the host waits for nothing: what reads a value from the device, by module."""

from __future__ import annotations

import itertools

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers import tiny
from helpers.host_reads import HostReads

from ivtuning.backbones.trunk import find_trunk
from ivtuning.benchmark.subjects.batches import random_batch
from ivtuning.config import load_config
from ivtuning.engine.hooks import EMA
from ivtuning.engine.optim import build_optimizer
from ivtuning.engine.run import build_model
from ivtuning.engine.trainer import Trainer
from ivtuning.heads.classification import ImageClassifier
from ivtuning.necks.pooled import PooledTrunk
from ivtuning.tuning import IVTuning

# What reads tensors that are on the host, so that there is nothing to wait for.
ON_THE_HOST = {
    "ivtuning/engine/losses",  # the copied losses of the step before
    "detectron2/structures/image_list",  # image sizes
    "ivtuning/heads/segmentation/losses",  # label ids
    "ivtuning/heads/dino/targets",  # counts and classes
}
# detectron2's two-stage heads choose anchors and proposals by masks, whose counts the host must know; their
# gradients do so as well.
TWO_STAGES = {
    "backward",
    "detectron2/layers/wrappers",
    "detectron2/modeling/box_regression",
    "detectron2/modeling/matcher",
    "detectron2/modeling/poolers",
    "detectron2/modeling/proposal_generator/proposal_utils",
    "detectron2/modeling/proposal_generator/rpn",
    "detectron2/modeling/roi_heads/fast_rcnn",
    "detectron2/modeling/roi_heads/roi_heads",
    "detectron2/structures/boxes",
}
# scipy solves the assignment of queries on the host.
MATCHING = {"ivtuning/heads/dino/matcher"}
# Auxiliary heads train on the positives alone.
POSITIVES = {f"ivtuning/heads/codetr/{name}" for name in ("assignment", "atss", "criterion", "positives")}
READS = {
    "seg_ivtuning": set(),
    "dino_ivtuning": MATCHING,
    "codetr_ivtuning": MATCHING | POSITIVES | TWO_STAGES,
}


def reads_of_a_step(model, optimizer, **options) -> HostReads:
    """Those of the third step, in which nothing is logged, with an average of the weights."""
    batches = itertools.repeat(random_batch(model, (48, 48), 2))
    trainer = Trainer(model, batches, optimizer, clip_grad_norm=0.1, **options)
    trainer.ahead = 1  # as on CUDA
    ema = EMA(model, 0.9)
    with EventStorage() as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
        with HostReads() as reads:
            trainer.run_step()
            ema.after_step()
        latest = trainer.storage.latest()["total_loss"]
    assert latest[1] == 1 and latest[0] > 0  # read while the device computes the next step
    return reads


@pytest.mark.slow
@pytest.mark.parametrize("name", READS)
def test_a_step_of_a_config_reads_nothing_but_what_is_known(name):
    cfg = load_config(f"configs/synthetic/{name}.py", ["train.device=cpu"])
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg.optimizer, model, find_trunk(model))
    reads = reads_of_a_step(model, optimizer)
    assert reads.modules() - ON_THE_HOST <= READS[name]


def test_a_step_of_a_classifier_reads_nothing():
    torch.manual_seed(0)
    trunk = tiny.plain_vit(tuner=IVTuning(hidden_dim=16, dropout=0.1), out_indices=(3,))
    model = ImageClassifier(PooledTrunk(trunk), 3, [110.0] * 6, [55.0] * 6)
    trained = [p for p in model.parameters() if p.requires_grad]
    reads = reads_of_a_step(
        model, torch.optim.AdamW(trained, fused=True), precision="bf16", gradient_accumulation=2
    )
    assert set(reads.count) == {("ivtuning/engine/losses", "tolist")}


def test_reads_are_counted():
    x = torch.arange(4.0, requires_grad=True)
    with HostReads() as reads:
        float(x[1])
        bool(x[2] > 1)
        x.detach().tolist()
        x[x > 1].sum().backward()
        x.detach().nonzero()
        x.detach().to("meta")
    assert sum(reads.count.values()) == 7 and reads.modules() == {"", "backward"}
