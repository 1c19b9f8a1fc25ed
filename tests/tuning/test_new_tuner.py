"""The page about new tuning methods keeps its word."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.tiny import plain_vit, swin, vitdet
from helpers.tools import ROOT

from ivtuning.config import load_config
from ivtuning.tuning import TUNERS, Frozen
from ivtuning.tuning.stems import VisibleOnly

PAGE = ROOT / "docs/new_tuner.md"


@pytest.fixture
def ssf(monkeypatch):
    monkeypatch.setattr("ivtuning.tuning.TUNERS", {**TUNERS})
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 40
    names = {"__name__": "page"}
    exec(compile(code, PAGE, "exec"), names)
    return names["SSF"]


@pytest.mark.parametrize("trunk", [vitdet, plain_vit, swin])
def test_the_code_block_is_a_tuner(ssf, trunk):
    torch.manual_seed(0)
    net, frozen = trunk(VisibleOnly(), ssf()), trunk(VisibleOnly(), Frozen())
    frozen.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(1, 3, 40, 56)
    before, expected = list(net(x).values()), frozen(x).values()
    assert all(torch.equal(a, b) for a, b in zip(before, expected, strict=True))
    sum(y.square().sum() for y in before).backward()
    trained = [p for p in net.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 4 * sum(b.norm1.weight.numel() for b in net.blocks)
    torch.optim.SGD(trained, lr=0.1).step()
    assert not torch.equal(before[-1], list(net(x).values())[-1])


def test_the_command_line_takes_it(ssf):
    overrides = ["model.backbone.net.tuner=SSF", "model.backbone.net.stem=VisibleOnly"]
    config = load_config("configs/synthetic/ivtuning.py", overrides)
    assert config.model.backbone.net.tuner._target_ is ssf
