"""The decoder of docs/new_head.md trains and predicts, and its config builds."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from helpers.pages import code_blocks, configs_with, installed
from helpers.tiny import labeled, swin

from ivtuning.config import load_config
from ivtuning.errors import UserError
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.necks.multi_scale import MultiScale


@pytest.fixture
def decoder():
    (code,) = code_blocks("new_head.md")
    with installed(code, "ivtuning.heads.segmentation.linear") as module:
        yield module.LinearDecoder


def test_it_trains_and_predicts(decoder):
    torch.manual_seed(0)
    model = PairedSemanticSegmentor(
        backbone=MultiScale(swin(), 16),
        sem_seg_head=SemSegHead(decoder(["p0", "p1", "p2"], [8, 16, 32], 3), 3),
        pixel_mean=[120.0] * 6,
        pixel_std=[60.0] * 6,
    )
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    samples, losses = [labeled(), labeled(seed=1)], []
    for _ in range(5):
        losses.append(model(samples)["loss_sem_seg"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    (prediction,) = model.eval()(samples[:1])
    assert prediction["sem_seg"].shape == (3, 37, 53)


def test_a_missing_map_is_reported(decoder):
    with pytest.raises(UserError, match="'p9'"):
        decoder(["p9"], [8], 3)({"p1": torch.zeros(1, 8, 4, 4)})


def test_the_config_builds(decoder, tmp_path):
    (code,) = (code for code in code_blocks("new_head.md", "") if "sem_seg_head.decoder" in code)
    cfg = load_config(configs_with(tmp_path, "synthetic/seg_linear.py", code))
    assert isinstance(instantiate(cfg.model).sem_seg_head.decoder, decoder)
