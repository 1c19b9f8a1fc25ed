"""Rotated Faster R-CNN and RetinaNet, Oriented R-CNN: losses, outputs, tuners, overfitting to four pairs."""

from __future__ import annotations

import copy
import runpy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import RotatedBoxes
from detectron2.utils.events import EventStorage
from helpers.overfitting import fit
from helpers.tiny import sample

from ivtuning.backbones.trunk import find_trunk
from ivtuning.config import load_config
from ivtuning.data.datasets.detection import register_known
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.synthetic.drone import generate_drone_set
from ivtuning.engine.optim import param_groups
from ivtuning.errors import UserError
from ivtuning.evaluation.oriented import OrientedEvaluator
from ivtuning.export.detectors import detections
from ivtuning.heads.dino.dino import PairedDINO
from ivtuning.heads.oriented import OrientedRPN, RotatedRPN
from ivtuning.meta_arch import PairedInput, PairedRetinaNet
from ivtuning.tuning import TUNERS

RCNN = [
    *("model.backbone.net.embed_dim=24", "model.backbone.net.num_heads=3"),
    *("model.backbone.out_channels=16", "model.roi_heads.box_head.conv_dims=[16]"),
    *("model.roi_heads.box_head.fc_dims=[32]", "model.roi_heads.box_predictor.test_score_thresh=0"),
    *("model.proposal_generator.post_nms_topk=[40,20]", "model.roi_heads.batch_size_per_image=32"),
]
TRUNK = [
    *("model.backbone.net.embed_dim=8", "model.backbone.net.depths=[1,1,1,1]"),
    *("model.backbone.net.num_heads=[1,1,2,2]", "model.backbone.net.window_size=3"),
    *("model.backbone.net.drop_path_rate=0", "model.backbone.out_channels=16"),
]
RETINANET = [
    *TRUNK,
    *("model.backbone.top_block.in_channels=64", "model.head.conv_dims=[16]", "model.num_classes=2"),
    "model.test_score_thresh=0",
]
TINY = [
    *(
        "model.backbone.net.embed_dim=48",
        "model.backbone.net.depth=2",
        "model.backbone.net.global_blocks=[1]",
    ),
    *("model.backbone.out_channels=32", "model.roi_heads.box_head.conv_dims=[32]"),
    *("model.roi_heads.box_head.fc_dims=[128]", "model.roi_heads.batch_size_per_image=16"),
    *("model.proposal_generator.pre_nms_topk=[60,60]", "model.proposal_generator.post_nms_topk=[30,30]"),
]
STEPS, RATE = 120, 3e-3
CONFIGS = {
    "rcnn": ("configs/synthetic/oriented_ivtuning.py", RCNN),
    "oriented_rcnn": ("configs/synthetic/oriented_rcnn_ivtuning.py", RCNN),
    "retinanet": ("configs/DroneVehicle/retinanet_ivtuning_swin_b.py", RETINANET),
}


def small(name: str, *overrides: str):
    file, changes = CONFIGS[name]
    cfg = load_config(file, [*changes, *overrides])
    torch.manual_seed(0)
    return instantiate(cfg.model)


def labeled(seed: int, objects: int = 3) -> dict:
    x = sample(seed=seed, objects=objects)
    generator = torch.Generator().manual_seed(seed)
    instances = x["instances"]
    boxes = torch.rand(len(instances), 5, generator=generator)
    scale, low = torch.tensor([60.0, 40, 20, 20, 360]), torch.tensor([15.0, 10, 10, 10, -180])
    instances.gt_boxes = RotatedBoxes(boxes * scale + low)
    instances.gt_classes = instances.gt_classes % 2
    return x


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_moves_what_trains_and_nothing_else(name):
    model = small(name).train()
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.AdamW(param_groups(model, lr=1e-3, weight_decay=0.0))
    with EventStorage():
        losses = model([labeled(0), labeled(1)])
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= trained and any("net.tuner" in n or "blocks" in n or "layers" in n for n in moved)
    heads = {n for n in trained if not n.startswith("backbone")}
    assert heads and heads <= moved

    with torch.no_grad():
        outputs = model.eval()([labeled(0), labeled(1)])
    for instances in (output["instances"] for output in outputs):
        assert isinstance(instances.pred_boxes, RotatedBoxes) and 0 < len(instances) <= 100
        assert instances.pred_boxes.tensor.isfinite().all() and instances.pred_classes.max() < 2
        assert (instances.scores.diff() <= 0).all()


@pytest.mark.parametrize("objects", [0, 1, 40])
@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_and_any_number_of_objects(name, objects):
    model = small(name).train()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([labeled(0, objects)])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(model.eval()([labeled(0)])[0]["instances"])


@pytest.mark.parametrize("tuner", TUNERS)
def test_any_tuner_by_name(tuner):
    with torch.device("meta"):
        model = small("retinanet", f"model.backbone.net.tuner={tuner}")
    assert type(find_trunk(model).trunk.tuner) is TUNERS[tuner]


@pytest.mark.parametrize(
    "function, rpn, deltas", [("orient", RotatedRPN, 6 * 5), ("orient_rcnn", OrientedRPN, 3 * 6)]
)
@pytest.mark.parametrize("file", ["vitdet", "swin", "dinov2", "dinov3"])
def test_every_faster_rcnn_can_be_oriented(file, function, rpn, deltas):
    model = load_config(f"configs/common/models/faster_rcnn_{file}.py").model
    runpy.run_path("configs/common/models/oriented.py")[function](model)
    with torch.device("meta"):
        built = instantiate(model)
    assert type(built.proposal_generator) is rpn
    assert built.proposal_generator.rpn_head.anchor_deltas.out_channels == deltas
    assert built.roi_heads.box_predictor.bbox_pred.out_features == 6 * 5


@pytest.mark.parametrize("name", CONFIGS)
def test_boxes_without_an_angle_are_refused(name):
    with pytest.raises(UserError, match="learns oriented boxes.*mapper.oriented=True"), EventStorage():
        small(name).train()([sample(seed=0)])


def test_other_detectors_and_exports_refuse_oriented_boxes():
    upright = instantiate(load_config("configs/synthetic/ivtuning.py").model).train()
    message = r"samples have oriented boxes, .*: call orient_rcnn\(model\) or orient\(model\) of"
    with pytest.raises(UserError, match=message), EventStorage():
        upright([labeled(0)])
    for kind, advice in ((PairedRetinaNet, r"call orient\(model\) of"), (PairedDINO, "take a Faster R-CNN")):
        other = kind.__new__(kind)
        torch.nn.Module.__init__(other)
        with pytest.raises(UserError, match=f"samples have oriented boxes, .*: {advice}"):
            PairedInput.preprocess_image(other, [labeled(0)])
    for name in CONFIGS:
        with pytest.raises(UserError, match="upright"):
            detections(small(name).eval())


@pytest.mark.slow
@pytest.mark.parametrize("file", ["oriented_ivtuning", "oriented_rcnn_ivtuning"])
def test_overfits_four_pairs(file, tmp_path, monkeypatch):
    generate_drone_set(tmp_path / "synthetic_drone", train=4, val=1, size=(96, 80))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_known()
    try:
        cfg = load_config(f"configs/synthetic/{file}.py", ["model.backbone.net.tuner=Full", *TINY])
        torch.manual_seed(0)
        model = instantiate(cfg.model)
        mapper = PairedDatasetMapper(is_train=True, oriented=True)
        batch = [mapper(x) for x in DatasetCatalog.get("synthetic_drone_train")]
        fit(model, batch, STEPS, RATE, clip=1.0)
        figures = inference_on_dataset(model, [batch], OrientedEvaluator("synthetic_drone_train"))["bbox"]
        assert figures["AP50"] > 90, figures
    finally:
        monkeypatch.undo()
        register_known()
