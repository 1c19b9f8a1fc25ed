"""Stems: which image has an influence, and what a trunk starts from."""

from __future__ import annotations

import torch
from helpers.tiny import vitdet
from helpers.tuned import build, frozen, on_every_trunk

from ivtuning.tuning import Frozen
from ivtuning.tuning.stems import STEMS, GatedStem, InfraredOnly, PromptStem, SumStem, VisibleOnly


def test_stems_say_which_images_they_use():
    assert {name: stem.uses for name, stem in STEMS.items()} == {
        "VisibleOnly": ("visible",),
        "InfraredOnly": ("infrared",),
        "GatedStem": ("visible", "infrared"),
        "SumStem": ("visible", "infrared"),
        "PromptStem": ("visible", "infrared"),
    }


def test_stems_use_the_right_image():
    torch.manual_seed(0)
    x, other = torch.randn(1, 6, 40, 40), torch.randn(1, 6, 40, 40)
    same_visible = torch.cat([x[:, :3], other[:, 3:]], 1)
    same_infrared = torch.cat([other[:, :3], x[:, 3:]], 1)

    def sees(stem, pair):
        trunk = vitdet(stem, Frozen()).eval()
        if isinstance(stem, GatedStem):
            torch.nn.init.ones_(trunk.stem.gate)
        return not torch.equal(trunk(x)["last_feat"], trunk(pair)["last_feat"])

    assert not sees(VisibleOnly(), same_visible) and sees(VisibleOnly(), same_infrared)
    assert sees(InfraredOnly(), same_visible) and not sees(InfraredOnly(), same_infrared)
    for stem in (SumStem, GatedStem, lambda: PromptStem(zero_init=False)):
        assert sees(stem(), same_visible) and sees(stem(), same_infrared)


def test_infrared_embedding_starts_from_the_visible_one_when_asked():
    for stem in (PromptStem, SumStem, GatedStem):
        for wanted in (True, False):
            trunk = vitdet(stem(from_visible=wanted))
            trunk.stem.base_loaded(trunk.patch_embed)
            assert torch.equal(trunk.stem.embed.proj.weight, trunk.patch_embed.proj.weight) == wanted


def test_average_of_equal_images_is_the_visible_one():
    x = torch.rand(2, 3, 32, 32).repeat(1, 2, 1, 1)
    averaged = vitdet(SumStem(from_visible=True, average=True), Frozen()).eval()
    averaged.stem.base_loaded(averaged.patch_embed)
    visible = vitdet(VisibleOnly(), Frozen()).eval()
    visible.load_state_dict(averaged.state_dict(), strict=False)
    torch.testing.assert_close(averaged(x)["last_feat"], visible(x)["last_feat"])


def test_a_gate_lets_each_channel_in_by_itself():
    torch.manual_seed(0)
    trunk = vitdet(GatedStem(), Frozen())
    stem = trunk.stem
    torch.nn.init.normal_(stem.gate)
    assert stem.gate.shape == (trunk.patch_embed.proj.out_channels,)
    visible, infrared = torch.randn(2, 2, 3, 48, 48)
    x, prompt = stem(visible, infrared, trunk.patch_embed)
    expected = trunk.patch_embed(visible) + 10 * stem.gate * stem.embed(infrared)
    torch.testing.assert_close(x, expected)
    assert prompt is None
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = stem(visible, infrared, trunk.patch_embed)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.1)


@on_every_trunk
def test_a_closed_gate_leaves_the_visible_image_bit_for_bit_and_opens(trunk):
    gated, visible = build(trunk, "Frozen", stem=GatedStem).eval(), frozen(trunk).eval()
    gated.stem.base_loaded(gated.patch_embed)
    x = torch.randn(2, 6, 64, 64)

    def outputs(net):
        return list(net(x).values())

    assert all(map(torch.equal, outputs(gated), outputs(visible)))
    optimizer = torch.optim.SGD(gated.stem.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        sum(out.square().mean() for out in outputs(gated)).backward()
        assert gated.stem.gate.grad.abs().min() > 0
        # What is behind a closed gate waits until it opens.
        assert all(bool(p.grad.any()) == bool(step) for p in gated.stem.embed.parameters())
        optimizer.step()
    assert not any(map(torch.equal, outputs(gated), outputs(visible)))
