"""Graphs in torch: variants of the heads, few or no detections, and models that have no graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.exported import (
    QUERIES,
    assert_same_detections,
    codino,
    detector,
    faster_rcnn,
    mask_rcnn,
    named,
    retinanet,
)
from helpers.tiny import sample, segmentor
from torch import nn

from ivtuning.errors import UserError
from ivtuning.export.detectors import detections, raw_outputs
from ivtuning.export.graph import ExportedModel
from ivtuning.export.options import Options


def all_alike(model: nn.Module) -> None:
    """One box and one mask for all classes."""
    heads = model.roi_heads
    for layer, size in ((heads.box_predictor.bbox_pred, 4), (heads.mask_head.predictor, 1)):
        layer.weight, layer.bias = nn.Parameter(layer.weight[:size]), nn.Parameter(layer.bias[:size])


def few(model: nn.Module) -> None:
    """Fewer proposals than there is room for, and all detections of them."""
    model.proposal_generator.nms_thresh = 0.05
    model.roi_heads.box_predictor.test_topk_per_image = -1


def without_soft_nms(model: nn.Module) -> None:
    model.soft_nms = None


def unsure(model: nn.Module) -> None:
    """A threshold that no score exceeds."""
    for module in (model, getattr(getattr(model, "roi_heads", None), "box_predictor", None)):
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.9999


def small_objects(model: nn.Module) -> None:
    """Proposals of some size only."""
    model.proposal_generator.min_box_size = 12.0


@pytest.mark.parametrize(
    ("family", "change"),
    [(mask_rcnn, all_alike), (mask_rcnn, few), (mask_rcnn, small_objects), (codino, without_soft_nms)],
)
@torch.no_grad()
def test_variants_detect_the_same(family: Callable, change: Callable):
    model = family()
    change(model)
    batch = [sample(60, 90, seed=seed) for seed in range(2)]
    graph = detections(model)
    outputs = named(graph, graph(model.preprocess_image(batch).tensor, (60, 90)))
    outputs.pop("masks", None)  # compared where they are exported
    assert_same_detections(outputs, [output["instances"] for output in model(batch)])


@pytest.mark.parametrize("family", [mask_rcnn, retinanet])
@torch.no_grad()
def test_nothing_is_found(family: Callable):
    model = family()
    unsure(model)
    outputs = detections(model)(torch.zeros(2, 6, 64, 96))
    assert not any(output.any() for output in outputs) and outputs[0].shape[:2] == outputs[1].shape


def without_proposals(model: nn.Module) -> None:
    model.proposal_generator = None


def with_keypoints(model: nn.Module) -> None:
    model.roi_heads.keypoint_on = True


def other_regions(model: nn.Module) -> None:
    model.roi_heads.box_pooler.level_poolers[0] = nn.Identity()


def other_outputs(model: nn.Module) -> None:
    model.roi_heads.box_predictor = nn.Identity()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_proposals, "model.proposal_generator is NoneType"),
        (with_keypoints, "has keypoints"),
        (other_regions, "pooler_type=ROIAlignV2"),
        (other_outputs, "predicts boxes with Identity"),
    ],
)
@pytest.mark.parametrize("graph", [detections, raw_outputs])
def test_parts_that_have_no_graph_are_refused(change: Callable, words: str, graph: Callable):
    model = mask_rcnn()
    change(model)
    with pytest.raises(UserError, match=words) as error:
        graph(model)
    assert "\n" not in str(error.value)


def test_a_model_of_another_task_is_refused():
    with pytest.raises(UserError, match="PairedSemanticSegmentor cannot be exported as a detector"):
        detections(segmentor())


def test_soft_nms_has_raw_outputs_alone():
    model = codino()
    with pytest.raises(UserError, match="model.soft_nms=null, or export with --stage raw"):
        detections(model)
    assert raw_outputs(model).names == ["logits", "boxes"]


def test_half_precision_is_a_risk_for_queries_alone():
    queries, regions = detector("synthetic/dino_ivtuning", *QUERIES), faster_rcnn()
    assert "order of positions" in ExportedModel(queries, Options((64, 96))).rounding_risk
    assert not ExportedModel(regions, Options((64, 96))).rounding_risk


def test_queries_need_one_size():
    model = detector("synthetic/dino_ivtuning", *QUERIES)
    with pytest.raises(UserError, match="--dynamic size: PairedDINO.* positions of its queries for one size"):
        ExportedModel(model, Options((64, 96), dynamic=("size",)))
