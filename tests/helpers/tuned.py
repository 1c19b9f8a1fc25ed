"""Tiny trunks with every tuner, on a base that is always the same."""

from __future__ import annotations

import functools

import pytest
import torch

from helpers.tiny import TRUNKS
from ivtuning.backbones.trunk import PLUGINS
from ivtuning.tuning import TUNERS
from ivtuning.tuning.stems import PromptStem, SumStem, VisibleOnly

ADDING = {
    "IVTuning": dict(hidden_dim=8, dropout=0.5, zero_init=False),
    "Mona": dict(hidden_dim=8, dropout=0.5),
    "Adapter": dict(hidden_dim=8, dropout=0.5),
    "AdaptFormer": dict(hidden_dim=8, dropout=0.5),
    "LoRA": dict(rank=2),
}
SELECTING = ("BitFit", "NormTuning", "Partial", "Full")
# A method that trains nothing of its own comes with a stem that does.
STEMS = {"IVTuning": lambda: PromptStem(zero_init=False), "Full": SumStem, "Frozen": SumStem}

on_every_trunk = pytest.mark.parametrize("trunk", TRUNKS)
by_every_tuner = pytest.mark.parametrize("tuner", TUNERS)
by_adding = pytest.mark.parametrize("tuner", ADDING)
by_selecting = pytest.mark.parametrize("tuner", SELECTING)


@functools.cache
def pretrained(trunk: str) -> dict:
    torch.manual_seed(0)
    return TRUNKS[trunk](VisibleOnly(), TUNERS["Frozen"]()).state_dict()


def build(trunk: str, tuner: str, seed: int = 0, stem=None):
    """A trunk whose base is always the same."""
    torch.manual_seed(seed)
    net = TRUNKS[trunk]((stem or STEMS.get(tuner, VisibleOnly))(), TUNERS[tuner](**ADDING.get(tuner, {})))
    net.load_state_dict(pretrained(trunk), strict=False)
    return net


def frozen(trunk: str):
    return build(trunk, "Frozen", stem=VisibleOnly)


@torch.no_grad()
def wake(net, seed: int = 0):
    """Give whatever trains weights that matter, so that nothing starts as the identity."""
    torch.manual_seed(seed)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return net


def base(net) -> dict:
    return {n: t.clone() for n, t in net.state_dict().items() if n.split(".")[0] not in PLUGINS}


def images(seed: int = 1):
    return torch.randn(2, 6, 24, 40, generator=torch.Generator().manual_seed(seed))


def outputs(net, x=None) -> torch.Tensor:
    with torch.no_grad():
        maps = net(images() if x is None else x).values()
        return torch.cat([m.flatten() for m in maps])
