"""Oriented R-CNN's proposals: labels of anchors, what NMS compares, limits, numbers of parameters."""

from __future__ import annotations

import runpy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances, RotatedBoxes, pairwise_iou
from detectron2.utils.events import EventStorage
from helpers.oriented import boxes_like, corner_distance
from helpers.tools import ROOT

from ivtuning.config import load_config
from ivtuning.heads.oriented import OrientedRPN
from ivtuning.oriented.boxes import corners

SIZE = (96, 128)


def region_proposals(**options) -> OrientedRPN:
    model = load_config("configs/common/models/faster_rcnn_swin.py").model
    runpy.run_path(str(ROOT / "configs/common/models/oriented.py"))["orient_rcnn"](model)
    model.proposal_generator.update(**options)
    torch.manual_seed(0)
    return instantiate(model.proposal_generator)


@pytest.fixture(scope="module")
def rpn() -> OrientedRPN:
    return region_proposals(batch_size_per_image=10**6)  # all anchors have their say


def maps(channels: int = 256) -> dict[str, torch.Tensor]:
    height, width = SIZE
    return {
        f"p{i + 2}": torch.randn(2, channels, height // s, width // s)
        for i, s in enumerate((4, 8, 16, 32, 64))
    }


def targets(boxes: torch.Tensor) -> Instances:
    return Instances(SIZE, gt_boxes=RotatedBoxes(boxes.float()))


def test_number_of_parameters():
    """As in MMRotate's config of Oriented R-CNN for STAR's 48 classes."""
    with torch.device("meta"):
        model = instantiate(load_config("configs/STAR/oriented_rcnn_mona_swin_b.py").model)
    rpn, heads = (
        sum(p.numel() for p in part.parameters()) for part in (model.proposal_generator, model.roi_heads)
    )
    assert rpn == (256 * 256 * 9 + 256) + 257 * 3 * (1 + 6) == 595_477
    assert heads == (256 * 7 * 7 + 1) * 1024 + 1025 * 1024 + 1025 * (49 + 5) == 13_951_030


def test_anchors_are_matched_with_upright_boxes_around_the_objects(rpn):
    boxes = boxes_like(5, 0)
    anchors = rpn.anchor_generator([*maps().values()])
    (labels, none), (matched, _) = rpn.label_and_sample_anchors(anchors, [targets(boxes), targets(boxes[:0])])
    points = corners(boxes).float()
    around = Boxes(torch.cat((points.amin(1), points.amax(1)), 1))
    best, index = pairwise_iou(around, Boxes.cat(anchors)).max(0)
    positive = labels == 1
    assert positive[best >= 0.7].all() and (labels[best < 0.3] != -1).all()
    assert torch.equal(matched[positive], boxes.float()[index][positive])
    assert len(matched[positive].unique(dim=0)) == 5  # every object has an anchor
    assert (none == 0).all()


def test_anchors_over_the_border_can_be_left_out():
    rpn = region_proposals(anchor_boundary_thresh=0, batch_size_per_image=10**6)
    anchors = rpn.anchor_generator([*maps().values()])
    (labels,), _ = rpn.label_and_sample_anchors(anchors, [targets(boxes_like(5, 0))])
    outside = ~Boxes.cat(anchors).inside_box(SIZE, 0)
    assert (labels[outside] == -1).all() and (labels[~outside] == 0).any()


def proposals_of(rpn, boxes, scores, anchors=None):
    """The proposals of one map whose deltas lead from `anchors` to `boxes`."""
    anchors = torch.tensor([[20.0, 20, 60, 60]]).expand(len(boxes), 4) if anchors is None else anchors
    deltas = rpn.box2box_transform.get_deltas(anchors, boxes)
    return rpn.predict_proposals([Boxes(anchors)], [scores[None]], [deltas[None]], [SIZE])[0]


def test_nms_compares_the_upright_boxes_around_proposals(rpn):
    boxes = torch.tensor([[40.0, 40, 40, 6, 45], [40, 40, 40, 6, -45], [90, 40, 40, 6, 0]])
    scores = torch.tensor([0.5, 0.9, 0.1])
    found = proposals_of(rpn, boxes, scores)
    assert torch.equal(found.objectness_logits, scores[[1, 2]])
    assert corner_distance(found.proposal_boxes.tensor, boxes[[1, 2]]) < 1e-3
    # Those of different maps do not compete.
    anchors = [Boxes(torch.tensor([[20.0, 20, 60, 60]]))] * 2
    deltas = rpn.box2box_transform.get_deltas(anchors[0].tensor.expand(2, 4), boxes[:2])
    levels = [[x[None, None] for x in part] for part in (scores[:2], deltas)]
    assert len(rpn.predict_proposals(anchors, *levels, [SIZE])[0]) == 2


def test_the_best_proposals_are_kept_by_falling_score():
    rpn = region_proposals(pre_nms_topk=(8, 5), post_nms_topk=(6, 4))
    boxes = torch.stack([torch.tensor([100.0 * i, 50, 30, 10, 10 * i]) for i in range(20)])
    scores = torch.randn(20, generator=torch.Generator().manual_seed(1))
    for training, most in ((True, 6), (False, 4)):
        found = proposals_of(rpn.train(training), boxes, scores)
        assert torch.equal(found.objectness_logits, scores.sort(descending=True)[0][:most])


def test_what_is_not_finite_ends_training_only(rpn):
    boxes, scores = boxes_like(4, 2).float(), torch.tensor([0.1, float("nan"), 0.3, 0.2])
    with pytest.raises(FloatingPointError, match="training has diverged"):
        proposals_of(rpn.train(), boxes, scores)
    assert len(proposals_of(rpn.eval(), boxes, scores)) == 3


def test_losses_vanish_where_the_head_is_right(rpn):
    """Deltas that the labels ask for have no loss, and no gradient but that of the scores."""
    features, target = [*maps().values()], [targets(boxes_like(3, 3)), targets(boxes_like(0, 3))]
    anchors = rpn.anchor_generator(features)
    sizes = [len(a) for a in anchors]
    torch.manual_seed(0)
    labels, boxes = rpn.label_and_sample_anchors(anchors, target)
    every = Boxes.cat(anchors).tensor
    right = torch.stack([rpn.box2box_transform.get_deltas(every, b) for b in boxes]).requires_grad_()
    logits = torch.stack([label * 200.0 - 100 for label in labels])
    with EventStorage():
        losses = rpn.losses(anchors, logits.split(sizes, 1), labels, right.split(sizes, 1), boxes)
    assert losses["loss_rpn_loc"] == 0 and losses["loss_rpn_cls"] < 1e-6
    losses["loss_rpn_loc"].backward()
    assert right.grad.isfinite().all()
