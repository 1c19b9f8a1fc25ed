"""Pictures of boxes: what is drawn, where, and in which color."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from helpers.drawings import CLASSES, annotation, count, gray_pair, instances, panels
from PIL import Image, ImageDraw

from ivtuning.errors import UserError
from ivtuning.visualization import boxes
from ivtuning.visualization.boxes import draw_pair
from ivtuning.visualization.panels import GAP, INK, color


def draw(*args, **more) -> np.ndarray:
    return draw_pair(*args, **more).picture()


def test_small_images_are_enlarged_and_panels_show_both_and_their_blend():
    vis, ir = gray_pair(144, 192)
    picture = draw(vis, ir)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 3 * 192 * 3 + 2 * GAP  # 192 px x 3 >= 512 px
    below = picture[-100:]
    wide = 192 * 3 + GAP
    assert [int(below[50, c * wide + 100, 0]) for c in range(3)] == [90, 40, 65]
    assert count(picture[: -144 * 3], INK) > 50  # the caption strip names the panels
    large = draw(*gray_pair(48, 600))
    assert large.shape[1] == 3 * 600 + 2 * GAP


def test_truth_and_predictions_have_a_row_each_with_the_class_color():
    vis, ir = gray_pair()
    truth = [annotation([10, 30, 20, 20], 0)]
    prediction = instances([[40, 30, 70, 50], [5, 5, 9, 9]], [0.9, 0.2], [1, 1])
    both = draw(vis, ir, truth, prediction, CLASSES, threshold=0.5)
    cells = panels(both, rows=2)
    for c in range(3):
        assert count(cells[0, c], color(0)) > 300 and count(cells[0, c], color(1)) == 0
        assert count(cells[1, c], color(1)) > 300 and count(cells[1, c], color(0)) == 0
    # the outline lies on the box: its upper side, 30 px down, enlarged 7 times
    assert (cells[0, 0][30 * 7, 20 * 7] == color(0)).all()
    assert (cells[1, 1][50 * 7, 60 * 7] == color(1)).all()
    # what scores below the threshold is left out
    lower = panels(draw(vis, ir, truth, prediction, CLASSES, threshold=0.1), rows=2)
    assert count(lower[1, 0][:20, :], color(1)) or count(lower[1, 0][35:64, 35:64], color(1))
    assert count(cells[1, 0][:64, :64], color(1)) == 0
    assert draw(vis, ir, truth).shape[0] < both.shape[0]


def test_scores_and_names_are_written(monkeypatch):
    texts = []
    monkeypatch.setattr(boxes, "draw_label", lambda pen, box, text, *rest: texts.append(text) or True)
    prediction = instances([[0, 0, 9, 9], [40, 30, 70, 50]], [0.3, 0.873], [5, 1])
    draw(*gray_pair(), [annotation([1, 1, 5, 5], 0, iscrowd=1)], prediction, CLASSES)
    assert texts == ["person (crowd)"] * 3 + ["car 0.87", "class 5 0.30"] * 3  # best first


@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_objects_of_one_modality_are_dashed(modality):
    def side(**more):  # lower side of the box, outside the label
        picture = draw(*gray_pair(), [annotation([10, 20, 60, 30], 0, **more)], None, CLASSES)
        return (panels(picture, rows=1)[0, 0][50 * 7, 80:480] == color(0)).all(-1)

    whole, flagged, dashed = side(), side(modality="both"), side(modality=modality)
    assert whole.all() and flagged.all()
    assert 0.3 < dashed.mean() < 0.7
    assert (np.diff(dashed.astype(int)) == 1).sum() >= 4  # several dashes


def test_masks_tint_their_object_only():
    polygon = [[20, 10, 60, 10, 60, 50, 20, 50]]
    rle = {"size": [60, 80], "counts": [0, 60 * 40, 60 * 40]}  # left half, column by column
    for segmentation, inside, outside in ((polygon, (30, 40), (55, 70)), (rle, (30, 20), (30, 70))):
        truth = [annotation([0, 0, 79, 59], 0, segmentation=segmentation)]
        cell = panels(draw(*gray_pair(), truth, None, CLASSES), rows=1)[0, 0]
        tinted, plain = (cell[y * 7, x * 7].astype(int) for y, x in (inside, outside))
        assert (plain == 90).all()
        assert tinted[0] > 120 and tinted[2] < 90  # toward amber
    prediction = instances([[0, 0, 79, 59]], [0.9], [0])
    prediction.pred_masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    prediction.pred_masks[0, 20:40, 20:40] = True
    cell = panels(draw(*gray_pair(), None, prediction, CLASSES), rows=1)[0, 0]
    assert cell[30 * 7, 30 * 7, 0] > 110 and (cell[50 * 7, 30 * 7] == 90).all()


def test_labels_avoid_each_other():
    pen = types.SimpleNamespace(
        textlength=lambda *a: 40, rectangle=lambda *a, **k: None, text=lambda *a, **k: None
    )
    taken, font = [], types.SimpleNamespace(size=16)
    for box in ([30, 60, 90, 100], [32, 60, 92, 100], [34, 62, 94, 102]):
        boxes.draw_label(pen, box, "person", color(0), font, (200, 200), taken)
    assert all(
        not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
        for i, a in enumerate(taken)
        for b in taken[:i]
    )
    boxes.draw_label(pen, [180, 1, 199, 20], "person", color(0), font, (200, 200), taken)
    assert taken[-1][0] >= 0 and taken[-1][2] <= 200 and taken[-1][1] >= 0  # stays on the picture


def crowd(labels: str) -> list[str]:
    """The labels of a lone box and of five in one place, best first."""
    texts = []
    boxes_ = [[10, 50, 14, 54], *[[50 + k, 20, 56 + k, 26] for k in range(5)]]
    prediction = instances(boxes_, [0.95, 0.9, 0.8, 0.7, 0.6, 0.5], [0, 1, 1, 1, 1, 1])
    pen_text = ImageDraw.ImageDraw.text

    def text(pen, place, words, *rest, **more):
        texts.append(words)
        return pen_text(pen, place, words, *rest, **more)

    image = Image.new("RGB", (560, 420))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", text)
        objects = boxes.from_instances(prediction)
        boxes.draw_objects(image, objects, CLASSES, 7, boxes.caption_font(560), labels)
    return texts


def test_labels_in_a_crowd_give_way():
    scores = ["person 0.95", *(f"car 0.{k}0" for k in (9, 8, 7, 6, 5))]
    assert crowd("all") == scores
    assert crowd("class") == ["person"] + ["car"] * 5
    assert crowd("none") == []
    fitting = crowd("auto")
    assert fitting[:3] == scores[:3] and 3 <= len(fitting) < 6
    assert set(fitting) <= {*scores, "car"}


def test_nothing_detected_and_no_objects_are_pictures_too():
    nothing = instances([], [], [])
    picture = draw(*gray_pair(), [], nothing, CLASSES)
    assert picture.shape[0] > 2 * 60 * 7


def test_sizes_that_differ_are_reported():
    with pytest.raises(UserError, match="80x60 but infrared 40x60"):
        draw(gray_pair()[0], np.zeros((60, 40), np.uint8))
