"""EVA-02 as a trunk: timm's outputs, the published counts, and the tuners on it."""

from __future__ import annotations

import pytest
import torch
from timm.models.eva import Eva, checkpoint_filter_fn

from ivtuning.backbones.eva import Eva02
from ivtuning.backbones.presets import TRUNKS
from ivtuning.backbones.vit import PlainViT
from ivtuning.checkpoint import load_pretrained
from ivtuning.checkpoint.files import read_state
from ivtuning.errors import UserError
from ivtuning.tuning import Frozen, Full, IVTuning
from ivtuning.tuning.stems import PromptStem, SumStem, VisibleOnly

SIZE = dict(img_size=48, patch_size=8, embed_dim=24, depth=4, num_heads=2)


def eva02(stem=None, tuner=None, **kwargs) -> Eva02:
    """Four blocks of width 24, patch 8, with a cls token."""
    options = {**SIZE, "out_indices": (1, 3), "rope_grid": 4, **kwargs}
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
    ours = eva02(final_norm=True, out_indices=(3,)).eval()
    report = load_pretrained(ours, tmp_path / "eva02.pth")
    assert report.fresh == report.missing == [] and {n.split(".")[0] for n in report.ignored} == {"head"}
    x = torch.randn(2, 3, *size)
    expected = theirs.forward_features(x)[:, 1:].transpose(1, 2)
    out = ours(x)["block3"]
    assert out.shape == (2, 24, size[0] // 8, -(-size[1] // 8))
    assert torch.allclose(out.flatten(2), expected, atol=1e-4)


def released() -> dict:
    """timm's weights under the names of EVA-02's own release, and the other tensors of its files."""
    names = {"mlp.norm": "mlp.ffn_ln", "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3"}
    names |= {"q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    state = {"mask_token": torch.zeros(1, 1, 24), "rope.freqs_cos": torch.zeros(36, 12)}
    state |= {"lm_head.weight": torch.zeros(8, 24), "lm_head.bias": torch.zeros(8)}
    for name, tensor in timms().state_dict().items():
        if not name.startswith("head."):
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            state[name] = tensor
    return state | {f"blocks.{i}.attn.rope.freqs_sin": torch.zeros(36, 12) for i in range(4)}


@pytest.mark.parametrize("wrapper", ["module", "model"])
def test_the_releases_own_names(tmp_path, wrapper):
    file, model = tmp_path / "eva02_L_pt_m38m_p14to16.pt", timms()
    torch.save({wrapper: released()}, file)
    ours, plain = eva02(), eva02()
    report = load_pretrained(ours, file)
    assert report.fresh == report.missing == report.resized == []
    assert {n.split(".")[0] for n in report.ignored} == {"mask_token", "rope", "lm_head", "norm", "blocks"}
    wanted = checkpoint_filter_fn(read_state(file), model)
    torch.save({n: t for n, t in wanted.items() if not n.startswith("fc_norm")}, tmp_path / "timm.pth")
    load_pretrained(plain, tmp_path / "timm.pth")
    assert all(torch.equal(t, plain.state_dict()[n]) for n, t in ours.state_dict().items())


def test_another_architecture_is_reported(tmp_path):
    torch.save(released(), tmp_path / "eva.pt")
    plain = PlainViT(VisibleOnly(), Frozen(), **SIZE, out_indices=(3,))
    with pytest.raises(UserError, match="has EVA-02's separate projections .*, which PlainViT lacks"):
        load_pretrained(plain, tmp_path / "eva.pt")
    torch.save(plain.state_dict(), tmp_path / "vit.pt")
    with pytest.raises(UserError, match="is no EVA-02 checkpoint, the trunk is Eva02"):
        load_pretrained(eva02(), tmp_path / "vit.pt")
    lacking = {n: t for n, t in released().items() if n != "blocks.2.attn.v_bias"}
    torch.save(lacking, tmp_path / "cut.pt")
    with pytest.raises(UserError, match="lacks 1 tensor of the trunk .blocks.2.attn.v_proj.bias"):
        load_pretrained(eva02(), tmp_path / "cut.pt")


def test_presets_come_in_their_published_sizes():
    with torch.device("meta"):
        trunks = {n: TRUNKS[n](VisibleOnly(), Frozen()) for n in ("eva02_b", "eva02_l")}
        counts = {n: sum(p.numel() for p in trunk.parameters()) for n, trunk in trunks.items()}
    assert counts == {"eva02_b": 86_485_248, "eva02_l": 304_237_504}
    assert trunks["eva02_b"].out_indices == (11,) and trunks["eva02_l"].out_indices == (23,)


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


def test_wrong_out_indices_are_reported():
    with pytest.raises(UserError, match="out_indices names block 4, the trunk has 4"):
        eva02(out_indices=(4,))
