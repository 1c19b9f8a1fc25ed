from __future__ import annotations

import argparse
import pickle
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.weights import (
    SIZE,
    Detector,
    base_of,
    mae_state,
    plain,
    randomize,
    sam_state,
    same,
    save,
    snapshot,
    timm_vit,
    vitdet,
)
from timm.models.swin_transformer import SwinTransformer

from ivtuning import compat
from ivtuning.checkpoint import load_pretrained
from ivtuning.errors import UserError
from ivtuning.necks.feature_pyramid import SimpleFeaturePyramid
from ivtuning.tuning import IVTuning


def test_mae_fills_vitdet_and_starts_the_stem(tmp_path):
    state, trunk = mae_state(), randomize(vitdet())
    trunk.stem.from_visible = True
    added = {n: t for n, t in snapshot(trunk).items() if n.startswith("tuner.")}
    report = load_pretrained(trunk, save(tmp_path / "mae.pth", {"model": state}))
    new = trunk.state_dict()
    assert set(report.matched) == {n for n in base_of(trunk) if "rel_pos" not in n}
    assert all(torch.equal(new[n], state[n]) for n in report.matched)
    assert len(report.missing) == 4 and all(not new[n].any() for n in report.missing)
    assert set(report.ignored) == {"cls_token", "norm.weight", "norm.bias"}
    assert torch.equal(new["stem.embed.proj.weight"], state["patch_embed.proj.weight"])
    assert all(torch.equal(new[n], t) for n, t in added.items())
    for line in ("not in the file, zero", "of no use here", "cls_token"):
        assert line in str(report)


def test_mae_with_its_decoder_and_training_arguments(tmp_path):
    extra = {
        n: torch.zeros(1)
        for n in ("mask_token", "decoder_embed.weight", "decoder_blocks.0.ls1", "decoder_pos_embed")
    }
    file = {"model": mae_state() | extra, "args": argparse.Namespace(lr=1), "epoch": 3, "best": np.float64(2)}
    report = load_pretrained(vitdet(), save(tmp_path / "mae.pth", file))
    assert extra.keys() <= set(report.ignored)


@pytest.mark.parametrize(
    "options", [{}, {"no_embed_class": True}, {"class_token": False, "global_pool": "avg"}]
)
def test_plain_vit_computes_what_timm_does(tmp_path, options):
    vit = timm_vit(**options, fc_norm=False)
    trunk = plain(final_norm=True, class_token=options.get("class_token", True)).eval()
    path = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(vit.state_dict(), path)
    report = load_pretrained(trunk, path)
    assert {"head.weight", "head.bias"} <= set(report.ignored)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = vit.forward_features(x)[:, vit.num_prefix_tokens :]
        got = trunk(x)["block1"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_sam_fills_vitdet(tmp_path):
    state, trunk = sam_state(), vitdet()
    report = load_pretrained(trunk, save(tmp_path / "sam.pth", state))
    new = trunk.state_dict()
    assert report.missing == [] and report.resized == ["pos_embed: cls slot added, zero"]
    assert torch.equal(new["pos_embed"][:, 1:], state["image_encoder.pos_embed"].flatten(1, 2))
    assert not new["pos_embed"][:, 0].any()
    assert torch.equal(new["blocks.1.attn.rel_pos_h"], state["image_encoder.blocks.1.attn.rel_pos_h"])
    assert torch.equal(new["blocks.0.mlp.fc1.weight"], state["image_encoder.blocks.0.mlp.lin1.weight"])
    assert {"neck.0.weight", "prompt_encoder.no_mask_embed.weight"} <= set(report.ignored)


def test_timm_sam_fills_vitdet(tmp_path):
    state = {n.removeprefix("image_encoder."): t for n, t in sam_state().items() if n.startswith("image")}
    trunk = vitdet(class_token=False)
    report = load_pretrained(trunk, save(tmp_path / "sam.pth", state))
    assert report.resized == report.missing == []
    assert torch.equal(trunk.pos_embed, state["pos_embed"].flatten(1, 2))


def test_positions_and_tables_are_resized(tmp_path):
    # Linear in both directions: what interpolation must keep, away from the border.
    row = torch.arange(8.0)
    state = sam_state()
    state["image_encoder.pos_embed"] = (row[:, None] + 10 * row)[None, :, :, None].repeat(1, 1, 1, 32)
    state["image_encoder.blocks.1.attn.rel_pos_h"] = torch.arange(15.0)[:, None].repeat(1, 16)
    trunk = vitdet()
    report = load_pretrained(trunk, save(tmp_path / "sam.pth", state))
    assert "pos_embed: 8x8 -> 4x4, cls slot added, zero" in report.resized
    assert "blocks.1.attn.rel_pos_h: 15 -> 7" in report.resized
    grid = trunk.pos_embed[0, 1:, 0].unflatten(0, (4, 4))
    torch.testing.assert_close(grid[1:3, 1:3], torch.tensor([[27.5, 47.5], [29.5, 49.5]]))
    torch.testing.assert_close(trunk.blocks[1].attn.rel_pos_h[3], torch.full((16,), 7.0))


def test_detectron2_zoo_pickle_fills_trunk_neck_and_heads(tmp_path):
    source = randomize(Detector(vitdet("VisibleOnly", "Frozen"), classes=80))
    arrays = {n: t.numpy() for n, t in source.state_dict().items()}
    arrays["roi_heads.mask_head.deconv.weight"] = np.zeros((2, 2), np.float32)
    path = tmp_path / "model_final_61ccd1.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "ViTDet", "matching_heuristics": True}))
    model = Detector(vitdet(), classes=80)
    model.backbone.net.stem.from_visible = True
    report = load_pretrained(model, path)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in source.state_dict().items())
    assert report.ignored == ["roi_heads.mask_head.deconv.weight"]
    assert set(report.fresh) == {n for n in model.state_dict() if ".stem." in n or ".tuner." in n}
    assert torch.equal(model.backbone.net.stem.embed.proj.weight, source.backbone.net.patch_embed.proj.weight)


@pytest.mark.skipif(not compat.has_vit(), reason="detectron2 0.6 has no ViT")
def test_detectron2s_own_vitdet_fills_all_but_the_plugins(tmp_path):
    from detectron2.modeling.backbone import vit

    net = vit.ViT(
        img_size=64, pretrain_img_size=64, window_size=2, window_block_indexes=(0,), use_rel_pos=True,
        out_feature="last_feat", **SIZE,
    )  # fmt: skip
    pyramid = randomize(vit.SimpleFeaturePyramid(net, "last_feat", 8, (4.0, 2.0, 1.0, 0.5), norm="LN")).eval()
    state = {f"backbone.{n}": t for n, t in pyramid.state_dict().items()}
    model = Detector().eval()
    model.backbone = SimpleFeaturePyramid(vitdet("VisibleOnly", "Frozen"), out_channels=8).eval()
    report = load_pretrained(model, save(tmp_path / "d2.pth", {"model": state}))
    assert report.ignored == [] and all(n.startswith("roi_heads") for n in report.fresh)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, wanted in pyramid(x).items():
            torch.testing.assert_close(model.backbone(x)[name], wanted, rtol=1e-4, atol=1e-4)


def test_own_full_checkpoint(tmp_path):
    source, model = randomize(Detector()), randomize(Detector(), 1)
    state = {f"module.{n}": t for n, t in source.state_dict().items()}
    report = load_pretrained(model, save(tmp_path / "m.pth", {"model": state, "iteration": 5}), strict=True)
    assert same(model.state_dict(), source.state_dict())
    assert report.fresh == report.missing == report.ignored == []


def test_own_trunk_checkpoint(tmp_path):
    source, model = randomize(vitdet()), randomize(Detector(), 1)
    heads = {n: t for n, t in snapshot(model).items() if not n.startswith("backbone.net.")}
    load_pretrained(model, save(tmp_path / "t.pth", source.state_dict()))
    assert same(model.backbone.net.state_dict(), source.state_dict())
    assert all(torch.equal(model.state_dict()[n], t) for n, t in heads.items())


def test_full_checkpoint_into_a_bare_trunk(tmp_path):
    source, trunk = randomize(Detector()), vitdet()
    report = load_pretrained(trunk, save(tmp_path / "m.pth", source.state_dict()))
    assert same(trunk.state_dict(), source.backbone.net.state_dict())
    assert "roi_heads.box_predictor.cls_score.weight" in report.ignored


def test_class_layers_of_another_set_stay_as_initialized(tmp_path):
    source, model = randomize(Detector(classes=5)), Detector(classes=3)
    path, before = save(tmp_path / "m.pth", source.state_dict()), snapshot(model)
    report = load_pretrained(model, path)
    kept = {n for n in before if n.startswith("roi_heads.box_predictor")}
    assert set(report.fresh) == kept and len(report.reshaped) == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in kept else source.state_dict()[name])
    with pytest.raises(
        UserError, match="another model or set of classes: .*6x8 in the file, 4x8 in the model"
    ):
        load_pretrained(model, path, strict=True)


def test_a_layer_is_filled_whole_or_not_at_all(tmp_path):
    model = Detector()
    state = randomize(Detector()).state_dict()
    name = "roi_heads.box_predictor.cls_score."
    state[name + "weight"] = torch.zeros(4, 9)  # the bias would fit
    before = snapshot(model)
    load_pretrained(model, save(tmp_path / "m.pth", state))
    assert torch.equal(model.state_dict()[name + "bias"], before[name + "bias"])


def test_strict_refuses_a_trunk_alone_and_a_lack(tmp_path):
    model = randomize(Detector(), 3)
    before = snapshot(model)
    with pytest.raises(UserError, match="holds only a trunk"):
        load_pretrained(model, save(tmp_path / "mae.pth", mae_state()), strict=True)
    state = randomize(Detector()).state_dict()
    del state["roi_heads.norm.running_mean"]
    with pytest.raises(UserError, match="leaves 1 tensor of the model unfilled: roi_heads.norm.running_mean"):
        load_pretrained(model, save(tmp_path / "m.pth", state), strict=True)
    assert same(model.state_dict(), before)


def _swin():
    return SwinTransformer(
        img_size=32, patch_size=4, window_size=2, embed_dim=8, depths=(2, 2), num_heads=(1, 2)
    ).state_dict()


def _timm(**options):
    return lambda: timm_vit(**options).state_dict()


def _wider_tuner():
    trunk = vitdet()
    trunk.tuner = IVTuning(hidden_dim=16)
    trunk.tuner.attach([32, 32])
    return trunk.state_dict()


MISFITS = {
    "swin": (_swin, "Swin checkpoint, the trunk is ViTDet"),
    "depth": (_timm(depth=3), "3 blocks, the trunk 2"),
    "width": (_timm(embed_dim=16), "16 wide, the trunk 32"),
    "patch": (_timm(patch_size=8), "patches of 8 px, the trunk of 16"),
    "layer scale": (_timm(init_values=0.1), r"LayerScale \(blocks.0.ls1.gamma\)"),
    "qk norm": (_timm(qk_norm=True), "query-key normalization"),
    "registers": (_timm(reg_tokens=4), "register tokens"),
    "pre-norm": (_timm(pre_norm=True), "a norm before the blocks"),
    "no qkv bias": (_timm(qkv_bias=False), "lacks 2 tensors of the trunk"),
    "mlp": (_timm(mlp_ratio=2), "blocks.0.mlp.fc1.weight: 64x32 in the file, 128x32 in the trunk"),
    "distilled": (
        lambda: mae_state() | {"pos_embed": torch.zeros(1, 18, 32)},
        "18 entries: not a square grid",
    ),
    "unknown key": (
        lambda: mae_state() | {"blocks.0.odd": torch.zeros(1)},
        "has 1 key unknown to the trunk .blocks.0.odd",
    ),
    "some tables": (
        lambda: {n: t for n, t in sam_state().items() if "blocks.0.attn.rel_pos_h" not in n},
        "lacks 1 tensor of the trunk .blocks.0.attn.rel_pos_h",
    ),
    "resnet": (lambda: {"conv1.weight": torch.zeros(1)}, "no vision transformer in it.*conv1.weight"),
    "two trunks": (
        lambda: {f"{p}.{n}": t for p in ("ema", "student") for n, t in mae_state().items()},
        "several trunks, at 'ema.', 'student.'",
    ),
    "adapter": (lambda: {"backbone/stem.x": torch.zeros(1)}, "is an adapter"),
    "other stem": (lambda: vitdet("SumStem").state_dict(), "its stem is not the model's PromptStem"),
    "other tuner": (_wider_tuner, "its tuner is not the model's IVTuning"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_an_error_and_changes_nothing(tmp_path, case):
    make, message = MISFITS[case]
    model = randomize(Detector(), 4)
    before = snapshot(model)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(model, save(tmp_path / "weights.pth", make()))
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
    assert same(model.state_dict(), before)


def test_plain_vit_misfits(tmp_path):
    with pytest.raises(UserError, match="use_rel_pos=True"):
        load_pretrained(plain(class_token=False), save(tmp_path / "sam.pth", sam_state()))
    gap = timm_vit(class_token=False, global_pool="avg").state_dict()
    with pytest.raises(UserError, match="cls_token.*set class_token=False"):
        load_pretrained(plain(), save(tmp_path / "gap.pth", gap))
    with pytest.raises(UserError, match="norm.weight.*set final_norm=False"):
        load_pretrained(plain(class_token=False, final_norm=True), tmp_path / "gap.pth")


def test_bfloat16_trunk_and_ddp_wrapper(tmp_path):
    state, trunk = mae_state(), vitdet().bfloat16()
    wrapped = types.SimpleNamespace(module=trunk)
    load_pretrained(wrapped, save(tmp_path / "mae.pth", state))
    assert trunk.pos_embed.dtype is torch.bfloat16
    assert torch.equal(trunk.pos_embed, state["pos_embed"].bfloat16())
