"""DINO's network: values of the released code, sizes, geometry, attention masks, and that it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform
from helpers.golden import fill, sums, wave
from helpers.overfitting import overfit
from helpers.queries import check_autocast, check_gradients
from helpers.tiny import sample, swin, vitdet
from torch import Tensor

from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.config import load_config
from ivtuning.data.transforms.one_of import OneOf
from ivtuning.engine.optim import param_groups
from ivtuning.errors import UserError
from ivtuning.heads.codetr import SoftNMS
from ivtuning.heads.dino import (
    DINO,
    ContrastiveDenoising,
    Criterion,
    HungarianMatcher,
    PairedDINO,
    Transformer,
)
from ivtuning.heads.dino.encoder import feature_layout
from ivtuning.heads.dino.positional import box_positions, map_positions
from ivtuning.heads.dino.targets import Targets
from ivtuning.heads.dino.transformer import DenoisingQueries
from ivtuning.necks.channel_mapper import ChannelMapper
from ivtuning.necks.feature_pyramid import SimpleFeaturePyramid
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.tuning import Full
from ivtuning.tuning.stems import VisibleOnly

K = 4
SMALL = dict(
    embed_dim=32,
    num_heads=4,
    feedforward_dim=48,
    encoder_layers=1,
    decoder_layers=3,
    num_levels=3,
    num_points=2,
)


def transformer(**options) -> Transformer:
    """A small one whose every part does something."""
    torch.manual_seed(0)
    model = Transformer(K, **{**SMALL, "num_queries": 12, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def detector(**options) -> PairedDINO:
    torch.manual_seed(0)
    return PairedDINO(
        backbone=SimpleFeaturePyramid(vitdet(), out_channels=16, scale_factors=(1.0, 0.5)),
        transformer=Transformer(K, **SMALL, num_queries=12),
        num_classes=K,
        pixel_mean=[110.0] * 6,
        pixel_std=[55.0] * 6,
        **options,
    )


def maps(*sizes: tuple[int, int], images: int = 2, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 32, h, w, generator=generator) for h, w in sizes]


def test_golden_transformer():
    """Against IDEA-Research/DINO (faa8520), two images with padding, all parameters filled."""
    model = Transformer(
        5, feedforward_dim=64, encoder_layers=2, decoder_layers=3, num_levels=3, num_queries=30
    ).eval()
    neck = ChannelMapper([16, 32], 256, 3)
    ones = tuple(f"norm{i}.weight" for i in ("", 1, 2, 3))
    fill(model, [name for name, _ in model.named_parameters()], ones=ones)
    fill(neck, [name for name, _ in neck.named_parameters()], ones=(".1.weight",))
    # Queries alike, so that the order of nearly equal scores does not matter; padding is not selected.
    model.tgt_embed.weight.data[:] = model.tgt_embed.weight.data[:1].clone()
    model.enc_output.bias.data.zero_()
    model.enc_output_norm.bias.data.zero_()
    with torch.no_grad():
        levels = neck([wave(2, 16, 16, 20), wave(2, 32, 8, 10)])
        decoder, encoder = model(levels, [(128, 130), (96, 160)], (128, 160))

    def close(*expected: float):
        return pytest.approx(list(expected), rel=1e-5)

    assert sums(decoder.logits[-1]) == close(-107.285364, 129.308468, 72.969260)
    assert sums(decoder.boxes[-1]) == close(83.094297, 83.094297, 60.150378)
    assert sums(encoder.logits) == close(109.810317, 109.810317, 42.080927)
    assert sums(encoder.boxes) == close(73.961022, 73.961022, 51.384244)


@pytest.mark.parametrize(
    ("levels", "stages", "total"), [(4, (1, 2, 3), 217_230_066), (5, (0, 1, 2, 3), 217_576_690)]
)
def test_size_with_swin_l_is_the_published_one(levels, stages, total):
    """The paper gives 218M for DINO with Swin-L (table 3); 91 classes, as the released models have."""
    with torch.device("meta"):
        net = Swin(VisibleOnly(), Full(), out_indices=stages, **SWIN_SIZES["swin_l_w12"])
        model = DINO(MultiScale(net), Transformer(91, num_levels=levels), 91, [0.0] * 3, [1.0] * 3)
    count = sum(p.numel() for p in model.parameters())
    assert count == total and abs(count / 218e6 - 1) < 0.004


def test_heads_are_shared_or_not():
    size = {
        share: sum(p.numel() for p in transformer(share_heads=share).parameters()) for share in (True, False)
    }
    dim, layers = SMALL["embed_dim"], SMALL["decoder_layers"]
    one = (dim + 1) * K + 2 * (dim + 1) * dim + (dim + 1) * 4
    assert size[False] - size[True] == (layers - 1) * one


def test_start_of_the_heads():
    model = Transformer(K, **SMALL, num_queries=12)
    decoder, encoder = model(maps((4, 4), (2, 2), (1, 1)), [(32, 32)] * 2, (32, 32))
    # No layer moves a box yet, and every class scores about 1%.
    torch.testing.assert_close(decoder.boxes, encoder.boxes.expand_as(decoder.boxes), atol=2e-6, rtol=0)
    assert decoder.logits.sigmoid().mean() < 0.05


def test_map_positions():
    padding = torch.zeros(1, 3, 5, dtype=torch.bool)
    padding[:, 2:], padding[:, :, 4:] = True, True
    embedding = map_positions(padding, 8).view(3, 5, 8)
    for row, column in ((0, 0), (1, 3)):
        expected = []
        for position, extent in ((row, 2), (column, 4)):
            angle = 2 * math.pi * (position + 1) / (extent + 1e-6)
            expected += [f(angle / 20 ** (i / 2)) for i in range(2) for f in (math.sin, math.cos)]
        assert embedding[row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_box_positions():
    box = torch.tensor([0.1, 0.2, 0.3, 0.4])
    embedding = box_positions(box, 8).view(4, 4)
    for coordinate, row in zip((0.2, 0.1, 0.3, 0.4), embedding, strict=True):
        angle = 2 * math.pi * coordinate
        expected = [f(angle / 10000 ** (i / 2)) for i in range(2) for f in (math.sin, math.cos)]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


def test_layout_of_padded_images():
    layout = feature_layout([(4, 6)], [(32, 48), (16, 40)], (32, 48), 8, 20.0, torch.device("cpu"))
    inside = (~layout.padding_mask).view(2, 4, 6)
    assert inside[0].all() and inside[1].int().tolist() == [[1] * 5 + [0]] * 2 + [[0] * 6] * 2
    assert layout.valid_ratios[:, 0].tolist() == [[1, 1], [pytest.approx(5 / 6), 0.5]]
    centers = layout.reference_points.view(2, 4, 6, 2)
    assert centers[0, 1, 2].tolist() == pytest.approx([2.5 / 6, 1.5 / 4])
    assert centers[1, 1, 2].tolist() == pytest.approx([2.5 / 5, 1.5 / 2])


def test_what_lies_in_the_padding_does_not_matter():
    """One image alone, in a larger batch, and there with something else in the padding."""
    model = transformer().eval()
    alone = maps((8, 10), (4, 5), (2, 3), images=1)
    batches = [maps((12, 12), (6, 6), (3, 3), seed=seed) for seed in (1, 2)]
    for batch in batches:
        for whole, part in zip(batch, alone, strict=True):
            whole[:1, :, : part.shape[2], : part.shape[3]] = part
    with torch.no_grad():
        own = model(alone, [(64, 80)], (64, 80))
        a, b = (model(batch, [(64, 80), (96, 96)], (96, 96)) for batch in batches)
    for decoder_or_encoder in range(2):
        for x, y in zip(a[decoder_or_encoder], b[decoder_or_encoder], strict=True):
            torch.testing.assert_close(x[:, 0], y[:, 0], atol=1e-5, rtol=1e-5)
            assert not torch.allclose(x[:, 1], y[:, 1])
    # Not so the decoder's: as published, it embeds boxes as fractions of the padded map.
    for x, y in zip(a[1], own[1], strict=True):
        torch.testing.assert_close(x[:, :1], y, atol=1e-5, rtol=1e-5)


def test_padding_is_selected_last():
    model = transformer(num_queries=70)
    sizes = [(8, 8), (4, 4), (2, 2)]
    layout = feature_layout(sizes, [(32, 64), (64, 64)], (64, 64), 32, 20.0, torch.device("cpu"))
    logits, boxes = model.select_queries(torch.cat([m.flatten(2).mT for m in maps(*sizes)], 1), layout)
    # 42 positions of the first image are inside; what comes after them is finite.
    assert logits.shape == (2, 70, K) and logits.isfinite().all() and boxes.isfinite().all()
    best = logits.amax(-1)
    assert best[0, :42].diff().le(0).all() and best[1].diff().le(0).all()
    with torch.no_grad():
        model.num_queries = 84
        assert (
            model.select_queries(torch.cat([m.flatten(2).mT for m in maps(*sizes)], 1), layout)[0].shape[1]
            == 84
        )


def test_fewer_positions_than_queries():
    decoder, encoder = transformer()(maps((2, 3), (1, 2), (1, 1)), [(16, 24)] * 2, (16, 24))
    assert decoder.logits.shape == (3, 2, 9, K) and encoder.boxes.shape == (1, 2, 9, 4)


def test_layers_look_forward_twice():
    model = transformer(share_heads=False)
    decoder, _ = model(maps((4, 5), (2, 3), (1, 2)), [(32, 40)] * 2, (32, 40))
    first = model.decoder.bbox_embed[0].layers[0].weight

    def reaches(layer: int) -> bool:
        (gradient,) = torch.autograd.grad(
            decoder.boxes[layer].sum(), first, retain_graph=True, allow_unused=True
        )
        return gradient is not None and bool(gradient.ne(0).any())

    # The loss of a layer reaches its own head and that of the layer before.
    assert [reaches(layer) for layer in range(3)] == [True, True, False]


def test_denoising_groups_leak_nothing():
    model = transformer()
    targets = Targets(torch.tensor([1, 2, 3]), torch.rand(3, 4) * 0.3 + 0.2, torch.tensor([0, 0, 1]), [2, 1])
    denoising = ContrastiveDenoising(num_dn_queries=6)(targets, K)  # 3 groups of 4
    levels = maps((4, 5), (2, 3), (1, 2))
    content = torch.randn(2, 12, 32, requires_grad=True)
    boxes = denoising.boxes.requires_grad_()
    decoder, _ = model(
        levels, [(32, 40)] * 2, (32, 40), DenoisingQueries(content, boxes, denoising.attn_mask)
    )
    assert decoder.logits.shape[2] == 12 + 12

    def attended_by(queries: slice) -> list[list[bool]]:
        out = decoder.logits[-1][:, queries].sum() + decoder.boxes[-1][:, queries].sum()
        gradients = torch.autograd.grad(out, (content, boxes), retain_graph=True)
        return [[bool(g[:, at : at + 4].ne(0).any()) for at in (0, 4, 8)] for g in gradients]

    assert attended_by(slice(12, None)) == [[False] * 3] * 2
    for group in range(3):
        assert attended_by(slice(4 * group, 4 * group + 4)) == [[g == group for g in range(3)]] * 2
    alone, _ = model(levels, [(32, 40)] * 2, (32, 40))
    torch.testing.assert_close(decoder.logits[:, :, 12:], alone.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objects", [(0, 0), (2, 0), (1, 3)])
def test_every_trained_parameter_gets_a_gradient(objects):
    model = detector().train()
    losses = model([sample(objects=n, seed=n) for n in objects])
    assert len(losses) == 12
    check_gradients(model, losses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    check_autocast(lambda: detector().train(), lambda model, batch: model(batch), dtype)


def test_detections_are_the_best_pairs_of_query_and_class():
    model = detector(max_detections_per_image=5).eval()
    logits = torch.full((1, 12, K), -9.0)
    logits[0, 3, 1], logits[0, 3, 2], logits[0, 7, 0] = 2.0, 1.0, 3.0
    boxes = torch.full((1, 12, 4), 0.5)
    boxes[0, 3] = torch.tensor([0.5, 0.25, 0.2, 0.1])
    (detections,) = model.detect(logits, boxes, [(40, 60)])
    assert detections.image_size == (40, 60) and len(detections) == 5
    assert detections.pred_classes[:3].tolist() == [0, 1, 2]
    assert detections.scores[:3].tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (3, 2, 1)])
    torch.testing.assert_close(detections.pred_boxes.tensor[1], torch.tensor([24.0, 8.0, 36.0, 12.0]))
    assert detections.pred_boxes.tensor[1].equal(detections.pred_boxes.tensor[2])


def test_inference_is_in_pixels_of_the_original():
    model = detector().eval()
    x = sample(64, 96)
    with torch.no_grad():
        (own,) = model.inference([x], do_postprocess=False)
        (large,) = model([{**x, "height": 128, "width": 192}])
    instances = large["instances"]
    assert instances.image_size == (128, 192) and 0 < len(instances) <= 12 * K
    assert instances.scores.diff().le(0).all()
    best = own.pred_boxes.tensor[0]
    torch.testing.assert_close(
        instances.pred_boxes.tensor[0], (best * 2).clamp(torch.zeros(4), torch.tensor([192.0, 128.0] * 2))
    )


def test_model_sees_infrared():
    model = detector().eval()
    x = sample()
    with torch.no_grad():
        # Zero-initialized, the prompt would not let it in.
        for parameter in model.backbone.net.stem.parameters():
            parameter.add_(0.05)
        a, b = (model([y])[0]["instances"].scores for y in (x, {**x, "image_ir": 255 - x["image_ir"]}))
    assert not torch.allclose(a, b)
    del x["image_ir"]
    with pytest.raises(UserError, match="no 'image_ir'"):
        model([x])


def test_swin_and_two_sizes_of_images():
    torch.manual_seed(0)
    model = PairedDINO(
        backbone=MultiScale(swin(), size_divisibility=1),
        transformer=Transformer(K, **{**SMALL, "num_levels": 4}, num_queries=12),
        num_classes=K,
        pixel_mean=[110.0] * 6,
        pixel_std=[55.0] * 6,
    )
    losses = model([sample(50, 70), sample(61, 45, seed=1)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Transformer(K, embed_dim=34, num_heads=4), "multiple of 4 and of num_heads=4"),
        (lambda: ChannelMapper([8, 16], 32, 1), "num_levels=1, but the backbone gives 2 maps"),
        (lambda: ChannelMapper([8], 48, 1), r"GroupNorm\(32\) needs a multiple of 32"),
        (lambda: DINO(None, None, K, [1.0] * 6, [1.0] * 3), "pixel_mean has 6 values, pixel_std 3"),
        (lambda: OneOf([]), "nothing to choose from"),
        (lambda: HungarianMatcher(box_weight=float("nan")), "matcher.box_weight=nan: give a number from 0"),
        (lambda: HungarianMatcher(giou_weight=-1), "matcher.giou_weight=-1: give a number from 0"),
        (lambda: Criterion(class_weight=float("inf")), "criterion.class_weight=inf: give a number from 0"),
        (lambda: Criterion(giou_weight=-2.0), "criterion.giou_weight=-2.0: give a number from 0"),
        (lambda: ContrastiveDenoising(box_noise_scale=float("nan")), "give .* a box noise scale from 0"),
        (lambda: ContrastiveDenoising(num_dn_queries=float("nan")), "give at least 1 query"),
        (lambda: SoftNMS(min_score=float("nan")), "soft_nms.min_score=nan: give a number from 0"),
        (lambda: SoftNMS(min_score=-0.1), "soft_nms.min_score=-0.1: give a number from 0"),
    ],
)
def test_sizes_that_do_not_fit_are_reported(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_published_recipe():
    cfg = load_config("configs/M3FD/dino_ivtuning_swin_l.py")
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.train.clip_grad_norm) == (1e-4, 1e-4, 0.1)
    assert cfg.optimizer.params.trunk_lr_factor == cfg.optimizer.params.added_lr_factor == 0.1
    assert cfg.model.backbone.net.drop_path_rate == 0.2 and cfg.dataloader.train.total_batch_size == 16
    multiplier = instantiate(cfg.lr_multiplier)
    epochs = {e: multiplier(e / 50) for e in (26.9, 27.1, 32.9, 33.1)}
    assert [round(v, 4) for v in epochs.values()] == [1.0, 0.1, 0.1, 0.01]

    full = load_config("configs/M3FD/dino_ivtuning_swin_l.py", ["method=Full"])
    with torch.device("meta"):
        rates = {g["lr"] for g in param_groups(instantiate(full.model), 1.0, 0.0, trunk_lr_factor=0.1)}
    assert rates == {1.0, 0.1}
    for c in (cfg, full):
        del c.model.backbone.net.stem, c.model.backbone.net.tuner, c.train.output_dir
    assert cfg == full


def test_sizes_of_training_images():
    mapper = instantiate(load_config("configs/M3FD/dino_ivtuning_swin_l.py").dataloader.train.mapper)
    np.random.seed(0)
    whole = set()
    for _ in range(100):
        image = T.AugInput(np.zeros((12, 16, 3), np.uint8))
        transforms = mapper.augmentations(image)
        height, width = image.image.shape[:2]
        assert max(height, width) <= 800 and min(height, width) <= 640
        if not any(isinstance(t, CropTransform) for t in transforms.transforms):
            whole.add((width, height))
    assert whole == {(640, 480), (672, 504), (704, 528), (736, 552), (768, 576), (800, 600)}


@pytest.mark.slow
def test_overfits_four_pairs(tmp_path, monkeypatch):
    net = ("tuner=Full", "embed_dim=48", "num_heads=2", "depth=2", "global_blocks=[0,1]")
    size = ("feedforward_dim=128", "encoder_layers=1", "decoder_layers=2", "num_levels=2", "num_queries=40")
    cfg = load_config(
        "configs/synthetic/dino_ivtuning.py",
        [
            *(f"model.backbone.net.{key}" for key in net),
            *(f"model.transformer.{key}" for key in size),
            "model.backbone.out_channels=32",
            "model.denoising.num_dn_queries=10",
        ],
    )
    torch.manual_seed(0)
    assert overfit(instantiate(cfg.model), tmp_path, monkeypatch) > 95
