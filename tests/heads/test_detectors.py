"""RetinaNet and Cascade Mask R-CNN on pairs and on visible images, and VOC's average precision."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.tiny import sample
from PIL import Image

from ivtuning.backbones.trunk import find_trunk
from ivtuning.config import load_config
from ivtuning.data.datasets.visible import visible_dicts
from ivtuning.engine.optim import param_groups
from ivtuning.engine.parameters import count_parameters
from ivtuning.errors import UserError
from ivtuning.evaluation.voc import VOCEvaluator
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
    "model.pixel_mean=[123.675,116.28,103.53,108.375,108.375,108.375]",
    "model.pixel_std=[58.395,57.12,57.375,51.0,51.0,51.0]",
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
        found = [output["instances"] for output in model.eval()(batch)]
    for instances in found:
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
    assert type(find_trunk(model)[1].tuner) is TUNERS[tuner]


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
    cfgs = [load_config(f"configs/VOC/retinanet_{row}_swin_l.py") for row in ("mona", "full")]
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


XML = """<annotation><size><width>60</width><height>40</height><depth>3</depth></size>{}</annotation>"""
OBJECT = (
    "<object><name>{}</name><pose>Left</pose><truncated>0</truncated><difficult>{}</difficult><bndbox>"
    "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
# Four cats, one of them difficult, and a dog; corners are inclusive pixels, counted from 1.
TRUTH = {
    "000001": [("cat", 0, 11, 11, 20, 20), ("cat", 0, 31, 11, 40, 20), ("cat", 1, 11, 25, 20, 34)],
    "000002": [("cat", 0, 11, 11, 20, 20), ("dog", 0, 31, 11, 40, 20)],
}
CAT, DOG, PERSON = 7, 11, 14


@pytest.fixture
def voc(tmp_path):
    """A registered set of two images, "tiny_voc"."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("\n".join(TRUTH) + "\n")
    for name, objects in TRUTH.items():
        (tmp_path / f"Annotations/{name}.xml").write_text(
            XML.format("".join(OBJECT.format(*o) for o in objects))
        )
        Image.new("RGB", (60, 40)).save(tmp_path / f"JPEGImages/{name}.jpg")
    register_pascal_voc("tiny_voc", str(tmp_path), "test", 2007)
    yield tmp_path
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("tiny_voc")


def evaluate(detections: dict[str, list[tuple]]) -> dict:
    """Figures of (class, score, x0, y0, x1, y1) of each image, corners counted from 0."""
    evaluator = VOCEvaluator("tiny_voc")
    evaluator.reset()
    for image, rows in detections.items():
        found = Instances((40, 60))
        found.pred_classes = torch.tensor([r[0] for r in rows], dtype=torch.int64)
        found.scores = torch.tensor([r[1] for r in rows])
        found.pred_boxes = Boxes(torch.tensor([r[2:] for r in rows], dtype=torch.float32).reshape(-1, 4))
        evaluator.process([{"image_id": image}], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


def test_average_precision_by_hand(voc):
    figures = evaluate(
        {
            "000002": [(CAT, 0.80001, 10, 10, 15, 20)],  # IoU of exactly 0.5: wrong, after the first
            "000001": [
                (CAT, 0.80002, 10, 10, 20, 20),  # right: recall 1/3, precision 1
                (CAT, 0.7, 30, 11, 40, 20),  # right: recall 2/3, precision 2/3
                (CAT, 0.65, 10, 24, 20, 34),  # the difficult one: does not count
                (CAT, 0.6, 10, 10, 20, 19),  # the first object again: wrong
                (PERSON, 0.9, 0, 0, 9, 9),  # a class without objects
            ],
        }
    )
    # Precision is 1 at the recalls 0 to .3, 2/3 at .4 to .6, then 0.
    assert figures["AP50_11point-cat"] == pytest.approx(100 * (4 + 3 * 2 / 3) / 11)
    assert figures["AP50_area-cat"] == pytest.approx(100 * (1 / 3 + 1 / 3 * 2 / 3))
    assert figures["AP50_11point-dog"] == figures["AP50_area-dog"] == 0.0
    assert figures["AP50_area-person"] != figures["AP50_area-person"]
    assert figures["AP50_11point"] == pytest.approx(figures["AP50_11point-cat"] / 2)
    assert figures["AP50_area"] == pytest.approx(figures["AP50_area-cat"] / 2)


def test_what_the_loader_reads_is_what_the_evaluator_wants(voc):
    records = visible_dicts("tiny_voc")
    assert [r["image_id"] for r in records] == list(TRUTH) and "ir_file_name" not in records[0]
    mapper = instantiate(load_config("configs/VOC/retinanet_mona_swin_l.py").dataloader.train.mapper)
    x = mapper(records[1])
    assert x["image"].shape == (3, 600, 900) and "image_ir" not in x and len(x["instances"]) == 2
    detections = {
        r["image_id"]: [(a["category_id"], 0.5, *a["bbox"]) for a in r["annotations"]] for r in records
    }
    figures = evaluate(detections)
    assert figures["AP50_11point"] == pytest.approx(100) and figures["AP50_area"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: VOCEvaluator("voc_2070_test"), "did you mean"),
        (lambda: VOCEvaluator("coco_2017_val"), "not in VOC's layout"),
        (lambda: evaluate({"000009": [(CAT, 0.5, 0, 0, 9, 9)]}), "image id 000009"),
        (lambda: evaluate({"000001": [(20, 0.5, 0, 0, 9, 9)]}), "predicts class 20"),
        (lambda: visible_dicts("voc_2070_test"), "did you mean"),
    ],
)
def test_bad_input_is_one_line(voc, act, words):
    with pytest.raises(UserError, match=words) as error:
        act()
    assert "\n" not in str(error.value)


def test_a_set_that_is_not_there_is_named(voc):
    (voc / "ImageSets/Main/test.txt").unlink()
    for act in (visible_dicts, VOCEvaluator):
        with pytest.raises(UserError, match=r"tiny_voc: no .*test\.txt.*DETECTRON2_DATASETS"):
            act("tiny_voc")
