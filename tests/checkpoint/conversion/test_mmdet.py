"""Detectors with anchors under the names of mmdetection and detectron2."""

from __future__ import annotations

import torch
from helpers import foreign
from helpers.conversion import CASCADE, FASTER, RETINANET, build, converted, plain
from helpers.weights import same


def test_cascade_of_mmdetection():
    source = build(CASCADE)
    new, report = converted("mmdet", foreign.mmdet_cascade(plain(source)), CASCADE)
    assert same(new, plain(source)) and report.missing == report.misfits == []
    assert report.notes == ["the last of the file's 3 mask heads is taken: the model has one"]
    # What it leaves: Swin's indices and two mask heads of four convolutions and two layers.
    assert len([n for n in report.unused if n.startswith("roi_head.mask_head.")]) == 2 * 12
    assert len(report.unused) == 5 + 24


def test_boxes_that_classes_share_are_repeated():
    state = foreign.mmdet_cascade(plain(build(CASCADE)))
    shared = {n: torch.randn(4, *t.shape[1:]) for n, t in state.items() if ".fc_reg." in n}
    few = "model.roi_heads.num_classes=3"
    new, report = converted("mmdet", state | shared, CASCADE, few)
    for stage in range(3):
        weight = new[f"roi_heads.box_predictor.{stage}.bbox_pred.weight"]
        assert torch.equal(weight, shared[f"roi_head.bbox_head.{stage}.fc_reg.weight"].repeat(3, 1))
        assert f"roi_heads.box_predictor.{stage}.cls_score.weight" not in new
    assert sum("repeated" in note for note in report.notes) == 1


def test_retinanet_of_mmdetection():
    source = build(RETINANET)
    new, report = converted("mmdet", foreign.mmdet_retinanet(plain(source)), RETINANET)
    assert same(new, plain(source)) and report.missing == report.misfits == []
    assert "P7" in report.notes[0]


def test_a_norm_of_another_kind_is_not_taken():
    """Batch norms of a file are no layer norms: detectron2 calls both `norm`."""
    state = foreign.mmdet_cascade(plain(build(CASCADE)))
    state = {n.replace("bbox_head.0.", "bbox_head."): t for n, t in state.items() if "bbox_head.1" not in n}
    new, report = converted("mmdet", state, FASTER)
    assert "roi_heads.box_head.conv1.weight" in new
    assert "roi_heads.box_head.conv1.norm.weight" not in new
    assert "roi_heads.box_head.conv1.norm.running_mean: in the file alone" in report.misfits


def test_detectron2s_own():
    source = build(CASCADE)
    state = foreign.renamed(plain(source), [(r"^backbone\.net\.", "backbone.bottom_up.")])
    new, report = converted("detectron2", foreign.with_buffers(state, "backbone.bottom_up."), CASCADE)
    assert same(new, plain(source)) and report.missing == [] and len(report.unused) == 5
