"""The mapper of pairs: one geometric frame for both images, boxes and masks, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from helpers.pairs import BOX, H, W, pattern, save

from ivtuning.data.images import read_pair
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.transforms.photometric import Contrast, Gain, GaussianNoise
from ivtuning.errors import UserError

GEOMETRY = {
    "flip": lambda: [T.RandomFlip(1.0)],
    "lsj-pad": lambda: [
        T.RandomFlip(0.5),
        T.ResizeScale(0.3, 2.0, 60, 60),
        T.FixedSizeCrop((60, 60), pad=True, pad_value=114),
    ],
    "lsj-no-pad": lambda: [T.ResizeScale(0.3, 2.0, 60, 60), T.FixedSizeCrop((60, 60), pad=False)],
    "shortest": lambda: [T.ResizeShortestEdge((30, 90), 120), T.RandomCrop("relative_range", (0.6, 0.6))],
    "rotate": lambda: [T.RandomRotation([-30, 30]), T.RandomApply(T.RandomFlip(1.0), 0.5)],
}


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("masks", [False, True])
def test_one_geometric_frame(pair, name, masks):
    mapper = PairedDatasetMapper(True, GEOMETRY[name](), use_instance_mask=masks)
    kept = 0
    for value in range(12):
        seed_all_rng(value)
        out = mapper(pair)
        assert out["image"].dtype == out["image_ir"].dtype == torch.uint8
        assert torch.equal(out["image"], out["image_ir"])
        instances = out["instances"]
        assert instances.image_size == tuple(out["image"].shape[1:])
        bright = (out["image_ir"][0] > 148).numpy()
        if not bright.any():
            continue
        kept += 1
        rows, columns = np.nonzero(bright)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        box = instances.gt_boxes.tensor[0].numpy()
        assert np.abs(box - seen).max() <= 2.0, (value, box, seen)
        if masks:
            mask = instances.gt_masks.tensor[0].numpy()
            # They may differ by about a pixel along the edge.
            assert (mask ^ bright).sum() <= np.ptp(columns) + np.ptp(rows) + 6
        else:
            assert not instances.has("gt_masks")
    assert kept >= 6


@pytest.mark.parametrize("name", GEOMETRY)
def test_boxes_are_detectron2s(pair, name):
    """All boxes of an image at once, to the last bit as detectron2 moves them one by one."""
    rng = np.random.RandomState(3)
    sized = (rng.rand(9, 4) * (30, 20, 33, 27)).tolist()
    boxes = [{"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": i} for i, box in enumerate(sized)]
    boxes.insert(4, {"bbox": [3.0, 4.0, 40.0, 47.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 9})
    boxes.append({"bbox": [3, 4, 9, 9], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 10, "iscrowd": 1})
    mapper = PairedDatasetMapper(True, GEOMETRY[name]())
    for value in range(6):
        seed_all_rng(value)
        out = mapper({**pair, "annotations": boxes})
        seed_all_rng(value)
        seen = T.AugInput(read_pair(pair)[0])
        moves = mapper.augmentations(seen)
        size = seen.image.shape[:2]
        theirs = [utils.transform_instance_annotations(dict(box), moves, size) for box in boxes[:-1]]
        theirs = utils.filter_empty_instances(utils.annotations_to_instances(theirs, size))
        assert torch.equal(out["instances"].gt_boxes.tensor, theirs.gt_boxes.tensor) and len(theirs)
        assert torch.equal(out["instances"].gt_classes, theirs.gt_classes)
        assert out["instances"].gt_classes.dtype == torch.int64


class Turned(T.Augmentation):
    """A view: of the rows, columns or both backwards, of a part, or of every second pixel."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def get_transform(self, image):
        turned = T.NoOpTransform()
        turned.apply_image = lambda image: image[self.where]
        return turned


@pytest.mark.parametrize(
    "where", [np.s_[:], np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1], np.s_[3:20, 5:30], np.s_[::2, ::-2]]
)
def test_views_become_planes(pair, tmp_path, where):
    colors = np.random.RandomState(0).randint(0, 256, (H, W, 3), np.uint8)
    pair["file_name"] = save(colors, tmp_path / "colors.png")
    out = PairedDatasetMapper(False, [Turned(where)])(pair)
    assert (out["image"].numpy() == colors[where].transpose(2, 0, 1)).all()
    assert (out["image_ir"].numpy() == pattern()[where]).all()
    assert out["image"].is_contiguous() and out["image_ir"].is_contiguous()
    out["image_ir"][0] = 0
    assert out["image_ir"][1:].any()  # three channels, not one seen thrice


def test_gray_infrared_can_be_changed_channel_by_channel(pair):
    def redden(image):
        image[..., 0] = 9
        return image

    out = PairedDatasetMapper(False, photometric_ir=[redden])(pair)["image_ir"].numpy()
    assert (out[0] == 9).all() and (out[1] == pattern()).all() and (out[2] == pattern()).all()


def test_pad_value_reaches_both(pair):
    augmentations = [T.FixedSizeCrop((80, 80), pad=True, pad_value=114)]
    out = PairedDatasetMapper(True, augmentations)(pair)
    for key in ("image", "image_ir"):
        assert out[key].shape == (3, 80, 80)
        assert (out[key][:, H:] == 114).all() and (out[key][:, :, W:] == 114).all()


def test_padding_is_never_part_of_a_mask(pair):
    pad = T.PadTransform(0, 0, 9, 5, W, H, pad_value=114, seg_pad_value=255)
    mask = PairedDatasetMapper(True, [pad], use_instance_mask=True)(pair)["instances"].gt_masks.tensor[0]
    x0, y0, x1, y1 = BOX
    assert mask[y0:y1, x0:x1].all() and int(mask.sum()) == (y1 - y0) * (x1 - x0)


@pytest.mark.parametrize("masks", [False, True])
def test_crop_without_objects(pair, masks):
    out = PairedDatasetMapper(True, [T.CropTransform(0, 0, 16, 10)], use_instance_mask=masks)(pair)
    assert len(out["instances"]) == 0
    assert out["instances"].gt_boxes.tensor.shape == (0, 4)
    assert out["image"].shape == out["image_ir"].shape == (3, 10, 16)


def test_masks_on_an_image_without_objects(pair):
    pair["annotations"] = []
    out = PairedDatasetMapper(True, [T.RandomFlip(1.0)], use_instance_mask=True)(pair)
    assert out["instances"].gt_masks.tensor.shape == (0, H, W)


def test_boxes_follow_masks_after_a_crop_only(pair):
    # A triangle: cutting its right half off leaves less than box and window have in common.
    pair["annotations"][0]["segmentation"] = [[20, 12, 44, 12, 44, 30]]
    crop = [T.CropTransform(0, 0, 32, H)]
    box = PairedDatasetMapper(True, crop)(pair)["instances"].gt_boxes.tensor[0]
    assert box.tolist() == [20, 12, 32, 30]
    tight = PairedDatasetMapper(True, crop, use_instance_mask=True)(pair)["instances"].gt_boxes.tensor[0]
    assert tight[3] < 24 and tight[2] == 32
    pair["annotations"][0]["bbox"] = [18, 10, 28, 22]
    whole = PairedDatasetMapper(True, use_instance_mask=True)(pair)["instances"].gt_boxes.tensor[0]
    assert whole.tolist() == [18, 10, 46, 32]


def test_rle_segmentation_equals_polygons(pair):
    import pycocotools.mask as mask_util

    mapper = PairedDatasetMapper(True, [T.RandomFlip(1.0)], use_instance_mask=True)
    expected = mapper(pair)["instances"].gt_masks.tensor
    rle = mask_util.frPyObjects(pair["annotations"][0]["segmentation"], H, W)[0]
    flat = mask_util.decode(rle).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    for form in (rle, {"size": [H, W], "counts": counts}):
        pair["annotations"][0]["segmentation"] = form
        assert torch.equal(mapper(pair)["instances"].gt_masks.tensor, expected)


def test_crowds_are_left_out_and_the_input_is_untouched(pair):
    import copy

    pair["annotations"].append({**pair["annotations"][0], "iscrowd": 1})
    before = copy.deepcopy(pair)
    out = PairedDatasetMapper(True, [T.RandomFlip(1.0)])(pair)
    assert pair == before
    assert out["instances"].gt_classes.tolist() == [2]
    assert "annotations" not in out


def test_test_mode_keeps_the_original_size(pair):
    out = PairedDatasetMapper(False, [T.ResizeShortestEdge(24, 100)])(pair)
    assert out["image"].shape == out["image_ir"].shape == (3, 24, 32)
    assert (out["height"], out["width"], out["image_id"], out["time"]) == (H, W, 7, "day")
    assert (out["file_name"], out["ir_file_name"]) == (pair["file_name"], pair["ir_file_name"])
    assert "annotations" not in out and "instances" not in out


def test_photometric_draws_are_per_modality(pair):
    jitter = [Gain(1.0, (0.5, 1.5)), GaussianNoise(1.0, (5, 5), gray=True)]
    mapper = PairedDatasetMapper(True, [T.RandomFlip(1.0)], photometric=jitter, photometric_ir=jitter)
    seed_all_rng(3)
    out = mapper(pair)
    assert not torch.equal(out["image"], out["image_ir"])
    plain = PairedDatasetMapper(True, [T.RandomFlip(1.0)])(pair)
    one = PairedDatasetMapper(True, [T.RandomFlip(1.0)], photometric_ir=[Contrast(1.0, (0.5, 0.5))])(pair)
    assert torch.equal(one["image"], plain["image"])
    assert not torch.equal(one["image_ir"], plain["image_ir"])
    assert torch.equal(one["instances"].gt_boxes.tensor, plain["instances"].gt_boxes.tensor)


def test_equal_states_give_equal_samples(pair):
    mapper = PairedDatasetMapper(True, GEOMETRY["lsj-pad"](), [GaussianNoise(1.0)], [Gain(1.0)])
    results = []
    for value in (5, 5, 6):
        seed_all_rng(value)
        results.append(mapper(pair))
    a, b, c = results
    assert torch.equal(a["image"], b["image"]) and torch.equal(a["image_ir"], b["image_ir"])
    assert not torch.equal(a["image"], c["image"])


def flatten(image):
    return image[:, :, :1]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"augmentations": [T.RandomBrightness(0.5, 0.6)]}, "move it to photometric"),
        ({"augmentations": [T.RandomApply(T.RandomContrast(0.5, 0.6), 1.0)]}, "move it to photometric"),
        ({"photometric": [lambda image: image[:-1]]}, "must be uint8"),
        ({"photometric_ir": [flatten]}, "flatten gave an image uint8"),
        ({"photometric": [lambda image: image / 255]}, "float64"),
    ],
)
def test_wrong_augmentations(pair, kwargs, message):
    with pytest.raises(UserError, match=message):
        PairedDatasetMapper(True, **kwargs)(pair)


def test_missing_segmentation(pair):
    del pair["annotations"][0]["segmentation"]
    with pytest.raises(UserError, match="v.png has no segmentation"):
        PairedDatasetMapper(True, use_instance_mask=True)(pair)


@pytest.mark.parametrize("ir_range", [(5, 5), (9, 1), (1,)])
def test_wrong_ir_range(ir_range):
    with pytest.raises(UserError, match="two increasing"):
        PairedDatasetMapper(True, ir_range=ir_range)
