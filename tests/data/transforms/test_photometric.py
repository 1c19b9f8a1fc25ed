import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from PIL import Image

from ivtuning.data.mappers.copy_paste import CopyPaste
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.transforms.photometric import (
    ColorDistortion,
    Contrast,
    Gain,
    GaussianNoise,
    Offset,
    Saturation,
)
from ivtuning.errors import UserError


@pytest.fixture
def image():
    return np.random.RandomState(0).randint(60, 180, (20, 30, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)


def as_float(array):
    return array.astype(np.float64)


ALL = [Gain, Contrast, Saturation, Offset, GaussianNoise]


@pytest.mark.parametrize("kind", ALL)
def test_type_shape_and_input_stay(kind, image):
    before = image.copy()
    image.setflags(write=False)
    out = kind(prob=1.0)(image)
    assert out.dtype == np.uint8 and out.shape == image.shape
    assert (image == before).all() and (out != image).any()


@pytest.mark.parametrize("kind", ALL)
def test_prob(kind, image):
    assert (kind(prob=0.0)(image) == image).all()
    changed = sum(bool((kind(prob=0.3)(image) != image).any()) for _ in range(300))
    assert 60 <= changed <= 120


def test_gain(image):
    assert np.abs(as_float(Gain(1.0, (1.2, 1.2))(image)) - as_float(image) * 1.2).max() <= 0.5001


def test_values_saturate(image):
    assert (Offset(1.0, (250, 250))(image) == 255).all()
    assert (Offset(1.0, (-250, -250))(image) == 0).all()


def test_offset_range(image):
    shifts = [int(Offset(1.0, (-9, 5))(image)[0, 0, 0]) - int(image[0, 0, 0]) for _ in range(200)]
    assert min(shifts) == -9 and max(shifts) == 5


def test_contrast_keeps_the_mean(image):
    out = Contrast(1.0, (0.5, 0.5))(image)
    assert np.abs(as_float(out) - (as_float(image) + image.mean()) / 2).max() <= 0.501


def test_saturation_zero_is_gray(image):
    out = Saturation(1.0, (0, 0))(image)
    luma = as_float(image) @ [0.299, 0.587, 0.114]
    assert np.abs(as_float(out) - luma[..., None]).max() <= 0.501


def test_noise_strength():
    flat = np.full((100, 100, 3), 128, np.uint8)
    noise = as_float(GaussianNoise(1.0, (6, 6))(flat)) - 128
    assert noise.std() == pytest.approx(6, rel=0.05) and abs(noise.mean()) < 0.2
    assert (noise[..., 0] != noise[..., 1]).any()


@pytest.mark.parametrize(
    "change", [Gain(1.0), Contrast(1.0), Offset(1.0), GaussianNoise(1.0, (9, 9), gray=True)]
)
def test_infrared_stays_gray(change, image):
    gray = np.repeat(image[:, :, :1], 3, axis=2)
    out = change(gray)
    assert (out != gray).any()
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 0] == out[..., 2]).all()


def test_draws_follow_numpys_generator(image):
    results = []
    for value in (1, 1, 2):
        np.random.seed(value)
        results.append(GaussianNoise(1.0)(Gain(1.0)(image)))
    assert (results[0] == results[1]).all() and (results[0] != results[2]).any()


def test_color_distortion_follows_torchs_generator(image):
    before, results = image.copy(), []
    image.setflags(write=False)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(np.stack([ColorDistortion()(image) for _ in range(8)]))
    assert (image == before).all()
    assert results[0].dtype == np.uint8 and results[0].shape == (8, *image.shape)
    assert (results[0] == results[1]).all() and (results[0] != results[2]).any()
    changed = [(out != image).any() for out in results[0]]
    assert sum(changed) >= 6  # each of four changes has probability 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gain(prob=1.5), "probability"),
        (lambda: Gain(strength=(1.2, 0.8)), "low <= high"),
        (lambda: Offset(strength=(1,)), "low <= high"),
        (lambda: GaussianNoise(strength=(-1, 3)), "deviations >= 0"),
        (lambda: CopyPaste(None, [], prob=2), "prob is 0..1"),
        (lambda: CopyPaste(None, [], max_objects=0), "objects >= 1"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()


# ---- copy-paste: a base pair of black images, a source pair of white ones ----


def sample(value, boxes, size=(40, 50), masks=None, classes=None):
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes or [value % 7] * len(boxes))
    if masks is not None:
        instances.gt_masks = BitMasks(masks)
    return {
        "file_name": str(value),
        "image": torch.full((3, *size), value, dtype=torch.uint8),
        "image_ir": torch.full((3, *size), value + 1, dtype=torch.uint8),
        "instances": instances,
    }


def paste(base, source, **kwargs):
    """One certain paste of `source` into `base`."""
    table = {s["file_name"]: s for s in (base, source)}
    mapper = CopyPaste(
        lambda d: table[d["file_name"]], [{"file_name": source["file_name"]}], prob=1.0, **kwargs
    )
    return mapper({"file_name": base["file_name"]})


def test_boxes_are_pasted_into_both_images_at_one_place():
    out = paste(sample(0, [[2, 2, 10, 10]], classes=[1]), sample(200, [[20, 5, 30, 25]], classes=[3]))
    expected = torch.zeros(40, 50, dtype=torch.bool)
    expected[5:25, 20:30] = True
    assert torch.equal(out["image"] == 200, expected.expand(3, -1, -1))
    assert torch.equal(out["image_ir"] == 201, expected.expand(3, -1, -1))
    assert (out["image_ir"][:, ~expected] == 1).all()
    assert out["instances"].gt_boxes.tensor.tolist() == [[2, 2, 10, 10], [20, 5, 30, 25]]
    assert out["instances"].gt_classes.tolist() == [1, 3]


def test_occluded_originals_shrink_or_vanish():
    own = [[20.5, 6, 29, 20], [10, 10, 25, 20], [0.5, 30.5, 9, 39]]
    out = paste(sample(0, own, classes=[0, 1, 2]), sample(200, [[20, 5, 30, 25]], classes=[3]))
    assert out["instances"].gt_classes.tolist() == [1, 2, 3]
    assert out["instances"].gt_boxes.tensor.tolist() == [[10, 10, 20, 20], own[2], [20, 5, 30, 25]]


def test_masks_are_pasted_not_their_boxes():
    triangle = torch.zeros(1, 40, 50, dtype=torch.bool)
    for row in range(20):
        triangle[0, 10 + row, 10 : 11 + row] = True
    square = torch.zeros(2, 40, 50, dtype=torch.bool)
    square[0, 10:30, 10:30] = True
    square[1, 20:24, 10:14] = True  # all under the triangle
    base = sample(0, [[10, 10, 30, 30], [10, 20, 14, 24]], masks=square, classes=[0, 1])
    out = paste(base, sample(200, [[10, 10, 30, 30]], masks=triangle, classes=[2]))
    assert torch.equal(out["image"][0] == 200, triangle[0])
    assert torch.equal(out["image_ir"][0] == 201, triangle[0])
    instances = out["instances"]
    assert instances.gt_classes.tolist() == [0, 2]
    assert torch.equal(instances.gt_masks.tensor[0], square[0] & ~triangle[0])
    assert torch.equal(instances.gt_masks.tensor[1], triangle[0])
    assert instances.gt_boxes.tensor.tolist() == [[11, 10, 30, 29], [10, 10, 30, 30]]


def test_sizes_that_differ():
    out = paste(sample(0, [], size=(40, 50)), sample(200, [[20, 5, 60, 25], [52, 1, 58, 9]], size=(30, 70)))
    assert out["image"].shape == (3, 40, 50) and out["instances"].image_size == (40, 50)
    for box in out["instances"].gt_boxes.tensor.tolist():
        assert box == [20, 5, 50, 25]


def test_max_objects_and_prob():
    boxes = [[4 * i, 0, 4 * i + 3, 5] for i in range(10)]
    counts = set()
    for value in range(40):
        np.random.seed(value)
        counts.add(len(paste(sample(0, []), sample(200, boxes), max_objects=3)["instances"]))
    assert counts == {1, 2, 3}
    never = CopyPaste(lambda d: sample(0, boxes), [{"file_name": "x"}], prob=0.0)
    assert (never({"file_name": "0"})["image"] == 0).all()


def test_nothing_to_paste():
    assert len(paste(sample(0, [[1, 1, 5, 5]]), sample(200, []))["instances"]) == 1
    assert CopyPaste(lambda d: None, [{"file_name": "x"}], prob=1.0)({"file_name": "y"}) is None


def test_around_the_real_mapper(tmp_path):
    dataset = []
    for index, value in enumerate((0, 200)):
        for modality, shape in (("vis", (40, 50, 3)), ("ir", (40, 50))):
            Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / f"{index}_{modality}.png")
        box = {"bbox": [5, 6, 15, 16], "bbox_mode": BoxMode.XYXY_ABS, "category_id": index}
        names = {"file_name": f"{tmp_path}/{index}_vis.png", "ir_file_name": f"{tmp_path}/{index}_ir.png"}
        dataset.append({**names, "height": 40, "width": 50, "annotations": [box]})
    out = CopyPaste(PairedDatasetMapper(True), dataset, prob=1.0)(dataset[0])
    # The only other pair is chosen, never the pair itself; its object hides ours exactly.
    assert out["instances"].gt_classes.tolist() == [1]
    assert torch.equal(out["image"], out["image_ir"])
    assert (out["image"][:, 6:16, 5:15] == 200).all() and int((out["image"] == 200).sum()) == 300
    assert (out["height"], out["width"]) == (40, 50)
    plain = CopyPaste(PairedDatasetMapper(False), dataset, prob=1.0)(dataset[0])
    assert "instances" not in plain and (plain["image"] == 0).all()
