"""Swin weights of other projects: the trunk computes what they compute, and nothing loads by halves."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from detectron2.modeling import FPN
from helpers.tiny import swin
from helpers.weights import base_of, mmdet_state, randomize, same, save, snapshot, timm_vit
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from timm.models import swin_transformer, swin_transformer_v2
from timm.models.swin_transformer import checkpoint_filter_fn

from ivtuning import compat
from ivtuning.checkpoint import load_adapter, load_pretrained, save_adapter
from ivtuning.checkpoint.files import read_state
from ivtuning.checkpoint.trunks.swin import from_mmdet
from ivtuning.errors import UserError
from ivtuning.necks.feature_pyramid import FeaturePyramid
from ivtuning.tuning import Frozen
from ivtuning.tuning.stems import VisibleOnly

SIZE = dict(embed_dim=8, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=3)
NORMS = {f"norm{i}.{part}" for i in range(3) for part in ("weight", "bias")}


def frozen(**options):
    return swin(VisibleOnly(), Frozen(), **options)


def timm_swin(cls=swin_transformer.SwinTransformer, **options):
    """timm's classifier of 48 px images: maps of 12, 6 and 3, where its order of rolling does not matter."""
    options = dict(img_size=48, num_classes=5, always_partition=True, **SIZE) | options
    return randomize(cls(**options), 1).eval()


def microsoft_state(seed=1, **options):
    """What Microsoft's swin_*.pth hold: merging at a stage's end, buffers, final norm, classifier."""
    state = {n: t for n, t in base_of(randomize(frozen(**options), seed)).items() if n not in NORMS}
    for i in range(3):
        for j in range(2):
            place = f"layers.{i}.blocks.{j}."
            state[place + "attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.int64)
            if j:
                state[place + "attn_mask"] = torch.zeros(4, 9, 9)
    for name, shape in {"norm.weight": 32, "norm.bias": 32, "head.weight": (5, 32), "head.bias": 5}.items():
        state[name] = torch.full((shape,) if isinstance(shape, int) else shape, 0.5)
    return state


def images():
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def computes_the_same(trunk, model):
    theirs = model.forward_intermediates(images(), intermediates_only=True)
    ours = trunk.eval()(images())
    for name, expected in zip(("p0", "p1", "p2"), theirs, strict=True):
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module."])
def test_microsofts_weights_compute_what_timm_makes_of_them(tmp_path, prefix):
    state = microsoft_state()
    model = timm_swin()
    model.load_state_dict(checkpoint_filter_fn(state, model))
    trunk = frozen(output_norms=False)
    file = save(tmp_path / "swin.pth", {"model": {prefix + n: t for n, t in state.items()}})
    report = load_pretrained(trunk, file)
    computes_the_same(trunk, model)
    buffers = {n for n in state if n.endswith(("index", "attn_mask"))}
    assert set(report.ignored) == buffers | {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert set(report.matched) == set(base_of(trunk)) and report.fresh == report.resized == []


def test_output_norms_are_the_identity_and_the_stem_starts_from_the_base(tmp_path):
    trunk = randomize(swin(), 3)
    trunk.stem.from_visible = True
    added = {n: t for n, t in snapshot(trunk).items() if n.startswith("tuner.")}
    report = load_pretrained(trunk, save(tmp_path / "swin.pth", {"model": microsoft_state()}))
    assert set(report.identity) == NORMS and "not in the file, identity" in str(report)
    assert not NORMS & set(report.matched)
    new = trunk.state_dict()
    assert all(torch.equal(new[n], torch.full_like(new[n], float(n.endswith("weight")))) for n in NORMS)
    for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias"):
        assert torch.equal(new[f"stem.embed.{name}"], microsoft_state()[f"patch_embed.{name}"])
    assert all(torch.equal(new[n], t) for n, t in added.items())
    with pytest.raises(UserError, match="only a trunk"):
        load_pretrained(trunk, tmp_path / "swin.pth", strict=True)


@pytest.mark.parametrize("features_only", [False, True])
def test_timms_weights_compute_what_timm_does(tmp_path, features_only):
    model = timm_swin()
    state = model.state_dict()
    assert "layers.1.downsample.reduction.weight" in state and "layers.0.downsample.norm.weight" not in state
    if features_only:
        # What timm.create_model(..., features_only=True) calls them.
        state = {n.replace("layers.", "layers_", 1): t for n, t in state.items() if n.split(".")[0] != "head"}
    safetensors.torch.save_file(state, tmp_path / "swin.safetensors")
    trunk = frozen(output_norms=False)
    report = load_pretrained(trunk, tmp_path / "swin.safetensors")
    computes_the_same(trunk, model)
    head = set() if features_only else {"head.fc.weight", "head.fc.bias"}
    assert set(report.ignored) == head | {"norm.weight", "norm.bias"}


def test_timm_itself_names_features_only_models_so():
    import timm

    model = timm.create_model("swin_tiny_patch4_window7_224", features_only=True)
    assert {"patch_embed.proj.weight", "layers_1.downsample.norm.weight"} < set(model.state_dict())


def test_another_window_resizes_the_tables(tmp_path):
    state = microsoft_state(window_size=7)
    # A ramp stays a ramp, away from the border; the middle (no displacement) stays the middle.
    ramp = torch.arange(13.0)
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    state[name] = (ramp[:, None] + 20 * ramp).flatten()[:, None].repeat(1, 2)
    trunk = frozen(window_size=12)
    report = load_pretrained(trunk, save(tmp_path / "swin.pth", state))
    assert len(report.resized) == 6 and f"{name}: window 7 -> 12" in report.resized
    assert name not in report.matched
    grid = trunk.state_dict()[name].unflatten(0, (23, 23))
    assert grid.shape == (23, 23, 2)
    torch.testing.assert_close(grid[11, 11], torch.full((2,), 126.0))
    steps = grid[5:18, 5:18].diff(dim=0), grid[5:18, 5:18].diff(dim=1)
    torch.testing.assert_close(steps[0].mean(), torch.tensor(13 / 23), rtol=0.02, atol=0)
    torch.testing.assert_close(steps[1].mean(), torch.tensor(20 * 13 / 23), rtol=0.02, atol=0)
    other = "layers.2.blocks.1.attn.relative_position_bias_table"
    official = resize_rel_pos_bias_table_simple(state[other], (12, 12), (529, 4))
    torch.testing.assert_close(trunk.state_dict()[other], official)


def detector_state(net):
    """A detectron2 detector on Swin: its FPN calls the trunk bottom_up, buffers are stored."""
    model = randomize(FPN(net, ["p0", "p1", "p2"], 16), 1).eval()
    state = {f"backbone.{n}": t for n, t in model.state_dict().items()}
    state["backbone.bottom_up.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(9, 9).long()
    return model, state | {"roi_heads.box_predictor.cls_score.weight": torch.zeros(5, 8)}


def check_detector(tmp_path, net):
    model, state = detector_state(net)
    ours = torch.nn.ModuleDict({"backbone": FeaturePyramid(frozen(), 16)}).eval()
    report = load_pretrained(ours, save(tmp_path / "model_final.pth", {"model": state}))
    assert report.fresh == report.identity == report.resized == []
    assert all(n.endswith(("index", "cls_score.weight")) for n in report.ignored)
    x = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        for name, expected in model(x).items():
            torch.testing.assert_close(ours["backbone"](x)[name], expected, rtol=1e-4, atol=1e-5)


def test_detectron2s_detector_names(tmp_path):
    check_detector(tmp_path, frozen())


@pytest.mark.skipif(not compat.has_vit(), reason="this detectron2 has no Swin of its own")
def test_detectron2s_own_swin(tmp_path):
    from detectron2.modeling.backbone.swin import SwinTransformer

    check_detector(tmp_path, SwinTransformer(drop_path_rate=0.0, out_indices=(0, 1, 2), **SIZE))


def test_mmdets_names_and_merging(tmp_path):
    source = randomize(frozen(), 1)
    base = base_of(source)
    state = mmdet_state(base)
    assert not torch.equal(
        state["backbone.stages.0.downsample.norm.weight"], base["layers.0.downsample.norm.weight"]
    )
    # Not the trunk's: a transformer's feed-forward network of the same name.
    state["encoder.layers.0.ffn.layers.0.0.weight"] = torch.zeros(3)
    trunk = frozen()
    report = load_pretrained(trunk, save(tmp_path / "dino.pth", {"state_dict": state, "meta": {}}))
    assert same(base_of(trunk), base)
    assert report.ignored == ["encoder.layers.0.ffn.layers.0.0.weight"]
    # mmdet's merging, computed its way.
    x = torch.randn(1, 6, 4, 8)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    with torch.no_grad():
        got = trunk.layers[0].downsample(x).flatten(1, 2)
    place = "backbone.stages.0.downsample."
    normed = F.layer_norm(unfolded, (32,), state[place + "norm.weight"], state[place + "norm.bias"])
    torch.testing.assert_close(got, normed @ state[place + "reduction.weight"].T, rtol=1e-4, atol=1e-5)


def test_states_without_mmdets_swin_stay_as_they_are():
    state = {"backbone.patch_embed.projection.weight": torch.zeros(1), "backbone.layers.0.ln1.weight": 0}
    assert from_mmdet(state) == state


def test_own_checkpoint_and_adapter_round_trip(tmp_path):
    source, trunk = randomize(swin(), 1), randomize(swin(), 2)
    load_pretrained(trunk, save(tmp_path / "t.pth", source.state_dict()), strict=True)
    assert same(trunk.state_dict(), source.state_dict())
    header = save_adapter(source, tmp_path / "a.safetensors", groups=["backbone"])
    assert header["widths"] == [8, 8, 16, 16, 32, 32] and header["trunk"] == "Swin"
    randomize(trunk.tuner, 3)
    load_adapter(trunk, tmp_path / "a.safetensors")
    assert same(trunk.state_dict(), source.state_dict())
    with pytest.raises(UserError, match="trained on base"):
        load_adapter(randomize(swin(), 4), tmp_path / "a.safetensors")


def without(state, *endings):
    return {n: t for n, t in state.items() if not n.endswith(endings)}


MISFITS = {
    "a ViT": (lambda: timm_vit().state_dict(), "is no Swin checkpoint, the trunk is Swin"),
    "depths": (
        lambda: timm_swin(depths=(2, 4, 2)).state_dict(),
        r"has 2-4-2 blocks, the trunk 2-2-2: set depths=\[2, 4, 2\]",
    ),
    "stages": (
        lambda: timm_swin(depths=(2, 2), num_heads=(1, 2)).state_dict(),
        "has 2-2 blocks, the trunk 2-2-2",
    ),
    "width": (lambda: timm_swin(embed_dim=16).state_dict(), "is 16 wide, the trunk 8: set embed_dim=16"),
    "heads": (
        lambda: timm_swin(num_heads=(2, 2, 4)).state_dict(),
        "2 tensors of another shape than.*relative_position_bias_table: 25x2 in the file, 25x1 in the trunk",
    ),
    "patch": (lambda: timm_swin(patch_size=2, img_size=24).state_dict(), "patches of 2 px, the trunk of 4"),
    "Swin V2": (
        lambda: timm_swin(swin_transformer_v2.SwinTransformerV2, always_partition=False).state_dict(),
        r"Swin V2's attention \(layers.0.blocks.0.attn.logit_scale\)",
    ),
    "absolute positions": (
        lambda: microsoft_state() | {"absolute_pos_embed": torch.zeros(1, 144, 8)},
        r"an absolute position embedding",
    ),
    "a merging is lacking": (
        lambda: without(microsoft_state(), "1.downsample.reduction.weight"),
        "lacks 1 tensor of the trunk .layers.1.downsample.reduction.weight",
    ),
    "no merging": (
        lambda: without(microsoft_state(), "norm.weight", "norm.bias", "reduction.weight"),
        "lacks 8 tensors of the trunk",
    ),
    "no table at all": (
        lambda: without(microsoft_state(), "relative_position_bias_table"),
        "lacks 6 tensors of the trunk .layers.0.blocks.0.attn.relative_position_bias_table",
    ),
    "half a norm": (
        lambda: microsoft_state() | {"norm1.weight": torch.ones(16)},
        "lacks 1 tensor of the trunk .norm1.bias",
    ),
    "a merging of another width": (
        lambda: (
            mmdet_state(microsoft_state()) | {"backbone.stages.0.downsample.reduction.weight": torch.ones(7)}
        ),
        "reduction.weight: 7 in the file",
    ),
    "an unknown key": (
        lambda: microsoft_state() | {"layers.0.odd": torch.zeros(1)},
        "has 1 key unknown to the trunk .layers.0.odd",
    ),
    "an oblong window": (
        lambda: (
            microsoft_state() | {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(15, 1)}
        ),
        "15x1 in the file, 25x1 in the trunk",
    ),
    "no trunk": (lambda: {"layers.0.x": torch.zeros(1)}, "no vision transformer in it"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_an_error_and_changes_nothing(tmp_path, case):
    make, message = MISFITS[case]
    trunk = randomize(swin(), 4)
    before = snapshot(trunk)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(trunk, save(tmp_path / "weights.pth", make()))
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
    assert same(trunk.state_dict(), before)


def test_missing_files_say_where_to_get_them(tmp_path):
    url = "SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"
    with pytest.raises(UserError, match=f"its address instead, https://.*{url}"):
        read_state(tmp_path / "swin_base_patch4_window7_224_22k.pth")
