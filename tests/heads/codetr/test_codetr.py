"""Co-DINO's network: values of the released code, sizes, groups of queries, inference, and that it learns."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.golden import fill, wave
from helpers.overfitting import overfit
from helpers.queries import check_autocast, check_gradients
from helpers.tiny import sample
from torch import Tensor, nn

from ivtuning.config import load_config
from ivtuning.errors import UserError
from ivtuning.heads.codetr import CoDINO, CoTransformer, PairedCoDINO
from ivtuning.heads.dino.encoder import feature_layout
from ivtuning.heads.dino.trace import trace_queries
from ivtuning.heads.dino.transformer import DenoisingQueries
from ivtuning.tuning.stems import VisibleOnly

K = 4
NARROW = [
    f"model.backbone.net.{k}" for k in ("embed_dim=24", "num_heads=2", "depth=2", "global_blocks=[0,1]")
]
SMALL = [
    *NARROW,
    "model.backbone.out_channels=16",
    *(
        f"model.transformer.{k}"
        for k in ("embed_dim=32", "feedforward_dim=48", "encoder_layers=1", "num_queries=12")
    ),
    "model.roi_heads.box_head.fc_dims=[32,32]",
]


def detector(*overrides: str) -> PairedCoDINO:
    torch.manual_seed(0)
    return instantiate(load_config("configs/synthetic/codetr_ivtuning.py", [*SMALL, *overrides]).model)


def losses_of(model: CoDINO, batch: list[dict]) -> dict[str, Tensor]:
    with EventStorage():
        return model.train()(batch)


class TwoMaps(Backbone):
    """Maps of stride 8 and 16."""

    size_divisibility = 1

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 8, 8), nn.Conv2d(16, 32, 2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x).tanh()
        return {"fine": fine, "coarse": self.coarse(fine).tanh()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"fine": ShapeSpec(channels=16, stride=8), "coarse": ShapeSpec(channels=32, stride=16)}


def golden_model() -> CoDINO:
    """Sense-X's heads on two maps: 256 channels, 5 classes, 40 queries, strides 8 to 64."""
    strides, maps = [8, 16, 32, 64], list("abcd")
    model = load_config("configs/common/models/codetr_swin.py").model
    model.update(num_classes=5, pixel_mean=[100.0] * 3, pixel_std=[50.0] * 3)
    model.backbone = L(TwoMaps)()
    model.transformer.update(num_levels=3, encoder_layers=2, decoder_layers=3, num_queries=40)
    model.denoising.update(label_noise_ratio=0.0, box_noise_scale=0.0)
    model.proposal_generator.in_features = maps
    model.proposal_generator.anchor_generator.update(
        strides=strides, sizes=[[4 * s * 2 ** (i / 3) for i in range(3)] for s in strides]
    )
    model.atss.anchor_generator.update(strides=strides, sizes=[[8 * s] for s in strides])
    # On a map of stride 8 the level of a box of 112 px is the second.
    model.roi_heads.box_pooler.update(scales=[1 / s for s in strides[:3]], canonical_level=5)
    model.roi_heads.box_in_features = maps[:3]
    model._target_ = CoDINO
    model = instantiate(model)
    ones = [n for n, p in model.named_parameters() if "norm" in n and n.endswith("weight")]
    ones += [n for n, _ in model.named_parameters() if n.endswith((".1.weight",)) and "neck" in n]
    fill(model, [n for n, _ in model.named_parameters()], ones=tuple(ones))
    # Padding is not selected, as it may be there; queries alike, so that their order does not matter.
    model.transformer.enc_output.bias.data.zero_()
    model.transformer.enc_output_norm.bias.data.zero_()
    model.transformer.tgt_embed.weight.data[:] = model.transformer.tgt_embed.weight.data[:1].clone()
    return model


def golden_batch() -> list[dict]:
    """Two images, the second with padding at its right and bottom."""
    batch = []
    for i, (height, width) in enumerate([(160, 192), (128, 150)]):
        image = (wave(3, height, width) * 60 + 110 + 5 * i).to(torch.uint8)
        instances = Instances((height, width))
        corner = torch.tensor([[10.3, 12.7], [60.1, 30.9], [20.6, 80.2], [101.3, 70.4]])[: 4 - i]
        size = torch.tensor([[30.2, 41.1], [25.9, 61.8], [70.3, 33.6], [18.4, 22.7]])[: 4 - i]
        instances.gt_boxes = Boxes(torch.cat([corner, corner + size], 1))
        instances.gt_classes = torch.tensor([0, 3, 2, 4])[: 4 - i]
        batch.append(dict(image=image, instances=instances, height=height, width=width))
    return batch


# Sense-X/Co-DETR (2665352), its modules on mmdetection, in one process, on the batch above.
GOLDEN = {
    "loss_class": 4.095977,
    "loss_bbox": 2.373313,
    "loss_giou": 1.982509,
    "loss_class_aux": 28.348313,
    "loss_bbox_aux": 5.194366,
    "loss_giou_aux": 4.073707,
    "loss_class_enc": 11.757812,
    "loss_bbox_enc": 2.714708,
    "loss_giou_enc": 2.097507,
    "loss_class_dn": 13.156264,
    "loss_bbox_dn": 3.829720,
    "loss_giou_dn": 5.226753,
    "loss_class_rcnn": 1.284217,
    "loss_bbox_rcnn": 4.212292,
    "loss_giou_rcnn": 4.260567,
    "loss_class_atss": 1.421700,
    "loss_bbox_atss": 8.076241,
    "loss_giou_atss": 4.850502,
    "loss_rpn_cls": 8.381688,
    "loss_rpn_loc": 0.233566,
    "loss_cls": 31.242559,
    "loss_box_reg": 1.691861,
    "loss_atss_cls": 177.645782,
    "loss_atss_loc": 16.120058,
    "loss_atss_ctr": 8.319216,
}


def test_golden_losses(monkeypatch):
    """All draws take the first there are, there and here."""
    model = golden_model()
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))
    monkeypatch.setattr(
        torch, "rand", lambda n, **_: torch.linspace(0.99, 0, n) if isinstance(n, int) else torch.zeros(n)
    )
    losses = losses_of(model, golden_batch())
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(GOLDEN, rel=1e-4)


def test_golden_detections():
    """After soft non-maximum suppression: sums of the scores and of the boxes, in pixels."""
    model = golden_model().eval()
    model.max_detections_per_image = 40  # max_per_img there
    with torch.no_grad():
        detections = model.inference(golden_batch(), do_postprocess=False)
    assert [len(x) for x in detections] == [40, 40]
    scores = [float(x.scores.sum()) for x in detections]
    boxes = [float(x.pred_boxes.tensor.sum()) for x in detections]
    assert scores == pytest.approx([17.652653, 17.628217], rel=1e-5)
    assert boxes == pytest.approx([17254.5645, 13943.1133], rel=1e-5)


def test_size_is_that_of_the_released_model():
    """235,471,769 in 689 tensors: Sense-X's own modules for Swin-L, five scales and COCO, counted."""
    cfg = load_config("configs/M3FD/codetr_ivtuning_swin_l.py", ["method=Full", "model.num_classes=80"])
    cfg.model.backbone.net.stem = L(VisibleOnly)()
    with torch.device("meta"):
        model = instantiate(cfg.model)
    parameters = dict(model.named_parameters())
    assert (sum(p.numel() for p in parameters.values()), len(parameters)) == (235_471_769, 689)
    parts = ("proposal_generator.", "roi_heads.", "atss.")
    heads = [sum(p.numel() for n, p in parameters.items() if n.startswith(part)) for part in parts]
    assert heads == [601_645, 14_306_705, 1_376_603]


def test_groups_of_queries_attend_only_to_themselves():
    torch.manual_seed(0)
    size = dict(embed_dim=32, num_heads=4, feedforward_dim=48, encoder_layers=1, decoder_layers=2)
    size |= dict(num_levels=2, num_points=2)
    model = CoTransformer(K, **size, num_queries=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    shapes = [(4, 5), (2, 3)]
    layout = feature_layout(shapes, [(32, 40)] * 2, (32, 40), 32, 20.0, torch.device("cpu"))
    memory = torch.randn(2, 26, 32)

    def attn_mask(num_queries: int) -> Tensor:
        query = torch.arange(4 + num_queries)
        return (query[:, None] >= 4) & (query < 4)

    denoising = DenoisingQueries(torch.randn(2, 4, 32), torch.randn(2, 4, 4), attn_mask)
    queries, _ = model.init_queries(memory, layout, denoising)
    groups = [torch.rand(2, n, 4) * 0.4 + 0.3 for n in (5, 3)]
    groups[0][0, 0, 2:] = 1.4  # anchors may be larger than the image
    joined = model.add_groups(queries, groups)
    assert joined.content.shape == (2, 10 + 5 + 3, 32) and joined.boxes[:, 10:15].equal(groups[0])
    content = joined.content.detach().requires_grad_()
    boxes = joined.boxes.detach().requires_grad_()
    predictions = model.decoder(*joined._replace(content=content, boxes=boxes))
    parts = [slice(0, 4), slice(4, 10), slice(10, 15), slice(15, 18)]

    def attended_by(part: slice) -> list[bool]:
        out = predictions.logits[-1][:, part].sum() + predictions.boxes[-1][:, part].sum()
        gradients = torch.autograd.grad(out, (content, boxes), retain_graph=True)
        return [any(bool(g[:, p].ne(0).any()) for g in gradients) for p in parts]

    # Denoising queries attend to the matching ones too, all others only to their own group.
    assert [attended_by(part) for part in parts] == [
        [True, True, False, False],
        [False, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    alone = model.decoder(*queries)
    torch.testing.assert_close(predictions.logits[:, :, :10], alone.logits, atol=1e-5, rtol=1e-5)
    separate = model.decoder(joined.content[:, 10:15], groups[0], memory, layout)
    torch.testing.assert_close(predictions.boxes[:, :, 10:15], separate.boxes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objects", [(0, 0), (2, 0), (1, 300)])
def test_every_trained_parameter_gets_a_gradient(objects):
    model = detector()
    losses = losses_of(model, [sample(objects=n, seed=n) for n in objects])
    assert set(losses) == set(GOLDEN)
    check_gradients(model, losses)
    boxes = [v for k, v in losses.items() if k.split("_")[1] in ("bbox", "giou", "box") or k.endswith("_loc")]
    assert any(objects) or all(v == 0 for v in boxes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    check_autocast(detector, losses_of, dtype)


@pytest.mark.parametrize("tuner", ["Frozen", "Full", "LoRA", "Mona", "BitFit"])
def test_tuners(tuner):
    model = detector(f"model.backbone.net.tuner={tuner}")
    sum(losses_of(model, [sample(seed=1)]).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_auxiliary_heads_take_no_part_in_inference():
    model = detector().eval()
    batch = [sample(48, 64), sample(seed=1)]
    with torch.no_grad():
        before = [x["instances"] for x in model(batch)]
        for part in (model.proposal_generator, model.roi_heads, model.atss, model.downsample):
            for parameter in part.parameters():
                parameter.fill_(torch.nan)
        for part in (model.transformer.aux_pos_trans, model.transformer.aux_pos_trans_norm):
            for parameter in part.parameters():
                parameter.fill_(torch.nan)
        after = [x["instances"] for x in model(batch)]
    for a, b in zip(before, after, strict=True):
        assert len(a) and a.scores.equal(b.scores) and a.pred_boxes.tensor.equal(b.pred_boxes.tensor)


def test_soft_nms_lowers_scores_of_twins():
    model = detector("model.max_detections_per_image=5").eval()
    logits = torch.full((1, 12, K), -9.0)
    logits[0, :3, 1] = torch.tensor([3.0, 2.0, 2.5])
    logits[0, 3, 2] = 1.0
    boxes = torch.full((1, 12, 4), 0.5)
    boxes[0, 2, 0] = 0.2
    (detections,) = model.detect(logits, boxes, [(40, 60)])
    # The second is where the first is, and gone; the third elsewhere, the fourth of another class.
    assert detections.pred_classes.tolist() == [1, 1, 2]
    assert detections.scores.tolist() == pytest.approx(torch.tensor([3.0, 2.5, 1.0]).sigmoid().tolist())
    # As in the authors' code, what is suppressed leaves its place empty.
    model.max_detections_per_image = 3
    (detections,) = model.detect(logits, boxes, [(40, 60)])
    assert detections.pred_classes.tolist() == [1, 1]
    model.max_detections_per_image = 5
    model.soft_nms = None
    (detections,) = model.detect(logits, boxes, [(40, 60)])
    assert len(detections) == 5 and detections.pred_classes[:4].tolist() == [1, 1, 1, 2]


def test_padding_may_count_as_image():
    model = detector("model.pad_value=114", "model.square_pad=96").eval()
    own = sample(48, 80)
    framed = {**own, "height": 96, "width": 96}
    for key in ("image", "image_ir"):
        framed[key] = torch.full((3, 96, 96), 114, dtype=torch.uint8)
        framed[key][:, :48, :80] = own[key]
    with torch.no_grad():
        model.soft_nms = None
        (a,), (b,) = (model.inference([x], do_postprocess=False) for x in (own, framed))
    assert a.image_size == (48, 80) and b.image_size == (96, 96)
    torch.testing.assert_close(a.scores, b.scores)
    torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-3, rtol=1e-4)
    # Queries are traced in fractions of the image as well.
    (traced,), (whole,) = (trace_queries(model, [x]) for x in (own, framed))
    scale = torch.tensor([96 / 80, 96 / 48])
    torch.testing.assert_close(traced.boxes, whole.boxes * scale.repeat(2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(traced.locations, whole.locations * scale, atol=1e-4, rtol=1e-4)
    # In training, boxes are fractions of the padded square.
    instances = own["instances"]
    framed["instances"] = Instances((96, 96), **instances.get_fields())
    losses = []
    for x in (own, framed):
        torch.manual_seed(5)
        losses.append({k: float(v) for k, v in losses_of(model, [x]).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.transformer.num_levels=4", "in_features has 4 entries: give 5"),
        ("model.atss.anchor_generator.aspect_ratios=[1.0,2.0]", "one size and one aspect ratio"),
        ("model.soft_nms.iou_threshold=0", "more than 0, at most 1"),
        ("model.soft_nms.min_score=-1", "model.soft_nms.min_score=-1: give a number from 0"),
        ("model.atss.centerness_weight=-1", "model.atss.centerness_weight=-1: give a number from 0"),
    ],
)
def test_what_does_not_fit_is_reported(override, message):
    with pytest.raises(UserError, match=message):
        detector(override)


def test_published_recipe():
    cfg = load_config("configs/M3FD/codetr_ivtuning_swin_l.py")
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.train.clip_grad_norm) == (2e-4, 1e-4, 0.1)
    assert cfg.optimizer.params.trunk_lr_factor == cfg.optimizer.params.added_lr_factor == 0.1
    assert cfg.model.backbone.net.drop_path_rate == 0.5 and cfg.dataloader.train.total_batch_size == 16
    multiplier = instantiate(cfg.lr_multiplier)
    assert [round(multiplier(e / 50), 4) for e in (29.9, 30.1, 49.9)] == [1.0, 0.1, 0.1]
    assert cfg.dataloader.train.copy_paste == dict(prob=1.0, max_objects=100)
    _, jitter, square = cfg.dataloader.train.mapper.augmentations
    assert (jitter.min_scale, jitter.max_scale, jitter.target_height, jitter.target_width) == (
        0.1,
        2.0,
        640,
        640,
    )
    assert (tuple(square.crop_size), square.pad, square.pad_value) == ((640, 640), True, 114.0)
    assert (cfg.model.square_pad, cfg.model.pad_value, cfg.model.max_detections_per_image) == (
        640,
        114.0,
        300,
    )
    full = load_config("configs/M3FD/codetr_ivtuning_swin_l.py", ["method=Full"])
    for c in (cfg, full):
        del c.model.backbone.net.stem, c.model.backbone.net.tuner, c.train.output_dir
    assert cfg == full


@pytest.mark.slow
def test_overfits_four_pairs(tmp_path, monkeypatch):
    model = detector(
        "model.backbone.net.tuner=Full",
        "model.backbone.net.embed_dim=48",
        "model.backbone.out_channels=32",
        "model.denoising.num_dn_queries=10",
        *(f"model.transformer.{k}" for k in ("embed_dim=64", "feedforward_dim=128", "num_queries=40")),
        "model.transformer.decoder_layers=2",
        # Few regions: they take most of the time and matter least here.
        "model.proposal_generator.pre_nms_topk=[80,40]",
        "model.proposal_generator.post_nms_topk=[40,20]",
        "model.roi_heads.batch_size_per_image=16",
        "model.roi_heads.box_head.fc_dims=[128,128]",
    )
    assert overfit(model, tmp_path, monkeypatch) > 95
