"""Pictures of label maps: what is drawn, where, and in which color."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.drawings import count, panels

from ivtuning.data.datasets.segmentation_layouts import KNOWN
from ivtuning.errors import UserError
from ivtuning.visualization.colors import NEAR, distances
from ivtuning.visualization.label_maps import IGNORED, WRONG, caption, draw_label_maps, palette
from ivtuning.visualization.panels import color

PLACES = ["ground", "car", "person"]
PAINT = [[0, 0, 0], [64, 0, 128], [0, 128, 192]]


def label_maps():
    """A car and an ignored strip; the prediction has half of the car as a person, and moves nothing else."""
    truth = np.zeros((60, 80), np.uint8)
    truth[20:40, 20:60] = 1
    truth[50:] = 255
    prediction = truth.copy()
    prediction[20:40, 40:60] = 2
    prediction[50:] = 1
    return truth, prediction


def pair(height=60, width=80):
    return [np.full((height, width, 3), value, np.uint8) for value in (90, 40)]


def at(cell, y, x, scale=7):
    return cell[y * scale + 3, x * scale + 3].tolist()


def test_label_maps_lie_over_both_images_and_errors_beside():
    truth, prediction = label_maps()
    cells = panels(draw_label_maps(*pair(), truth, prediction, PLACES, PAINT).picture(), rows=2)
    for c, gray in ((0, 90), (1, 40)):
        assert at(cells[0, c], 10, 10) == [gray] * 3  # black ground leaves the image as it is
        assert at(cells[0, c], 30, 30) == [round(gray + 0.55 * (v - gray)) for v in PAINT[1]]
        assert at(cells[0, c], 30, 50) == at(cells[0, c], 30, 30)
        assert at(cells[1, c], 30, 50) == [round(gray + 0.55 * (v - gray)) for v in PAINT[2]]
        outline = cells[0, c][20 * 7, 30 * 7]
        assert (outline > at(cells[0, c], 30, 30)).all() and outline.min() > gray
    assert [at(cells[0, 2], *p) for p in ((10, 10), (30, 30), (55, 10))] == [*PAINT[:2], list(IGNORED)]
    assert [at(cells[1, 2], *p) for p in ((10, 10), (30, 30), (30, 50))] == PAINT
    errors = cells[1, 3]
    assert at(errors, 30, 50) == list(WRONG) and at(errors, 55, 10) == list(IGNORED)
    assert at(errors, 10, 10) == at(errors, 30, 30) == [40] * 3  # right: the image, dimmed
    assert count(errors, WRONG) == 20 * 20 * 49


def test_pairs_caption_has_accuracy_and_mean_iou():
    truth, prediction = label_maps()
    # 4000 pixels count, 400 are wrong; ground 3200/3200, car 400/800, person is not in the truth
    assert caption(truth, prediction, 3) == caption(truth, prediction, 0) == "pixel accuracy 90.0, mIoU 75.0"


def test_legend_names_what_is_shown():
    def shown(*args):
        drawing = draw_label_maps(*args)
        return dict(drawing.legend), [[(p.name, p.title) for p in row] for row in drawing.rows]

    truth, prediction = label_maps()
    legend, titles = shown(*pair(), truth, prediction, PLACES, PAINT)
    assert list(legend) == [*PLACES, "wrong", "ignored"]
    assert legend["car"] == (64, 0, 128)
    score = "prediction · pixel accuracy 90.0, mIoU 75.0"
    assert titles == [
        [("visible", "ground truth"), ("infrared", "ground truth"), ("label map", "2 classes")],
        [
            ("visible", score),
            ("infrared", score),
            ("label map", "3 classes"),
            ("errors", "10.0 % of the pixels"),
        ],
    ]
    legend, titles = shown(*pair(), None, {"full": prediction, "tuned": truth}, PLACES[:1])
    assert list(legend) == ["ground", "class 1", "class 2", "ignored"]
    assert legend["class 2"] == color(2)
    assert [row[2] for row in titles] == [("label map", "3 classes"), ("label map", "2 classes")]
    _, titles = shown(pair()[0], None, truth, None, PLACES, PAINT)  # a visible-only set
    assert [name for name, _ in titles[0]] == ["visible", "label map"]
    legend, titles = shown(*pair())
    assert titles == [[("visible", ""), ("infrared", "")]] and not legend


def test_maps_of_salient_objects_are_gray():
    truth = np.zeros((60, 80), np.uint8)
    truth[20:40, 20:60] = 1
    found = np.full((60, 80), 0.2, np.float32)
    found[20:40, 20:60] = 0.8
    drawing = draw_label_maps(*pair(), truth, found, ["background", "salient object"])
    # No pixel is wrong. A map is stretched to 0..1 before it is measured.
    score = "prediction · S 100.0, MAE 0.0"
    assert caption(truth, found, 2) == score.partition(" · ")[2]
    assert [(panel.name, panel.title) for panel in drawing.rows[1]] == [
        ("visible", score),
        ("infrared", score),
        ("saliency map", "16.7 % salient"),
        ("errors", "0.0 % of the pixels"),
    ]
    cells = panels(drawing.picture(), rows=2)
    assert at(cells[1, 2], 30, 40) == [204] * 3 and at(cells[1, 2], 5, 5) == [51] * 3
    assert at(cells[1, 0], 30, 40) == at(cells[0, 0], 30, 40)


def test_palette_has_a_color_for_every_label():
    table = palette(PAINT)
    assert table.shape == (256, 3) and table[:3].tolist() == PAINT and tuple(table[255]) == IGNORED
    assert tuple(table[7]) == color(7)


def test_pictures_tell_apart_what_a_release_paints_alike():
    """MSRS has two pairs of near colors; the second of each changes, in pictures alone."""
    release = list(KNOWN["msrs"].classes.values())
    names = list(KNOWN["msrs"].classes)
    shown = [tuple(rgb) for rgb in palette(release)[: len(release)].tolist()]
    changed = [name for name, a, b in zip(names, release, shown, strict=True) if a != b]
    assert changed == ["car_stop", "guardrail"] and shown[0] == (0, 0, 0)
    apart = distances(shown) + 1e9 * np.eye(len(shown))
    assert distances(release)[2, 5] < NEAR < apart.min()
    assert [c["color"] for c in KNOWN["msrs"].categories] == [list(rgb) for rgb in release]


def test_palettes_too_large_to_tell_apart_stay():
    release = list(KNOWN["ade20k"].classes.values())
    assert palette(release)[:150].tolist() == [list(rgb) for rgb in release]


def test_label_maps_of_another_size_are_reported():
    truth, prediction = label_maps()
    with pytest.raises(UserError, match="prediction is 40x60 but the image 80x60"):
        draw_label_maps(*pair(), truth, prediction[:, :40], PLACES, PAINT)
