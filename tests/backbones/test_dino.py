"""DINOv2 and DINOv3 as trunks: timm's outputs, counts and files, and those of the releases."""

from __future__ import annotations

import pytest
import timm
import torch
from helpers.tiny import dinov2, dinov3, eva, plain_vit, vitdet
from timm.models import eva as timm_eva
from timm.models import vision_transformer

from ivtuning.backbones.dinov2 import DINOv2
from ivtuning.backbones.dinov3 import DINOv3
from ivtuning.backbones.presets import TRUNKS
from ivtuning.checkpoint import load_pretrained
from ivtuning.engine.optim import param_groups
from ivtuning.errors import UserError
from ivtuning.tuning import Frozen, Full
from ivtuning.tuning.stems import VisibleOnly

V2 = dict(embed_dim=32, depth=3, num_heads=2, img_size=56)
V3 = dict(embed_dim=32, depth=3, num_heads=2)
GATED = dict(mlp_ratio=4.0, swiglu_mlp=True)
PACKED = dict(mlp_ratio=4.0, mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU)
# timm's model and its options, and ours.
MODELS = {
    "DINOv2": ("vit_small_patch14_dinov2", V2, DINOv2, V2 | dict(reg_tokens=0)),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", V2, DINOv2, V2),
    "DINOv2, gated": ("vit_small_patch14_dinov2", V2 | PACKED, DINOv2, V2 | GATED | dict(reg_tokens=0)),
    "DINOv3": ("vit_small_patch16_dinov3", V3, DINOv3, V3),
    "DINOv3, gated": ("vit_small_plus_patch16_dinov3", V3, DINOv3, V3 | GATED),
}


def timms(model: str) -> torch.nn.Module:
    """timm's model with weights that all matter."""
    name, options, *_ = MODELS[model]
    torch.manual_seed(0)
    theirs = timm.create_model(name, dynamic_img_size=True, dynamic_img_pad=True, **options)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return theirs.eval()


def ours(model: str, **changes):
    *_, kind, options = MODELS[model]
    return kind(VisibleOnly(), Frozen(), **{"out_indices": (0, 2), **options, **changes}).eval()


@pytest.mark.parametrize("size", [(56, 56), (112, 112), (70, 44), (61, 97)])
@pytest.mark.parametrize("model", MODELS)
def test_equals_timms(model, size):
    theirs, trunk = timms(model), ours(model)
    trunk.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, indices=[0, 2], norm=True, intermediates_only=True)
        found = trunk(image)
    patch = trunk.size_divisibility
    assert found["block2"].shape == (2, 32, -(-size[0] // patch), -(-size[1] // patch))
    for name, value in zip(("block0", "block2"), expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_padding_does_not_move_the_patches():
    """An image that lacks its last columns is one whose last columns are zero, the mean color."""
    trunk = ours("DINOv2 with registers")
    image = torch.randn(1, 3, 50, 61)
    whole = torch.zeros(1, 3, 56, 70)
    whole[:, :, :50, :61] = image
    assert torch.equal(trunk(image)["block2"], trunk(whole)["block2"])


# timm's model of the same size, and all of its parameters.
PRESETS = {
    "dinov2_vits14": ("vit_small_patch14_dinov2", 22_056_192),
    "dinov2_vitb14": ("vit_base_patch14_dinov2", 86_579_712),
    "dinov2_vitl14": ("vit_large_patch14_dinov2", 304_367_616),
    "dinov2_vitg14": ("vit_giant_patch14_dinov2", 1_136_479_232),
    "dinov2_vits14_reg": ("vit_small_patch14_reg4_dinov2", 22_057_344),
    "dinov2_vitb14_reg": ("vit_base_patch14_reg4_dinov2", 86_582_016),
    "dinov2_vitl14_reg": ("vit_large_patch14_reg4_dinov2", 304_370_688),
    "dinov2_vitg14_reg": ("vit_giant_patch14_reg4_dinov2", 1_136_483_840),
    "dinov3_vits16": ("vit_small_patch16_dinov3", 21_586_944),
    "dinov3_vits16plus": ("vit_small_plus_patch16_dinov3", 28_683_264),
    "dinov3_vitb16": ("vit_base_patch16_dinov3", 85_641_216),
    "dinov3_vitl16": ("vit_large_patch16_dinov3", 303_079_424),
    "dinov3_vith16plus": ("vit_huge_plus_patch16_dinov3", 840_509_440),
}


def test_every_size_is_a_preset():
    assert set(PRESETS) == {name for name in TRUNKS if name.startswith("dino")}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_parameters_of_timms(name):
    model, count = PRESETS[name]
    with torch.device("meta"):
        trunk = TRUNKS[name](VisibleOnly(), Frozen(), depth=1, out_indices=(0,))
        theirs = timm.create_model(model, depth=1)
    assert shapes(trunk) == shapes(theirs)
    # All blocks have one size.
    whole = size(trunk) + (TRUNKS[name].keywords["depth"] - 1) * size(trunk.blocks[0])
    assert whole == count


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def released(model: str) -> dict[str, torch.Tensor]:
    """timm's weights under the names of the release, and the other tensors of its files."""
    state = timms(model).state_dict()
    if "DINOv2" in model:
        state["mask_token"] = torch.zeros(1, 32)
        if "reg_token" in state:
            state["register_tokens"] = state.pop("reg_token")
            place = torch.randn(1, 1, 32)
            state["cls_token"] = state["cls_token"] - place
            state["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
        names = {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."}
    else:
        names = {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma", "reg_token": "storage_tokens"}
        names |= {".mlp.fc1_g.": ".mlp.w1.", ".mlp.fc1_x.": ".mlp.w2.", ".mlp.fc2.": ".mlp.w3."}
        state |= {"mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.ones(4)}
        for i in range(3):
            state[f"blocks.{i}.attn.qkv.bias"] = torch.zeros(96)
            state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.full((96,), torch.nan)
    renamed = {}
    for name, tensor in state.items():
        for plain, theirs in names.items():
            if "gated" in model or ".mlp." not in plain:
                name = name.replace(plain, theirs)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("source", ["timm", "release"])
def test_files_of_timm_and_of_the_releases_load(model, source, tmp_path):
    theirs = timms(model)
    file = tmp_path / "dino.pth"
    torch.save(theirs.state_dict() if source == "timm" else released(model), file)
    trunk = ours(model)
    report = load_pretrained(trunk, file)
    assert report.fresh == report.missing == report.resized == []
    assert not report.ignored or source == "release"
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(trunk.state_dict()[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_releases_names_are_those_that_timm_converts(model):
    theirs = timms(model)
    family = vision_transformer if "DINOv2" in model else timm_eva
    converted = family.checkpoint_filter_fn(released(model), theirs)
    theirs.load_state_dict(converted)


def test_biases_of_the_projections(tmp_path):
    state = released("DINOv3")
    state["blocks.1.attn.qkv.bias"][40] = 1.0  # the key's, which has no effect
    torch.save(state, tmp_path / "key.pth")
    load_pretrained(ours("DINOv3"), tmp_path / "key.pth")
    state["blocks.1.attn.qkv.bias"][70] = 1.0
    torch.save(state, tmp_path / "value.pth")
    with pytest.raises(UserError, match=r"biases of query, key and value \(blocks.1.attn.qkv.bias\)"):
        load_pretrained(ours("DINOv3"), tmp_path / "value.pth")
    theirs = timm.create_model("vit_small_patch16_dinov3_qkvb", **V3).state_dict()
    torch.save(theirs, tmp_path / "timm.pth")
    report = load_pretrained(ours("DINOv3"), tmp_path / "timm.pth")
    assert len(report.ignored) == 6 and all(n.endswith("_bias") for n in report.ignored)


@pytest.mark.parametrize(
    "file, trunk, message",
    [
        ("DINOv2", lambda: ours("DINOv2 with registers"), r"lacks 1 tensor .*reg_token.*set reg_tokens=0"),
        ("DINOv2 with registers", lambda: ours("DINOv2"), r"has register tokens \(reg_token\), which DINOv2"),
        ("DINOv2", lambda: ours("DINOv3"), "is no DINOv3 checkpoint"),
        ("DINOv3", lambda: ours("DINOv2"), "which DINOv2 lacks"),
        ("DINOv2", plain_vit, "has LayerScale"),
        ("DINOv2", vitdet, "has LayerScale"),
        ("DINOv3", plain_vit, "which PlainViT lacks"),
        ("DINOv3", eva, "is no EVA-02 checkpoint"),
        ("DINOv3", lambda: ours("DINOv3, gated"), "lacks 12 tensors"),
    ],
)
@pytest.mark.parametrize("source", ["timm", "release"])
def test_another_architecture_is_reported(file, trunk, message, source, tmp_path):
    torch.save(timms(file).state_dict() if source == "timm" else released(file), tmp_path / "x.pth")
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(trunk(), tmp_path / "x.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["cls_token", "pos_embed", "register_tokens"])
@pytest.mark.parametrize("value", [None, torch.zeros(3), torch.zeros(1, 2, 5)])
def test_damaged_releases_are_refused(key, value, tmp_path):
    state = released("DINOv2 with registers") | {key: value}
    torch.save({n: t for n, t in state.items() if t is not None}, tmp_path / "x.pth")
    trunk = ours("DINOv2 with registers")
    before = {n: t.clone() for n, t in trunk.state_dict().items()}
    with pytest.raises(UserError):
        load_pretrained(trunk, tmp_path / "x.pth")
    assert all(torch.equal(t, before[n]) for n, t in trunk.state_dict().items())


@pytest.mark.parametrize("make", [dinov2, dinov3])
def test_layer_decay_counts_tokens_among_the_embeddings(make):
    trunk = make(VisibleOnly(), Full())
    groups = param_groups(trunk, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert of[id(trunk.reg_token)] == of[id(trunk.cls_token)] == (0.5**5, 0.0)
    assert of[id(trunk.blocks[3].norm1.weight)] == (0.5, 0.0)
    assert of[id(trunk.norm.weight)] == (1.0, 0.0)
    scale = trunk.blocks[0].ls1.gamma if make is dinov2 else trunk.blocks[0].gamma_1
    assert of[id(scale)] == (0.5**4, 0.0)


@pytest.mark.parametrize("value", [-1, 1.5, "4"])
def test_registers_are_a_whole_number(value):
    with pytest.raises(UserError, match="reg_tokens"):
        dinov2(reg_tokens=value)


def test_a_plain_vit_without_positions_and_one_with_registers_alone():
    image = torch.randn(1, 3, 24, 40)
    trunk = plain_vit(VisibleOnly(), Frozen(), img_size=None)
    assert trunk.pos_embed is None and trunk.prefix == 1
    assert trunk(image)["block3"].shape == (1, 24, 3, 5)
    trunk = plain_vit(VisibleOnly(), Frozen(), class_token=False, reg_tokens=3)
    assert trunk.cls_token is None and trunk.prefix == 3 and trunk.pos_embed.shape == (1, 36, 24)
    assert trunk(image)["block3"].shape == (1, 24, 3, 5)


def test_options_of_another_kind():
    with pytest.raises(UserError, match="init_values"):
        dinov2(init_values="small")
