"""RetinaNet and Cascade Mask R-CNN on pairs and on visible images."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.tiny import sample

from ivtuning.backbones.trunk import find_trunk
from ivtuning.config import load_config
from ivtuning.engine.optim import param_groups
from ivtuning.engine.parameters import count_parameters
from ivtuning.heads.cascade import RefiningOutputLayers
from ivtuning.tuning import TUNERS

TRUNK = [
    "model.backbone.net.embed_dim=8",
    "model.backbone.net.depths=[1,1,1,1]",
    "model.backbone.net.num_heads=[1,1,2,2]",
    "model.backbone.net.window_size=3",
    "model.backbone.net.drop_path_rate=0",
    "model.backbone.out_channels=16",
]
RETINANET = [
    *("model.backbone.top_block.in_channels=64", "model.head.conv_dims=[16]", "model.num_classes=4"),
    "model.test_score_thresh=0",
]
CASCADE = [
    *(
        f"model.roi_heads.box_heads.{i}.{size}"
        for i in range(3)
        for size in ("conv_dims=[16]", "fc_dims=[32]")
    ),
    *(f"model.roi_heads.box_predictors.{i}.test_score_thresh=0" for i in range(3)),
    *("model.roi_heads.mask_head.conv_dims=[16,16]", "model.roi_heads.num_classes=4"),
    # Anchors that fit into the image on every level.
    "model.proposal_generator.anchor_generator.sizes=[[4],[8],[16],[24],[32]]",
    *("model.proposal_generator.post_nms_topk=[40,20]", "model.roi_heads.batch_size_per_image=32"),
]
PAIRED = [
    *("model.backbone.net.stem=PromptStem", "model.backbone.net.tuner=IVTuning"),
    *("model.backbone.net.stem.zero_init=False", "model.backbone.net.tuner.zero_init=False"),
    *(f"model.pixel_mean={[110.0] * 6}", f"model.pixel_std={[55.0] * 6}"),
]
HEADS = {"retinanet_swin": RETINANET, "cascade_mask_rcnn_swin": CASCADE}


def small(name: str, *overrides: str):
    cfg = load_config(f"configs/common/models/{name}.py", [*TRUNK, *HEADS[name], *overrides])
    torch.manual_seed(0)
    return instantiate(cfg.model)


def labeled(seed: int, paired: bool = True, objects: int = 2) -> dict:
    """A sample whose masks fill their boxes."""
    x = sample(seed=seed, objects=objects)
    masks = torch.zeros(len(x["instances"]), *x["instances"].image_size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, x["instances"].gt_boxes.tensor.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    x["instances"].gt_masks = BitMasks(masks)
    return x if paired else {k: v for k, v in x.items() if k != "image_ir"}


@pytest.mark.parametrize("paired", [True, False], ids=["pairs", "visible"])
@pytest.mark.parametrize("name", HEADS)
def test_a_step_moves_what_trains_and_nothing_else(name, paired):
    model = small(name, *(PAIRED if paired else ())).train()
    batch = [labeled(0, paired), labeled(1, paired)]
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.AdamW(param_groups(model, lr=1e-3, weight_decay=0.0))
    with EventStorage():
        losses = model(batch)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    unreached = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert unreached == set(before) - trained
    assert {n for n in trained if n.startswith("backbone.net.")} and unreached
    optimizer.step()
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == trained

    with torch.no_grad():
        outputs = model.eval()(batch)
    for instances in (output["instances"] for output in outputs):
        assert instances.image_size == (64, 96) and 0 < len(instances) <= 100
        assert instances.pred_boxes.tensor.isfinite().all() and instances.pred_classes.max() < 4
        assert instances.has("pred_masks") == (name != "retinanet_swin")


@pytest.mark.parametrize("objects", [0, 1, 40])
@pytest.mark.parametrize("name", HEADS)
def test_losses_in_bf16_of_any_number_of_objects(name, objects):
    model = small(name).train()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([labeled(0, paired=False, objects=objects)])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(
        (loss > 0) == (objects > 0) for key, loss in losses.items() if "box_reg" in key or "mask" in key
    )


@pytest.mark.parametrize(
    ("name", "tuner"),
    [*(("retinanet_swin", t) for t in TUNERS), ("cascade_mask_rcnn_swin", "LoRA")],
)
def test_any_tuner_by_name(name, tuner):
    paired = PAIRED[:1] + PAIRED[-2:] if tuner == "IVTuning" else []
    with torch.device("meta"):
        model = small(name, *paired, f"model.backbone.net.tuner={tuner}")
    assert type(find_trunk(model).trunk.tuner) is TUNERS[tuner]


def test_retinanet_divides_by_the_positives_of_the_batch():
    model = small("retinanet_swin", "model.backbone.net.tuner.dropout=0").train()
    with EventStorage() as storage:
        first = model([labeled(0, paired=False)])["loss_box_reg"]
        assert storage.latest()["num_pos_anchors"][0] > 0
        again = model([labeled(0, paired=False)] * 2)["loss_box_reg"]
    assert torch.allclose(first, again)


def refining(training: bool) -> list[torch.Tensor]:
    """Boxes of three regions in two images; class c of three moves a region of side 10 by (c + 1) * 2."""
    layers = RefiningOutputLayers(
        ShapeSpec(channels=1), box2box_transform=Box2BoxTransform((1.0,) * 4), num_classes=3
    ).train(training)
    proposals = []
    for classes in ([2, 3], [0]):  # 3 is background
        proposal = Instances((50, 50))
        proposal.proposal_boxes = Boxes(torch.tensor([[10.0, 10.0, 20.0, 20.0]]).repeat(len(classes), 1))
        if training:
            proposal.gt_classes = torch.tensor(classes)
        proposals.append(proposal)
    scores = torch.tensor([[0.0, 1.0, 0.0, 9.0]]).repeat(3, 1)
    deltas = torch.zeros(3, 3, 4)
    deltas[..., 0] = torch.tensor([0.2, 0.4, 0.6])
    return layers.predict_boxes((scores, deltas.flatten(1)), proposals)


def test_regions_go_on_as_their_object_in_training_and_as_their_best_class_else():
    assert [boxes[:, 0].tolist() for boxes in refining(training=True)] == [[16.0, 14.0], [12.0]]
    assert [boxes[:, 0].tolist() for boxes in refining(training=False)] == [[14.0, 14.0], [14.0]]


def test_stages_weigh_on_features_by_their_losses_alone():
    heads = small("cascade_mask_rcnn_swin").roi_heads.train()
    proposal = Instances((64, 96))
    proposal.proposal_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 40.0], [10.0, 8.0, 60.0, 50.0]]))
    gradients = []
    for run in (type(heads)._run_stage, CascadeROIHeads._run_stage):
        features = [
            torch.randn(1, 16, 64 // s, 96 // s, generator=torch.Generator().manual_seed(s))
            for s in (4, 8, 16, 32)
        ]
        features[0].requires_grad_(True)
        run(heads, features, [proposal], 0)[0].pow(2).sum().backward()
        gradients.append(features[0].grad)
    assert gradients[0].any() and torch.allclose(gradients[0], 3 * gradients[1], rtol=1e-4, atol=1e-9)


def test_recipe_of_cascade():
    cfg = load_config("configs/COCO/cascade_mask_rcnn_mona_swin_b.py")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    counts = count_parameters(model)
    assert (counts["backbone_base"], counts["backbone_trainable"]) == (86_745_016, 3_667_456)
    heads = model.roi_heads
    assert [m.thresholds[1] for m in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    weights = [(p.loss_weight["loss_cls"], p.loss_weight["loss_box_reg"]) for p in heads.box_predictor]
    assert weights == [(1.0, 10.0), (0.5, 5.0), (0.25, 2.5)]
    assert all(
        p.bbox_pred.out_features == 4 * 80 and p.box_reg_loss_type == "giou" for p in heads.box_predictor
    )
    assert [isinstance(p, RefiningOutputLayers) for p in heads.box_predictor] == [True, True, False]
    at = [instantiate(cfg.lr_multiplier)(e / 36) for e in (0, 1, 26.9, 27.1, 33.1)]
    assert [round(v, 4) for v in at] == [0.001, 1.0, 1.0, 0.1, 0.01]


def test_recipe_of_retinanet():
    full = ["method=Full", "model.backbone.net.tuner.freeze_embed=True"]
    cfgs = [load_config("configs/VOC/retinanet_mona_swin_l.py", changes) for changes in ([], full)]
    with torch.device("meta"):
        counts = [count_parameters(instantiate(cfg.model)) for cfg in cfgs]
    assert [c["backbone_base"] for c in counts] == [194_997_780] * 2
    assert [c["backbone_trainable"] for c in counts] == [5_267_712, 194_987_988]
    at = [instantiate(cfgs[0].lr_multiplier)(e / 12) for e in (0, 8.9, 9.1)]
    assert [round(v, 4) for v in at] == [1.0, 1.0, 0.1]


def test_coco_augmentation_on_visible_images(pairs):
    record = dict(DatasetCatalog.get("synthetic_train")[0])
    del record["ir_file_name"]
    mapper = instantiate(load_config("configs/COCO/cascade_mask_rcnn_mona_swin_b.py").dataloader.train.mapper)
    torch.manual_seed(0)
    for _ in range(4):
        x = mapper(record)
        short, long = sorted(x["image"].shape[1:])
        assert "image_ir" not in x and (short in range(480, 801, 32) or long == 1333) and long <= 1333
        instances = x["instances"]
        assert instances.gt_masks.tensor.shape == (len(instances), *x["image"].shape[1:])
