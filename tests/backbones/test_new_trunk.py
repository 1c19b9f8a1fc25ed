"""The trunk of docs/new_trunk.md: adapters act on it, the rest stays frozen, and its config builds."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from helpers.pages import code_blocks, configs_with, installed

from ivtuning.backbones.trunk import find_trunk
from ivtuning.config import load_config
from ivtuning.tuning import TUNERS, Frozen, IVTuning
from ivtuning.tuning.stems import PromptStem, VisibleOnly

SIZE = dict(img_size=48, patch_size=8, embed_dim=24, depth=4, num_heads=2)


@pytest.fixture
def deit3():
    (code,) = code_blocks("new_trunk.md")
    with installed(code, "ivtuning.backbones.deit3") as module:
        yield module.DeiT3


def test_adapters_start_as_the_frozen_trunk_and_train(deit3):
    torch.manual_seed(0)
    net, frozen = deit3(PromptStem(), IVTuning(hidden_dim=16), **SIZE), deit3(VisibleOnly(), Frozen(), **SIZE)
    frozen.load_state_dict(net.state_dict(), strict=False)
    images = torch.randn(1, 6, 40, 56)
    features = net(images)["last_feat"]
    assert features.shape == (1, 24, 5, 7)
    assert torch.equal(features, frozen(images[:, :3])["last_feat"])
    features.square().sum().backward()
    assert not any(parameter.requires_grad for parameter in net.base_parameters())
    assert any(parameter.grad.any() for parameter in net.tuner.parameters())
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1).step()
    assert not torch.equal(features, net(images)["last_feat"])
    for net.residual_dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            assert net(images)["last_feat"].dtype == net.residual_dtype


@pytest.mark.parametrize("tuner", TUNERS)
@pytest.mark.parametrize("activation_checkpointing", [None, "block"])
def test_every_tuner_runs_on_it(deit3, tuner, activation_checkpointing):
    stem = PromptStem() if tuner == "IVTuning" else VisibleOnly()
    net = deit3(stem, TUNERS[tuner](), activation_checkpointing=activation_checkpointing, **SIZE)
    features = net(torch.randn(2, 6, 48, 48))["last_feat"]
    if features.requires_grad:
        features.sum().backward()


def test_the_entry_has_the_published_size(deit3):
    (entry,) = (code for code in code_blocks("new_trunk.md", "") if "partial(" in code)
    (build,) = eval(f"{{{entry}}}", {"partial": partial, "DeiT3": deit3}).values()
    with torch.device("meta"):
        net = build(VisibleOnly(), Frozen())
    # As timm's deit3_small_patch16_224 without class token, final norm and classifier.
    assert sum(p.numel() for p in net.base_parameters()) == 21_673_344


def test_the_config_builds(deit3, tmp_path):
    (code,) = (code for code in code_blocks("new_trunk.md", "") if "model.backbone.net = " in code)
    cfg = load_config(configs_with(tmp_path, "synthetic/deit3.py", code))
    assert isinstance(find_trunk(instantiate(cfg.model))[1], deit3)
