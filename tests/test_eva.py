"""EVA-02 as a trunk: timm's outputs, the published counts, and the tuners on it."""

from __future__ import annotations

import pytest
import test_tuners
import torch
from timm.models.eva import Eva

from ivtuning.backbones.eva import Eva02
from ivtuning.backbones.stems import PromptStem, SumStem, VisibleOnly
from ivtuning.checkpoint import load_pretrained
from ivtuning.errors import UserError
from ivtuning.tuning import Frozen, Full, IVTuning

SIZE = dict(img_size=48, patch_size=8, embed_dim=24, depth=4, num_heads=2)


def eva02(stem=None, tuner=None, **kwargs) -> Eva02:
    """Four blocks of width 24, patch 8, with a cls token."""
    options = {**SIZE, "taps": (1, 3), "rope_grid": 4, **kwargs}
    return Eva02(stem or VisibleOnly(), tuner or Frozen(), **options)


def timms() -> Eva:
    torch.manual_seed(0)
    model = Eva(
        **SIZE,
        qkv_fused=False,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
        global_pool="token",
        num_classes=3,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("size", [(48, 48), (40, 62)])
def test_equals_timms(size, tmp_path):
    theirs = timms()
    if size != (48, 48):
        torch.nn.init.zeros_(theirs.pos_embed)  # resized by another filter there
    torch.save(theirs.state_dict(), tmp_path / "eva02.pth")
    ours = eva02(final_norm=True, taps=(3,)).eval()
    report = load_pretrained(ours, tmp_path / "eva02.pth")
    assert report.fresh == report.missing == [] and {n.split(".")[0] for n in report.ignored} == {"head"}
    x = torch.randn(2, 3, *size)
    expected = theirs.forward_features(x)[:, 1:].transpose(1, 2)
    found = ours(x)["block3"]
    assert found.shape == (2, 24, size[0] // 8, -(-size[1] // 8))
    assert torch.allclose(found.flatten(2), expected, atol=1e-4)


def test_rotary_positions_matter():
    trunk = eva02().eval()
    torch.nn.init.zeros_(trunk.pos_embed)
    torch.nn.init.normal_(trunk.blocks[0].attn.q_proj.weight)
    torch.nn.init.normal_(trunk.blocks[0].attn.k_proj.weight)
    torch.manual_seed(0)
    # Without any positions, moving the rows of patches would just move the outputs.
    x = torch.randn(1, 3, 6, 8, 48)
    out, turned = (trunk(y.flatten(2, 3))["block3"] for y in (x, x.roll(1, 2)))
    assert (out.roll(1, 2) - turned).abs().max() > 1e-4


@pytest.mark.parametrize(
    "stem, tuner, img_size, trained, base",
    [
        (PromptStem, IVTuning, 384, 8_899_652, 303_778_752),
        (PromptStem, IVTuning, 512, 8_899_652, 304_237_504),
        (VisibleOnly, Full, 512, 304_237_504, 304_237_504),
        (SumStem, Full, 512, 304_237_504 + 787_456, 304_237_504),
    ],
)
def test_published_counts(stem, tuner, img_size, trained, base):
    with torch.device("meta"):
        trunk = Eva02(stem(), tuner(), img_size=img_size)
    assert sum(p.numel() for p in trunk.parameters() if p.requires_grad) == trained
    assert sum(p.numel() for p in trunk.base_parameters()) == base


@pytest.mark.parametrize("tuner", test_tuners.ADDING)
def test_methods_that_add(tuner, monkeypatch, tmp_path):
    monkeypatch.setitem(test_tuners.TRUNKS, "eva02", eva02)
    for training in (False, True):
        test_tuners.test_zeroed_is_the_frozen_trunk("eva02", tuner, training)
        test_tuners.test_disabled_is_the_frozen_trunk("eva02", tuner, training)
    test_tuners.test_exactly_what_trains_moves("eva02", tuner)
    test_tuners.test_two_adapters_swap_in_a_running_model("eva02", tuner, tmp_path)


@pytest.mark.parametrize("tuner", test_tuners.SELECTING)
def test_methods_that_select(tuner, monkeypatch):
    monkeypatch.setitem(test_tuners.TRUNKS, "eva02", eva02)
    test_tuners.test_exactly_what_trains_moves("eva02", tuner)
    test_tuners.test_a_changed_base_cannot_be_disabled("eva02", tuner)


def test_lora_on_separate_projections(monkeypatch):
    monkeypatch.setitem(test_tuners.TRUNKS, "eva02", eva02)
    test_tuners.test_lora_starts_as_the_frozen_trunk("eva02")
    test_tuners.test_lora_merges_and_unmerges("eva02")


def test_wrong_taps_are_told():
    with pytest.raises(UserError, match="taps names block 4, the trunk has 4"):
        eva02(taps=(4,))
