"""Oriented boxes of a JSON: both forms, conventions of angles, and labels that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from helpers.oriented import boxes_like, corner_distance

from ivtuning.data.datasets.detection import read_json
from ivtuning.errors import UserError
from ivtuning.oriented.boxes import CONVENTIONS, corners, from_detectron2

BOXES = boxes_like(40, seed=0)


def content(bboxes, convention=None) -> dict:
    image = {"id": 1, "file_name": "v.png", "ir_file_name": "i.png", "height": 100, "width": 100}
    annotations = [{"id": i, "image_id": 1, "category_id": 1, "bbox": bbox} for i, bbox in enumerate(bboxes)]
    info = {} if convention is None else {"angle_convention": convention}
    categories = [{"id": 1, "name": "car"}]
    return {"info": info, "images": [image], "annotations": annotations, "categories": categories}


def boxes_of(name: str) -> torch.Tensor:
    annotations = DatasetCatalog.get(name)[0]["annotations"]
    assert {a["bbox_mode"] for a in annotations} == {BoxMode.XYWHA_ABS}
    return torch.tensor([a["bbox"] for a in annotations], dtype=torch.float64)


@pytest.mark.parametrize("convention", [None, "detectron2", *CONVENTIONS])
def test_all_conventions_mean_the_same_boxes(register, convention):
    written = from_detectron2(BOXES, convention or "detectron2").tolist()
    found = boxes_of(register(content(written, convention)))
    assert corner_distance(found, BOXES) < 1e-9
    assert (found[:, 2] >= found[:, 3]).all() and found[:, 4].min() >= -90 and found[:, 4].max() < 90


def test_four_corners(register):
    written = [np.roll(box, i, 0).ravel().tolist() for i, box in enumerate(corners(BOXES).numpy())]
    assert corner_distance(boxes_of(register(content(written))), BOXES) < 1e-3


SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]
FAULTS = [
    ([[50, 50, 20, -10, 0]], None, "annotation 1 of v.png: bbox is .*not negative, or oriented"),
    ([[10, 10, 20, 10, 30, 30]], None, "annotation 1 of v.png: bbox is .*four corners"),
    ([[50, 50, 20, float("nan"), 0]], None, "annotation 1 of v.png: bbox is"),
    ([[10, 10, 30, 20, 30, 10, 10, 20]], None, "annotation 1 of v.png: bbox crosses itself"),
    ([[10, 10, 30, 10, 30, 20, 30, 20]], None, "annotation 1 of v.png: bbox has fewer than four different"),
    (
        [SQUARE, [50, 50, 20, 10, 0]],
        None,
        "annotation 2 of v.png: bbox is .50, .*, not four corners .* as most",
    ),
    ([[50, 50, 20, 10, 190]], None, "convention 'detectron2' are -180 to 180 degrees"),
    ([[50, 50, 20, 10, 120]], "le90", "convention 'le90' are -90 to 90 degrees: name the right one"),
    ([[50, 50, 10, 20, 30]], "le135", "by the convention 'le135', the width is the longer edge"),
    ([[50, 50, 10, 20, -30]], "oc", "convention 'oc' are 0 to 90 degrees"),
    ([[50, 50, 10, 20, 30]], "le130", "info.angle_convention: .*did you mean 'le135'"),
    ([[50, 50, 10, 20, 30]], 7, "info.angle_convention: no convention of angles is called 7"),
]


@pytest.mark.parametrize(("bboxes", "convention", "words"), FAULTS)
def test_bad_labels_get_one_line(register, bboxes, convention, words):
    good = SQUARE if len(bboxes[0]) in (6, 8) else [50, 50, 20, 10, 20]
    name = register(content([good, *bboxes], convention))
    with pytest.raises(UserError, match=words) as caught:
        DatasetCatalog.get(name)
    assert "\n" not in str(caught.value)


def test_centers_outside_are_left_out(register):
    far = content([[50, 50, 20, 10, 20]] * 99 + [[150, 50, 20, 10, 20]])
    assert len(boxes_of(register(far))) == 99
    with pytest.raises(UserError, match="2 of 4 boxes are empty or outside.*angle"):
        read_json(_path(register(content([[50, 50, 20, 10, 20]] * 2 + [[50, 50, 0, 10, 20]] * 2), name="b")))


def _path(name: str) -> str:
    from ivtuning.data.catalog import metadata

    return metadata(name).json_file
