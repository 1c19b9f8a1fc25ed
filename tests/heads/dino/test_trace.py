"""Traces of queries against the model's own output and the definition of deformable attention."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.attention import defining_sum
from helpers.queries import BATCH, HEADS, MODELS, POINTS, D, K, Q

from ivtuning.errors import UserError
from ivtuning.heads.dino import PairedDINO
from ivtuning.heads.dino.boxes import inverse_sigmoid, to_corners
from ivtuning.heads.dino.trace import Trace, trace_queries


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> PairedDINO:
    return MODELS[request.param]()


def test_last_boxes_are_the_detections(model):
    with torch.no_grad():
        detected = model(BATCH)
    for queries, output, x in zip(trace_queries(model, BATCH), detected, BATCH, strict=True):
        assert queries.boxes.shape == (D + 1, Q, 4) and queries.scores.shape == (Q, K)
        instances = output["instances"]
        assert len(instances) == Q * K  # all pairs of a query and a class
        size = torch.tensor([x["width"], x["height"]] * 2)
        boxes = (to_corners(queries.boxes[-1]) * size).clamp(torch.zeros(4), size)
        for score, category, box in zip(
            instances.scores, instances.pred_classes, instances.pred_boxes.tensor, strict=True
        ):
            (query,) = (queries.scores[:, category] == score).nonzero()[:, 0]
            torch.testing.assert_close(boxes[query], box, atol=1e-3, rtol=0)


def test_boxes_are_those_that_the_layers_look_around(model):
    decoder, outputs = model.transformer.decoder, []
    hooks = [layer.register_forward_hook(lambda *call: outputs.append(call[-1])) for layer in decoder.layers]
    traces = trace_queries(model, BATCH)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        _, selection = model.predict(model.preprocess_image(BATCH))
        shifts = [decoder.bbox_embed[0](x) for x in outputs]
    for i, queries in enumerate(traces):
        box = selection.boxes[0, i]
        for d in range(D):
            torch.testing.assert_close(queries.boxes[d], box, atol=1e-6, rtol=1e-5)
            box = (shifts[d][i] + inverse_sigmoid(box)).sigmoid()


def test_points_and_weights_are_those_of_the_attention(model):
    """The attention's output, once more, pixel by pixel from what was collected."""
    layer, seen = model.transformer.decoder.layers[-1], {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x: seen.update(valid=x[4].valid_ratios)),
        layer.cross_attn.register_forward_hook(lambda _, x, y: seen.update(inputs=x, output=y)),
    ]
    traces = trace_queries(model, BATCH)
    for hook in hooks:
        hook.remove()
    _, _, memory, shapes, padding = seen["inputs"]
    locations = torch.stack([trace.locations for trace in traces])
    weights = torch.stack([trace.weights for trace in traces])
    assert weights.shape == (2, Q, HEADS, len(shapes), POINTS) and locations.shape == (*weights.shape, 2)
    torch.testing.assert_close(weights.sum((3, 4)), torch.ones(2, Q, HEADS))
    assert padding.any(1).all() and (seen["valid"] < 1).any()
    locations = locations * seen["valid"][:, None, None, :, None]
    with torch.no_grad():
        value = layer.cross_attn.value_proj(memory).masked_fill(padding[..., None], 0)
        value = value.unflatten(-1, (HEADS, -1)).double()
        again = defining_sum(value, locations.double(), weights.double(), shapes)
        again = layer.cross_attn.output_proj(again.float())
    torch.testing.assert_close(again, seen["output"], atol=1e-5, rtol=1e-4)


def test_points_without_offset_lie_at_the_center_of_the_box(model):
    attention = copy.deepcopy(model.transformer.decoder.layers[-1].cross_attn)
    try:
        with torch.no_grad():
            model.transformer.decoder.layers[-1].cross_attn.sampling_offsets.weight.zero_()
            model.transformer.decoder.layers[-1].cross_attn.sampling_offsets.bias.zero_()
        for queries in trace_queries(model, BATCH):
            centers = queries.boxes[D - 1, :, None, None, None, :2].expand_as(queries.locations)
            torch.testing.assert_close(queries.locations, centers)
    finally:
        model.transformer.decoder.layers[-1].cross_attn = attention


def test_collecting_leaves_no_hook_and_changes_no_output(model):
    with torch.no_grad():
        (before,) = model(BATCH[:1])
        trace_queries(model, BATCH)
        with pytest.raises(UserError):
            trace_queries(model, [{"image": BATCH[0]["image"]}])  # no infrared
        (after,) = model(BATCH[:1])
    assert before["instances"].scores.equal(after["instances"].scores)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_best_queries_come_first():
    scores = torch.tensor([[0.1, 0.2], [0.9, 0.3], [0.4, 0.6], [0.6, 0.1]])
    every = Trace(scores, torch.rand(3, 4, 4), torch.rand(4, 1, 2, 1, 2), torch.rand(4, 1, 2, 1))
    best = every.best(2, 0.5)
    assert best.scores.equal(scores[[1, 2]]) and best.boxes.equal(every.boxes[:, [1, 2]])
    assert best.locations.equal(every.locations[[1, 2]]) and best.weights.equal(every.weights[[1, 2]])
    assert len(every.best(9, 0.5).scores) == 3 and len(every.best(9, 0.95).scores) == 0
