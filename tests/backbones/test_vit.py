"""Trunks and the pyramid: shapes, attention, positions, freezing."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import dinov2, dinov3, plain_vit, swin, vitdet
from timm.models import vision_transformer, vision_transformer_sam

from ivtuning import compat
from ivtuning.backbones.attention import relpos as attention
from ivtuning.backbones.attention.relpos import RelPosAttention
from ivtuning.backbones.trunk import find_trunk
from ivtuning.backbones.vit import ViTDet
from ivtuning.errors import UserError
from ivtuning.necks.feature_pyramid import SimpleFeaturePyramid
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.tuning import Frozen, Full, IVTuning
from ivtuning.tuning.stems import STEMS, PromptStem, SumStem, VisibleOnly


@pytest.mark.parametrize("tile", [attention.TILE, 60, 1])
def test_relative_position_attention_equals_the_explicit_bias(tile, monkeypatch):
    monkeypatch.setattr(attention, "TILE", tile)  # several heads, some queries, one query at a time
    torch.manual_seed(0)
    ours = RelPosAttention(32, 4, use_rel_pos=True, input_size=(7, 7)).double()
    torch.nn.init.normal_(ours.rel_pos_h)
    torch.nn.init.normal_(ours.rel_pos_w)
    theirs = vision_transformer_sam.Attention(32, 4, use_rel_pos=True, input_size=(7, 7)).double()
    theirs.load_state_dict(ours.state_dict())
    theirs.fused_attn = False
    for size in ((7, 7), (5, 9)):
        x = torch.randn(2, *size, 32, dtype=torch.float64, requires_grad=True)
        a, b = ours(x), theirs(x)
        assert torch.allclose(a, b, atol=1e-12)
        ga, gb = (
            torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
            for y, module in ((a, ours), (b, theirs))
        )
        assert all(torch.allclose(*pair, atol=1e-9) for pair in zip(ga, gb, strict=True))


def test_fused_relative_position_attention_equals_the_tiles(monkeypatch):
    torch.manual_seed(0)
    module = RelPosAttention(32, 4, use_rel_pos=True, input_size=(5, 7)).double()
    torch.nn.init.normal_(module.rel_pos_h)
    torch.nn.init.normal_(module.rel_pos_w)
    x = torch.randn(2, 5, 7, 32, dtype=torch.float64, requires_grad=True)
    a = module(x)
    with monkeypatch.context() as patch:  # a compiler gets torch's fused kernel instead of tiles
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        b = module(x)
        ga, gb = (torch.autograd.grad(y.square().sum(), [x, *module.parameters()]) for y in (a, b))
    assert torch.allclose(a, b, atol=1e-12)
    assert type(a.grad_fn) is type(b.grad_fn) and not torch.equal(a, b)  # not the same way
    assert all(torch.allclose(*pair, atol=1e-10) for pair in zip(ga, gb, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        module = RelPosAttention(32, 4, use_rel_pos=True, input_size=(7, 7))
        x = torch.randn(1, 7, 7, 32)
        half = module(x)
    assert half.dtype == torch.bfloat16
    assert (half.float() - module(x)).abs().max() < 0.02 * module(x).abs().max() + 0.01


def test_relative_position_tables_train_alone():
    torch.manual_seed(0)
    module = RelPosAttention(32, 4, use_rel_pos=True, input_size=(5, 7)).double().requires_grad_(False)
    tables = [table.requires_grad_(True) for table in (module.rel_pos_h, module.rel_pos_w)]
    x = torch.randn(2, 5, 7, 32, dtype=torch.float64)
    grads = []
    for module.backend in ("fused", "plain"):
        grads.append(torch.autograd.grad(module(x).square().sum(), tables))
        # One of the two as well.
        module.rel_pos_w.requires_grad_(False)
        grads[-1] += torch.autograd.grad(module(x).square().sum(), tables[:1])
        module.rel_pos_w.requires_grad_(True)
    assert all(torch.allclose(*pair, atol=1e-10) for pair in zip(*grads, strict=True))


def test_plain_vit_equals_timms():
    torch.manual_seed(0)
    ours = plain_vit(VisibleOnly(), Frozen(), final_norm=True, out_indices=(3,)).eval()
    theirs = vision_transformer.VisionTransformer(
        img_size=48, patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=0
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 48, 48)
    expected = theirs.forward_features(x)[:, 1:].transpose(1, 2).view(2, 24, 6, 6)
    assert torch.allclose(ours(x)["block3"], expected, atol=1e-5)


@pytest.mark.skipif(not compat.has_vit(), reason="this detectron2 has no ViT of its own")
def test_vitdet_and_pyramid_equal_detectron2s():
    import functools

    from detectron2.modeling.backbone import vit

    torch.manual_seed(0)
    theirs = vit.SimpleFeaturePyramid(
        vit.ViT(
            img_size=48,
            patch_size=8,
            embed_dim=24,
            depth=4,
            num_heads=2,
            window_size=3,
            window_block_indexes=[0, 2],
            use_rel_pos=True,
            rel_pos_zero_init=False,
            pretrain_img_size=40,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        "last_feat",
        16,
        (2.0, 1.0, 0.5),
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = SimpleFeaturePyramid(vitdet(VisibleOnly(), Frozen()), "last_feat", 16, (2.0, 1.0, 0.5)).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 40, 64)
    for name, expected in theirs(x).items():
        assert torch.allclose(ours(x)[name], expected, atol=1e-5), name


@pytest.mark.parametrize("size", [(40, 40), (48, 64), (16, 104)])
@pytest.mark.parametrize("stem", STEMS.values())
def test_any_size_and_stem(stem, size):
    out = vitdet(stem())(torch.randn(1, 6, *size))["last_feat"]
    assert out.shape == (1, 24, size[0] // 8, size[1] // 8)


def test_three_channels_need_a_visible_stem():
    assert vitdet(VisibleOnly(), Frozen())(torch.randn(1, 3, 24, 24))["last_feat"].shape == (1, 24, 3, 3)
    with pytest.raises(UserError, match="needs infrared"):
        vitdet()(torch.randn(1, 3, 24, 24))
    with pytest.raises(UserError, match="not 4"):
        vitdet()(torch.randn(1, 4, 24, 24))


def modes(trunk):
    return {name: child.training for name, child in trunk.named_children()}


def test_frozen_parts_stay_in_eval_mode():
    trunk = vitdet(drop_path_rate=0.2).train()
    assert modes(trunk) == {"patch_embed": False, "blocks": False, "stem": True, "tuner": True}
    assert not any(m.training for m in trunk.blocks.modules())
    assert all(modes(trunk.eval().train().eval())[n] is False for n in ("stem", "tuner", "blocks"))


def test_papers_mode_leaves_the_trunk_training():
    assert modes(vitdet(frozen_eval=False).train())["blocks"]
    assert modes(vitdet(SumStem(), Full()).train())["blocks"]


def test_freeze_is_structural():
    trunk = vitdet(tuner=Frozen())
    assert {n.split(".")[0] for n, p in trunk.named_parameters() if p.requires_grad} == {"stem"}
    trunk = vitdet()
    assert {n.split(".")[0] for n, p in trunk.named_parameters() if p.requires_grad} == {"stem", "tuner"}


def test_pyramid_strides():
    pyramid = SimpleFeaturePyramid(
        ViTDet(PromptStem(), IVTuning(), embed_dim=32, depth=1, num_heads=1, global_blocks=())
    )
    maps = pyramid(torch.randn(1, 6, 64, 96))
    assert {n: tuple(m.shape[1:]) for n, m in maps.items()} == {
        "p2": (256, 16, 24),
        "p3": (256, 8, 12),
        "p4": (256, 4, 6),
        "p5": (256, 2, 3),
    }
    assert pyramid.size_divisibility == 32
    assert {n: s.stride for n, s in pyramid.output_shape().items()} == dict(p2=4, p3=8, p4=16, p5=32)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (1024, 768)])
def test_the_pyramid_resamples_other_strides_to_powers_of_two(size):
    """Every cell of a level holds what the map has at the cell's center, in pixels of the image."""
    pyramid = SimpleFeaturePyramid(
        dinov2(patch_size=14), in_feature="block3", out_channels=8, scale_factors=(2.0, 1.0, 0.5)
    )
    assert {n: s.stride for n, s in pyramid.output_shape().items()} == dict(p3=8, p4=16, p5=32)
    assert pyramid.size_divisibility == 32

    def centers(count, stride):
        return (torch.arange(count) + 0.5) * stride

    height, width = (-(-side // 14) for side in size)
    rows, columns = centers(height, 14)[:, None], centers(width, 14)
    places = torch.stack([rows.expand(height, width), columns.expand(height, width)])[None]
    pyramid.net.forward = lambda image: {"block3": places}
    for level in (3, 4, 5):
        setattr(pyramid, f"simfp_{level}", torch.nn.Identity())
    level = pyramid(torch.zeros(1, 3, *size))["p4"]
    assert level.shape == (1, 2, size[0] // 16, size[1] // 16)
    rows, columns = centers(size[0] // 16, 16)[:, None], centers(size[1] // 16, 16)
    torch.testing.assert_close(level[0, 0], rows.expand_as(level[0, 0]))
    torch.testing.assert_close(level[0, 1], columns.expand_as(level[0, 1]))


def test_padding_goes_with_the_patches():
    with pytest.raises(UserError, match="size_divisibility=32: the trunk's patches have 14 px"):
        MultiScale(dinov2(patch_size=14))
    assert MultiScale(dinov2(patch_size=14), 14).size_divisibility == 14
    # Label maps would be shifted if the trunk alone knew of its padding.
    assert MultiScale(dinov2(patch_size=14), 1).size_divisibility == 14


def test_wrong_indices_are_reported():
    with pytest.raises(UserError, match="block 9"):
        vitdet(global_blocks=(1, 9))
    with pytest.raises(UserError, match="block 4"):
        plain_vit(out_indices=(4,))
    with pytest.raises(UserError, match="img_size=4: give a whole number from"):
        plain_vit(img_size=4)
    with pytest.raises(UserError, match="window_size=2.5: give a whole number"):
        vitdet(window_size=2.5)
    for indices in ((1, 0), (1, 1), ()):
        with pytest.raises(UserError, match="give blocks in their order, each once"):
            plain_vit(out_indices=indices)


def test_find_trunk_wants_exactly_one():
    assert find_trunk(torch.nn.ModuleDict({"net": vitdet()}))[0] == "net"
    with pytest.raises(UserError, match="found 0"):
        find_trunk(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("stem", STEMS.values())
@pytest.mark.parametrize("build", [vitdet, plain_vit, swin, dinov2, dinov3])
def test_blocks_get_maps_whose_channels_lie_side_by_side(build, stem):
    trunk = build(stem(), Frozen())
    seen = []
    for block in trunk.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0].is_contiguous()))
    trunk(torch.randn(2, 6, 32, 48))
    assert len(seen) == len(trunk.blocks) and all(seen)
