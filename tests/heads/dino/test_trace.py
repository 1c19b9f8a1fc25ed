"""What queries do: against the model's own output, the definition of the attention, and as pictures."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from helpers.attention import defining_sum
from helpers.tiny import detector as faster_rcnn
from helpers.tiny import sample, swin, vitdet
from helpers.tools import load_tool
from PIL import Image

from ivtuning.config import load_config
from ivtuning.errors import UserError
from ivtuning.heads.dino import PairedDINO, Transformer
from ivtuning.heads.dino.boxes import inverse_sigmoid, to_corners
from ivtuning.heads.dino.trace import Trace, collect
from ivtuning.necks.feature_pyramid import SimpleFeaturePyramid
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.visualization import gallery
from ivtuning.visualization.gallery import QueryPainter
from ivtuning.visualization.panels import color
from ivtuning.visualization.query_pictures import draw_queries, ramp

K, D, HEADS, POINTS, Q = 4, 3, 4, 2, 12


@pytest.fixture(scope="module")
def tool():
    return load_tool("visualize")


def build(backbone, levels: int) -> PairedDINO:
    """A small detector whose every part does something."""
    torch.manual_seed(0)
    model = PairedDINO(
        backbone=backbone,
        transformer=Transformer(
            K,
            dim=32,
            heads=HEADS,
            hidden=48,
            encoder_layers=1,
            decoder_layers=D,
            levels=levels,
            points=POINTS,
            num_queries=Q,
        ),
        num_classes=K,
        pixel_mean=[110.0] * 6,
        pixel_std=[55.0] * 6,
    )
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def on_swin(stages: tuple[int, ...], levels: int) -> PairedDINO:
    net = swin(depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4), out_indices=stages)
    return build(MultiScale(net, size_divisibility=1), levels)


MODELS = {
    "pyramid of a ViT": lambda: build(
        SimpleFeaturePyramid(vitdet(), out_channels=16, scale_factors=(1.0, 0.5)), 3
    ),
    "Swin, 4 scales": lambda: on_swin((1, 2, 3), 4),
    "Swin, 5 scales": lambda: on_swin((0, 1, 2, 3), 5),
}
# Two sizes, so that both images have padding.
BATCH = [sample(64, 96), {**sample(80, 56, seed=1), "height": 160, "width": 112}]


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> PairedDINO:
    return MODELS[request.param]()


def test_last_boxes_are_the_detections(model):
    with torch.no_grad():
        detected = model(BATCH)
    for queries, output, x in zip(collect(model, BATCH), detected, BATCH, strict=True):
        assert queries.boxes.shape == (D + 1, Q, 4) and queries.scores.shape == (Q, K)
        found = output["instances"]
        assert len(found) == Q * K  # all pairs of a query and a class
        size = torch.tensor([x["width"], x["height"]] * 2)
        boxes = (to_corners(queries.boxes[-1]) * size).clamp(torch.zeros(4), size)
        for score, category, box in zip(
            found.scores, found.pred_classes, found.pred_boxes.tensor, strict=True
        ):
            (query,) = (queries.scores[:, category] == score).nonzero()[:, 0]
            torch.testing.assert_close(boxes[query], box, atol=1e-3, rtol=0)


def test_boxes_are_those_that_the_layers_look_around(model):
    decoder, outputs = model.transformer.decoder, []
    hooks = [layer.register_forward_hook(lambda *call: outputs.append(call[-1])) for layer in decoder.layers]
    found = collect(model, BATCH)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        _, selection = model.predict(model.preprocess_image(BATCH))
        shifts = [decoder.bbox_embed[0](x) for x in outputs]
    for i, queries in enumerate(found):
        box = selection.boxes[0, i]
        for d in range(D):
            torch.testing.assert_close(queries.boxes[d], box, atol=1e-6, rtol=1e-5)
            box = (shifts[d][i] + inverse_sigmoid(box)).sigmoid()


def test_points_and_weights_are_those_of_the_attention(model):
    """The attention's output, once more, pixel by pixel from what was collected."""
    layer, seen = model.transformer.decoder.layers[-1], {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x: seen.update(valid=x[4].valid)),
        layer.cross_attn.register_forward_hook(lambda _, x, y: seen.update(inputs=x, output=y)),
    ]
    found = collect(model, BATCH)
    for hook in hooks:
        hook.remove()
    _, _, memory, shapes, padding = seen["inputs"]
    locations, weights = (torch.stack([getattr(q, name) for q in found]) for name in ("locations", "weights"))
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
        for queries in collect(model, BATCH):
            centers = queries.boxes[D - 1, :, None, None, None, :2].expand_as(queries.locations)
            torch.testing.assert_close(queries.locations, centers)
    finally:
        model.transformer.decoder.layers[-1].cross_attn = attention


def test_collecting_leaves_no_hook_and_changes_no_output(model):
    with torch.no_grad():
        (before,) = model(BATCH[:1])
        collect(model, BATCH)
        with pytest.raises(UserError):
            collect(model, [{"image": BATCH[0]["image"]}])  # no infrared
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


# -------------------------------------------------------------------------------------------- pictures

GRAY = np.full((200, 600, 3), 90, np.uint8)  # a panel as large, below a caption of STRIP
STRIP, GAP = 32, 4


def one_query() -> Trace:
    """It moves to the right through two layers; one head, one map, four points, one of them outside."""
    boxes = torch.tensor([[0.2, 0.5, 0.1, 0.4], [0.4, 0.5, 0.1, 0.4], [0.8, 0.5, 0.1, 0.4]])[:, None]
    locations = torch.tensor([[0.4, 0.25], [0.5, 0.75], [0.5, 0.75], [1.5, 0.5]])
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0])
    return Trace(torch.tensor([[0.1, 0.9]]), boxes, locations.view(1, 1, 1, 4, 2), weights.view(1, 1, 1, 4))


def panels(picture: np.ndarray) -> list[np.ndarray]:
    """The four images of a picture, row by row."""
    return [
        picture[top + STRIP : top + STRIP + 200, left : left + 600]
        for top in (0, 200 + STRIP)
        for left in (0, 600 + GAP)
    ]


def test_picture_shows_boxes_dots_and_points_on_both_images():
    one = one_query()
    every = Trace(*(torch.cat([t, t], d) for t, d in zip(one, (0, 1, 0, 0), strict=True)))
    every.boxes[0, 1, :2] = torch.tensor([0.9, 0.9])
    picture = draw_queries(GRAY, GRAY // 2, every, one, ["person", "car"])
    assert picture.dtype == np.uint8 and picture.shape == (2 * (200 + STRIP) + STRIP, 1200 + GAP, 3)
    vis, ir, vis_points, ir_points = panels(picture)
    assert (vis[5, 5] == 90).all() and (ir[5, 5] == 45).all()
    for image in (vis, ir):
        # Left edges of the three boxes, at half height: the same hue, ever brighter, thin to thick.
        edges = [(image[100, x - 4 : x + 5] * [1, 1, 0]).sum(1) for x in (90, 210, 450)]
        assert [int(edge.max()) for edge in edges] == sorted(edge.max() for edge in edges)
        assert edges[0].max() < edges[-1].max() == sum(color(1)[:2])
        widths = [(image[100, x - 4 : x + 5] == image[100, x]).all(1).sum() for x in (90, 210, 450)]
        assert widths == sorted(widths) and widths[0] == 1 and widths[-1] > 1
        for x, y in ((120, 100), (540, 180)):  # places of both queries, drawn or not
            assert (image[y, x] == 255).all()
    for image in (vis_points, ir_points):
        # The strongest point hides the weaker one in its place.
        assert tuple(image[150, 300]) == ramp(1.0) and tuple(image[50, 240]) == ramp(0.0)
        assert tuple(image[100, 450]) == color(1) and (image[180, 540] == image[5, 5]).all()


def test_picture_without_queries_above_the_threshold():
    every = one_query()
    picture = draw_queries(GRAY, GRAY, every, every.best(5, threshold=0.95))
    vis, _, points, _ = panels(picture)
    assert (vis[100, 120] == 255).all() and (points == 90).all()


@pytest.fixture
def weights(tmp_path) -> Path:
    """A checkpoint of the synthetic config's DINO, untrained."""
    torch.manual_seed(0)
    path = tmp_path / "model.pth"
    torch.save({"model": instantiate(load_config(CONFIG).model).state_dict()}, path)
    return path


CONFIG = "configs/synthetic/dino_ivtuning.py"


def test_tool_draws_queries(tool, pairs, weights, tmp_path, capsys):
    argv = ["--config-file", CONFIG, "--weights", str(weights), "--dataset", "synthetic_val", "--limit", "2"]
    for out in ("a", "b"):
        tool.main([*argv, "--queries", "3", "--threshold", "0", "--output", str(tmp_path / out)])
    assert "wrote 2 pictures" in capsys.readouterr().out
    html = (tmp_path / "a" / "index.html").read_text()
    for piece in ("3 predicted", "queries</dt><dd>at most 3 of a pair", "threshold</dt><dd>0<"):
        assert piece in html, piece
    pictures = sorted((tmp_path / "a").glob("*.png"))
    assert len(pictures) == 2
    for path in pictures:
        assert Image.open(path).size[0] == 2 * 576 + GAP
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_pair_without_infrared_is_black(model):
    (queries,) = collect(model, BATCH[:1])
    vis = np.full((64, 96, 3), 90, np.uint8)
    picture, fields = QueryPainter([], 0.0, 1).draw({}, vis, None, queries)
    assert fields == {"predictions": 1}
    assert (picture[-STRIP - 9, 5] == 90).all() and (picture[-STRIP - 9, -5] == 0).all()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--queries", "0"], "--queries 0: give at least 1"),
        (["--queries", "3"], "give --weights"),
        (["--queries", "3", "--weights", "w.pth", "--no-predictions"], "not --no-predictions"),
    ],
)
def test_bad_command_lines_are_told(tool, tmp_path, argv, words):
    with pytest.raises(UserError, match=words):
        tool.main(["--config-file", CONFIG, "--dataset", "x", *argv, "--output", str(tmp_path / "out")])


def test_model_without_decoder_is_told(tool, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "load_model", lambda *args: faster_rcnn())
    argv = [
        "--config-file",
        "configs/synthetic/ivtuning.py",
        "--weights",
        "w.pth",
        "--dataset",
        "synthetic_val",
    ]
    with pytest.raises(UserError, match="PairedRCNN has no queries to show.*dino_ivtuning.py"):
        tool.main([*argv, "--queries", "3", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_queries_on_a_set_of_label_maps_are_told():
    with pytest.raises(UserError, match="predicts boxes, which cannot be drawn on the dataset of a.png"):
        gallery.LabelPainter(["car"]).draw({"file_name": "a.png"}, GRAY, GRAY, one_query())
