"""Pictures of queries, and the tool that draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from helpers.queries import BATCH, MODELS
from helpers.tiny import detector as faster_rcnn
from helpers.tools import load_tool
from PIL import Image

from ivtuning.config import load_config
from ivtuning.errors import UserError
from ivtuning.heads.dino.trace import Trace, trace_queries
from ivtuning.predictor import predictor
from ivtuning.visualization.painters import LabelPainter, QueryPainter
from ivtuning.visualization.panels import color
from ivtuning.visualization.query_pictures import draw_queries, ramp

CONFIG = "configs/synthetic/dino_ivtuning.py"


@pytest.fixture(scope="module")
def tool():
    return load_tool("visualize")


GRAY = np.full(
    (200, 600, 3), 90, np.uint8
)  # the size of a panel, which stands below a caption of height STRIP
STRIP, GAP = 32, 4


def one_query() -> Trace:
    """A query that two layers move to the right; one head, one map, four points, one of them outside."""
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
    picture = draw_queries(GRAY, GRAY // 2, every, one, ["person", "car"]).picture()
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
        for x, y in ((120, 100), (540, 180)):  # positions of both queries, drawn or not
            assert (image[y, x] == 255).all()
    for image in (vis_points, ir_points):
        # The strongest point hides the weaker one at the same position.
        assert tuple(image[150, 300]) == ramp(1.0) and tuple(image[50, 240]) == ramp(0.0)
        assert tuple(image[100, 450]) == color(1) and (image[180, 540] == image[5, 5]).all()


def test_picture_without_queries_above_the_threshold():
    every = one_query()
    picture = draw_queries(GRAY, GRAY, every, every.best(5, threshold=0.95)).picture()
    vis, _, points, _ = panels(picture)
    assert (vis[100, 120] == 255).all() and (points == 90).all()


@pytest.fixture
def weights(tmp_path) -> Path:
    """A checkpoint of the synthetic config's DINO, untrained."""
    torch.manual_seed(0)
    path = tmp_path / "model.pth"
    torch.save({"model": instantiate(load_config(CONFIG).model).state_dict()}, path)
    return path


@pytest.mark.slow
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


@pytest.mark.parametrize("name", MODELS)
def test_pair_without_infrared_is_black(name):
    (queries,) = trace_queries(MODELS[name](), BATCH[:1])
    vis = np.full((64, 96, 3), 90, np.uint8)
    drawing, fields = QueryPainter([], 0.0, 1).draw({}, vis, None, queries)
    picture = drawing.picture()
    assert fields["predictions"] == len(fields["classes"]) == 1
    assert (picture[-STRIP - 9, 5] == 90).all() and (picture[-STRIP - 9, -5] == 0).all()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--queries", "0"], "--queries 0: give at least 1"),
        (["--queries", "3"], "give --weights"),
        (["--queries", "3", "--weights", "w.pth", "--no-predictions"], "not --no-predictions"),
    ],
)
def test_bad_command_lines_are_reported(tool, tmp_path, argv, words):
    with pytest.raises(UserError, match=words):
        tool.main(["--config-file", CONFIG, "--dataset", "x", *argv, "--output", str(tmp_path / "out")])


def test_model_without_decoder_is_reported(tool, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "load_model", lambda *args: faster_rcnn())
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


def test_a_label_map_with_more_classes_than_its_set_is_refused(tmp_path):
    Image.new("L", GRAY.shape[1::-1], 1).save(tmp_path / "a.png")
    labels = {"sem_seg_file_name": str(tmp_path / "a.png"), "label_ids": {0: 0, 1: 1}}
    predicted = np.full(GRAY.shape[:2], 2, np.uint8)
    with pytest.raises(UserError, match="class 2 for a.png, but the set has only 2 classes"):
        LabelPainter(["road", "car"]).draw({"file_name": "a.png"} | labels, GRAY, GRAY, predicted)


def test_queries_on_a_set_of_label_maps_are_reported():
    with pytest.raises(UserError, match="predicts boxes, which cannot be drawn on the dataset of a.png"):
        LabelPainter(["car"]).draw({"file_name": "a.png"}, GRAY, GRAY, one_query())
