"""Geometry moves oriented boxes as it moves the pixels that they cover."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, RotatedBoxes
from helpers.oriented import corner_distance

from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.errors import UserError
from ivtuning.oriented.boxes import canonical, corners

H, W = 360, 480
GEOMETRY = {
    "none": [],
    "flip": [T.RandomFlip(1.0)],
    "upside down": [T.RandomFlip(1.0, horizontal=False, vertical=True)],
    "resize": [T.ResizeShortestEdge(300, 2000)],
    "enlarge": [T.ResizeScale(1.3, 1.7, H, W)],
    "crop": [T.RandomCrop("relative", (0.8, 0.9))],
    "rotate": [T.RandomRotation([-180, 180], expand=True)],
    "rotate inside": [T.RandomRotation([-20, 20], expand=False)],
    "all": [
        T.RandomFlip(0.5),
        T.RandomRotation([-180, 180]),
        T.ResizeShortestEdge([300, 500], 2000),
        T.RandomCrop("absolute", (250, 280)),
    ],
}


def drawn(box: torch.Tensor) -> np.ndarray:
    """A gray image (H, W) in which the box is 255, with smooth edges."""
    fine = np.zeros((H * 4, W * 4), np.uint8)
    cv2.fillPoly(fine, [np.round(corners(box).numpy() * 4 - 0.5).astype(np.int32)], 255)
    return cv2.resize(fine, (W, H), interpolation=cv2.INTER_AREA)


def sample(boxes: torch.Tensor, image: np.ndarray) -> dict:
    pixels = np.repeat(image[:, :, None], 3, 2)
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0, "iscrowd": 0}
        for box in boxes.tolist()
    ]
    return {
        "file_name": "x",
        "ir_file_name": "y",
        "pixels": pixels,
        "ir_pixels": image,
        "annotations": annotations,
    }


@pytest.mark.parametrize("geometry", GEOMETRY)
def test_the_box_is_where_its_pixels_are(geometry):
    mapper = PairedDatasetMapper(is_train=True, augmentations=GEOMETRY[geometry], oriented=True)
    rng = np.random.default_rng(0)
    np.random.seed(0)
    seen = 0
    for _ in range(20):
        box = torch.tensor([[rng.uniform(180, 300), rng.uniform(140, 220), rng.uniform(60, 110), 40, 0]])
        box[0, 4] = rng.uniform(-180, 180)
        x = mapper(sample(box.double(), drawn(box[0].double())))
        boxes, image = x["instances"].gt_boxes, x["image"][0].numpy()
        assert isinstance(boxes, RotatedBoxes) and np.array_equal(image, x["image_ir"][0].numpy())
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        if len(boxes) == 0 or border.any():  # cut by a crop
            continue
        ys, xs = np.nonzero(image > 127)
        (cx, cy), size, angle = cv2.minAreaRect(np.stack([xs + 0.5, ys + 0.5], 1).astype(np.float32))
        around = torch.tensor([[cx, cy, size[0] + 1, size[1] + 1, -angle]])
        assert corner_distance(boxes.tensor.double(), around.double()) < 2.0
        covered = torch.tensor(image / 255.0).sum()
        assert boxes.tensor[0, 2] * boxes.tensor[0, 3] == pytest.approx(covered.item(), rel=0.02)
        seen += 1
    assert seen >= 4


def test_flips_and_turns_are_exact():
    box = torch.tensor([[100.3, 50.6, 40.2, 20.1, 33.0]], dtype=torch.float64)
    x = sample(box, np.zeros((H, W), np.uint8))
    cases = {
        (T.RandomFlip(1.0),): [W - 100.3, 50.6, 40.2, 20.1, -33.0],
        (T.RandomFlip(1.0, horizontal=False, vertical=True),): [100.3, H - 50.6, 40.2, 20.1, -33.0],
        (T.RandomRotation([90, 90]),): [50.6, W - 100.3, 40.2, 20.1, -57.0],
        (T.RandomRotation([180, 180]),): [W - 100.3, H - 50.6, 40.2, 20.1, 33.0],
    }
    for augmentations, expected in cases.items():
        mapper = PairedDatasetMapper(is_train=True, augmentations=list(augmentations), oriented=True)
        found = mapper(x)["instances"].gt_boxes.tensor
        assert torch.allclose(found, torch.tensor([expected]), atol=1e-4), augmentations


def test_upright_boxes_and_boxes_that_leave_the_image():
    x = sample(torch.zeros(0, 5), np.zeros((H, W), np.uint8))
    x["annotations"] = [{"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3}]
    mapper = PairedDatasetMapper(is_train=True, oriented=True)
    found = mapper(x)["instances"]
    expected = canonical(torch.tensor([[25.0, 40.0, 30.0, 40.0, 0.0]]))
    assert torch.equal(found.gt_boxes.tensor, expected) and found.gt_classes.tolist() == [3]
    left = PairedDatasetMapper(is_train=True, augmentations=[T.CropTransform(24, 0, 100, 100)], oriented=True)
    assert mapper(x | {"annotations": []})["instances"].gt_boxes.tensor.shape == (0, 5)
    assert left(x)["instances"].gt_boxes.tensor.tolist() == [[1, 40, 40, 30, -90]]
    gone = PairedDatasetMapper(is_train=True, augmentations=[T.CropTransform(26, 0, 100, 100)], oriented=True)
    assert len(gone(x)["instances"]) == 0


def test_oriented_boxes_need_the_option():
    box = torch.tensor([[100.0, 50.0, 40.0, 20.0, 30.0]])
    with pytest.raises(UserError, match="x has oriented boxes: .*mapper.oriented=True"):
        PairedDatasetMapper(is_train=True)(sample(box, np.zeros((H, W), np.uint8)))
    with pytest.raises(UserError, match="use_instance_mask and oriented"):
        PairedDatasetMapper(is_train=True, oriented=True, use_instance_mask=True)
