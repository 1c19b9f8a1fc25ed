"""Pictures of a pair: what is drawn, where, and in which color."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from helpers.drawings import CLASSES, annotation, instances
from PIL import Image

from ivtuning.errors import UserError
from ivtuning.visualization import boxes as drawing
from ivtuning.visualization.boxes import color, draw_pair
from ivtuning.visualization.label_maps import IGNORED, WRONG, caption, draw_label_maps, palette
from ivtuning.visualization.panels import GAP, INK, Panel, lay_out


def gray_pair(height=60, width=80):
    return np.full((height, width, 3), 90, np.uint8), np.full((height, width), 40, np.uint8)


def panels(picture, rows, scale=7, width=80, height=60):
    """{(row, column): (height*scale, width*scale, 3)} below each row's caption strip."""
    wide, tall = width * scale, height * scale
    footer_and_strips = picture.shape[0] - rows * tall
    strip = footer_and_strips // (rows + 1)
    return {
        (r, c): picture[(r + 1) * strip + r * tall :][:tall, c * (wide + GAP) :][:, :wide]
        for r in range(rows)
        for c in range(3)
    }


def count(region, rgb):
    return int((region == np.array(rgb)).all(-1).sum())


def test_small_images_are_enlarged_and_panels_show_both_and_their_blend():
    vis, ir = gray_pair(144, 192)
    picture = draw_pair(vis, ir)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 3 * 192 * 3 + 2 * GAP  # 192 px x 3 >= 512 px
    below = picture[-100:]
    wide = 192 * 3 + GAP
    assert [int(below[50, c * wide + 100, 0]) for c in range(3)] == [90, 40, 65]
    assert count(picture[: -144 * 3], INK) > 50  # the caption strip names the panels
    large = draw_pair(*gray_pair(48, 600))
    assert large.shape[1] == 3 * 600 + 2 * GAP


def test_truth_and_predictions_have_a_row_each_with_the_class_color():
    vis, ir = gray_pair()
    truth = [annotation([10, 30, 20, 20], 0)]
    found = instances([[40, 30, 70, 50], [5, 5, 9, 9]], [0.9, 0.2], [1, 1])
    both = draw_pair(vis, ir, truth, found, CLASSES, threshold=0.5)
    cells = panels(both, rows=2)
    for c in range(3):
        assert count(cells[0, c], color(0)) > 300 and count(cells[0, c], color(1)) == 0
        assert count(cells[1, c], color(1)) > 300 and count(cells[1, c], color(0)) == 0
    # the outline lies on the box: its upper side, 30 px down, enlarged 7 times
    assert (cells[0, 0][30 * 7, 20 * 7] == color(0)).all()
    assert (cells[1, 1][50 * 7, 60 * 7] == color(1)).all()
    # what scores below the threshold is left out
    lower = panels(draw_pair(vis, ir, truth, found, CLASSES, threshold=0.1), rows=2)
    assert count(lower[1, 0][:20, :], color(1)) or count(lower[1, 0][35:64, 35:64], color(1))
    assert count(cells[1, 0][:64, :64], color(1)) == 0
    assert draw_pair(vis, ir, truth).shape[0] < both.shape[0]


def test_scores_and_names_are_written(monkeypatch):
    texts = []
    monkeypatch.setattr(drawing, "_label", lambda pen, box, text, *rest: texts.append(text))
    found = instances([[0, 0, 9, 9], [40, 30, 70, 50]], [0.3, 0.873], [5, 1])
    draw_pair(*gray_pair(), [annotation([1, 1, 5, 5], 0, iscrowd=1)], found, CLASSES)
    assert texts == ["person (crowd)"] * 3 + ["car 0.87", "class 5 0.30"] * 3  # best first


@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_objects_of_one_modality_are_dashed(modality):
    def side(**more):  # lower side of the box, outside the label
        picture = draw_pair(*gray_pair(), [annotation([10, 20, 60, 30], 0, **more)], None, CLASSES)
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
        cell = panels(draw_pair(*gray_pair(), truth, None, CLASSES), rows=1)[0, 0]
        tinted, plain = (cell[y * 7, x * 7].astype(int) for y, x in (inside, outside))
        assert (plain == 90).all()
        assert tinted[0] > 120 and tinted[2] < 90  # toward amber
    found = instances([[0, 0, 79, 59]], [0.9], [0])
    found.pred_masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    found.pred_masks[0, 20:40, 20:40] = True
    cell = panels(draw_pair(*gray_pair(), None, found, CLASSES), rows=1)[0, 0]
    assert cell[30 * 7, 30 * 7, 0] > 110 and (cell[50 * 7, 30 * 7] == 90).all()


def test_labels_avoid_each_other():
    pen = types.SimpleNamespace(
        textlength=lambda *a: 40, rectangle=lambda *a, **k: None, text=lambda *a, **k: None
    )
    taken, font = [], types.SimpleNamespace(size=16)
    for box in ([30, 60, 90, 100], [32, 60, 92, 100], [34, 62, 94, 102]):
        drawing._label(pen, box, "person", color(0), font, (200, 200), taken)
    assert all(drawing._overlap(a, b) == 0 for i, a in enumerate(taken) for b in taken[:i])
    drawing._label(pen, [180, 1, 199, 20], "person", color(0), font, (200, 200), taken)
    assert taken[-1][0] >= 0 and taken[-1][2] <= 200 and taken[-1][1] >= 0  # stays on the picture


def test_nothing_found_and_no_objects_are_pictures_too():
    nothing = instances([], [], [])
    picture = draw_pair(*gray_pair(), [], nothing, CLASSES)
    assert picture.shape[0] > 2 * 60 * 7


def test_colors_are_distinct():
    colors = np.array([color(k) for k in range(24)], dtype=float)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1e9 * np.eye(24)
    assert apart.min() > 20 and apart[:10, :10].min() > 60


def test_sizes_that_differ_are_told():
    with pytest.raises(UserError, match="80x60 but infrared 40x60"):
        draw_pair(gray_pair()[0], np.zeros((60, 40), np.uint8))


# --------------------------------------------------------------------------------------------- label maps

PLACES = ["ground", "car", "person"]
PAINT = [[0, 0, 0], [64, 0, 128], [0, 128, 192]]


def label_maps():
    """A car and an ignored strip; the prediction has half of the car as a person, and moves nothing else."""
    truth = np.zeros((60, 80), np.uint8)
    truth[20:40, 20:60] = 1
    truth[50:] = 255
    found = truth.copy()
    found[20:40, 40:60] = 2
    found[50:] = 1
    return truth, found


def pair(height=60, width=80):
    return [np.full((height, width, 3), value, np.uint8) for value in (90, 40)]


def at(cell, y, x, scale=7):
    return cell[y * scale + 3, x * scale + 3].tolist()


def test_label_maps_lie_over_both_images_and_errors_beside():
    truth, found = label_maps()
    cells = panels(draw_label_maps(*pair(), truth, found, PLACES, PAINT), rows=2)
    for c, gray in ((0, 90), (1, 40)):
        assert at(cells[0, c], 10, 10) == [gray] * 3  # black ground leaves the image as it is
        assert at(cells[0, c], 30, 30) == [round(gray + 0.55 * (v - gray)) for v in PAINT[1]]
        assert at(cells[0, c], 30, 50) == at(cells[0, c], 30, 30)
        assert at(cells[1, c], 30, 50) == [round(gray + 0.55 * (v - gray)) for v in PAINT[2]]
        outline = cells[0, c][20 * 7, 30 * 7]
        assert (outline > at(cells[0, c], 30, 30)).all() and outline.min() > gray
    assert [at(cells[0, 2], *p) for p in ((10, 10), (30, 30), (55, 10))] == [*PAINT[:2], list(IGNORED)]
    errors = cells[1, 2]
    assert at(errors, 30, 50) == list(WRONG) and at(errors, 55, 10) == list(IGNORED)
    assert at(errors, 10, 10) == at(errors, 30, 30) == [40] * 3  # right: the image, dimmed
    assert count(errors, WRONG) == 20 * 20 * 49


def test_pairs_caption_has_accuracy_and_mean_iou():
    truth, found = label_maps()
    # 4000 pixels count, 400 are wrong; ground 3200/3200, car 400/800, person is not in the truth
    assert caption(truth, found, 3) == caption(truth, found, 0) == "pixel accuracy 90.0, mIoU 75.0"


def test_legend_names_what_is_shown(monkeypatch):
    seen = {}

    def remember(rows, legend=(), remark=""):
        seen.update(legend=dict(legend), titles=[[(p.name, p.title) for p in row] for row in rows])
        return lay_out(rows, legend, remark)

    monkeypatch.setattr("ivtuning.visualization.label_maps.lay_out", remember)
    truth, found = label_maps()
    draw_label_maps(*pair(), truth, found, PLACES, PAINT)
    assert list(seen["legend"]) == [*PLACES, "wrong", "ignored"]
    assert seen["legend"]["car"] == (64, 0, 128)
    score = "prediction · pixel accuracy 90.0, mIoU 75.0"
    assert seen["titles"] == [
        [("visible", "ground truth"), ("infrared", "ground truth"), ("label map", "2 classes")],
        [("visible", score), ("infrared", score), ("errors", "10.0 % of the pixels")],
    ]
    draw_label_maps(*pair(), None, {"full": found, "tuned": truth}, PLACES[:1])
    assert list(seen["legend"]) == ["ground", "class 1", "class 2", "ignored"]
    assert seen["legend"]["class 2"] == color(2)
    assert [row[2] for row in seen["titles"]] == [("label map", "3 classes"), ("label map", "2 classes")]
    draw_label_maps(pair()[0], None, truth, None, PLACES, PAINT)  # a visible-only set
    assert [name for name, _ in seen["titles"][0]] == ["visible", "label map"]
    draw_label_maps(*pair())
    assert seen["titles"] == [[("visible", ""), ("infrared", "")]] and not seen["legend"]


def test_long_legends_take_more_lines():
    panel = Panel(Image.new("RGB", (512, 100)), "visible")
    one, three = (lay_out([[panel]], [(f"a class called {i}", color(i)) for i in range(n)]) for n in (3, 9))
    strip = (one.shape[0] - 100) // 2
    assert three.shape[0] == 100 + 4 * strip
    for i in range(9):
        assert count(three[100 + strip :], color(i)) > 80, i


def test_palette_has_a_color_for_every_label():
    table = palette(PAINT)
    assert table.shape == (256, 3) and table[:3].tolist() == PAINT and tuple(table[255]) == IGNORED
    assert tuple(table[7]) == color(7)


def test_label_maps_of_another_size_are_told():
    truth, found = label_maps()
    with pytest.raises(UserError, match="prediction is 40x60 but the image 80x60"):
        draw_label_maps(*pair(), truth, found[:, :40], PLACES, PAINT)
