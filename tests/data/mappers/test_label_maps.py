"""Labels of semantic segmentation on their way through the mapper, the loaders and the config."""

import copy
import itertools

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, ImageList
from detectron2.utils.env import seed_all_rng
from PIL import Image

from ivtuning.config import load_config
from ivtuning.data.datasets.segmentation import segmentation_dicts
from ivtuning.data.image_files import BadPair
from ivtuning.data.loaders.train import build_train_loader
from ivtuning.data.mappers.copy_paste import CopyPaste
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.transforms.photometric import ColorDistortion, GaussianNoise
from ivtuning.errors import UserError

# A pixel of the images says where in the scene it lies; its label, in which block of the scene.
BLOCK = 16
ROWS, COLUMNS = 6, 8
H, W = ROWS * BLOCK, COLUMNS * BLOCK
NUMBERS = np.random.RandomState(0).permutation(ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(np.uint8)
BLOCKS = NUMBERS.repeat(BLOCK, 0).repeat(BLOCK, 1)
YX = np.indices((H, W)).astype(np.uint8)
INSIDE = np.full((H, W), 255, np.uint8)  # padding is darker in this channel
CHANNELS = {"image": (0, 1), "image_ir": (1, 0)}  # which of them hold y and x


def save(array, path) -> str:
    Image.fromarray(array).save(path)
    return str(path)


@pytest.fixture
def record(tmp_path) -> dict:
    files = {
        "file_name": np.stack([2 * YX[0], 2 * YX[1], INSIDE], 2),
        "ir_file_name": np.stack([2 * YX[1], 2 * YX[0], INSIDE], 2),
        "sem_seg_file_name": BLOCKS,
    }
    return {
        **{key: save(array, tmp_path / f"{key}.png") for key, array in files.items()},
        "label_ids": {i: i for i in range(ROWS * COLUMNS)},
        "height": H,
        "width": W,
        "image_id": 1,
    }


def distance(sample: dict, key: str) -> float:
    """How far, in pixels of the scene, the images' pixels lie outside the block that their label names: mean.

    Also checks that what is padding in the image, or not, is so in the labels.
    """
    labels, image = sample["sem_seg"].numpy(), sample[key].numpy().astype(float)
    y, x = (image[channel] / 2 for channel in CHANNELS[key])
    real, labeled = image[2] >= 254, labels != 255
    assert (labeled & (image[2] < 130)).mean() <= 0.03 and (real & ~labeled).mean() <= 0.03
    where = real & labeled
    assert where.any()
    tops, lefts = (BLOCK * i for i in np.unravel_index(np.argsort(NUMBERS, axis=None), NUMBERS.shape))
    out = []
    for value, first in ((y, tops), (x, lefts)):
        low = first[labels[where]]
        out.append(np.maximum(low - value[where], value[where] - (low + BLOCK)).clip(0))
    return float(np.maximum(*out).mean())


def random_transforms() -> list:
    """One to five random augmentations, with random settings, in random order."""
    side = np.random.randint(40, 160)
    choices = [
        T.RandomFlip(0.5, horizontal=True),
        T.RandomFlip(0.5, horizontal=False, vertical=True),
        T.ResizeScale(0.5, 2.0, H, W),
        T.ResizeShortestEdge((60, 180), 240),
        T.Resize((side, np.random.randint(60, 200))),
        T.RandomCrop("relative_range", (0.5, 0.5)),
        T.RandomCrop("absolute", (side, side)),
        T.RandomCrop_CategoryAreaConstraint("absolute", (side, side), 0.75, 255),
        T.FixedSizeCrop((side, side), pad=bool(side % 2), pad_value=114),
        T.RandomRotation([-25, 25], expand=bool(side % 2)),
        T.RandomApply(T.PadTransform(3, 0, 9, 5, pad_value=114, seg_pad_value=side), 0.5),
        T.RandomApply(T.RandomFlip(1.0), 0.5),
    ]
    picked = np.random.permutation(len(choices))[: np.random.randint(1, 6)]
    return [choices[i] for i in picked]


# Of resampling, 0.05 px at worst in hundreds of random lists.
NEAR = 0.1


@pytest.mark.parametrize("first", range(0, 60, 12))
def test_random_transforms_never_separate_the_three(record, first):
    for value in range(first, first + 12):
        seed_all_rng(value)
        augmentations = random_transforms()
        sample = PairedDatasetMapper(True, augmentations)(record)
        assert sample["sem_seg"].dtype == torch.int64
        assert sample["sem_seg"].shape == sample["image"].shape[1:] == sample["image_ir"].shape[1:]
        assert set(sample["sem_seg"].unique().tolist()) <= {*range(ROWS * COLUMNS), 255}
        for key in CHANNELS:
            assert distance(sample, key) <= NEAR, (value, augmentations)


MOVES = {
    "flipped": lambda x: x.flip(-1),
    "turned": lambda x: x.flip(-1, -2),
    "4 px to the right": lambda x: x[..., [0] * 4 + [*range(x.shape[-1] - 4)]],
    "4 px down": lambda x: x[..., [0] * 4 + [*range(x.shape[-2] - 4)], :],
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("moved", ["image", "image_ir", "sem_seg"])
def test_the_property_does_not_hold_where_one_is_moved_alone(record, moved, move):
    seed_all_rng(0)
    sample = PairedDatasetMapper(True, [T.RandomFlip(0.5), T.ResizeScale(0.8, 1.2, H, W)])(record)
    assert all(distance(sample, key) <= NEAR for key in CHANNELS)
    sample[moved] = move(sample[moved])
    assert {key for key in CHANNELS if distance(sample, key) > 2 * NEAR} == (
        set(CHANNELS) if moved == "sem_seg" else {moved}
    )


@pytest.mark.parametrize("drop", ["visible", "infrared"])
def test_labels_go_with_either_image_alone(record, drop):
    mapper = PairedDatasetMapper(True, [T.RandomFlip(1.0), T.ResizeScale(0.7, 1.5, H, W)], drop=drop)
    kept = "image_ir" if drop == "visible" else "image"
    for value in range(4):
        seed_all_rng(value)
        sample = mapper(record)
        assert CHANNELS.keys() & sample.keys() == {kept}
        assert distance(sample, kept) <= NEAR
    lonely = {k: v for k, v in record.items() if k != "ir_file_name"}
    sample = PairedDatasetMapper(True, [T.RandomFlip(1.0)])(lonely)
    assert "image_ir" not in sample and distance(sample, "image") == 0


def test_modality_dropout_keeps_the_labels(record):
    mapper = PairedDatasetMapper(True, [T.RandomFlip(0.5)], modality_dropout=0.9)
    kinds = set()
    for value in range(12):
        seed_all_rng(value)
        sample = mapper(record)
        images = sorted(CHANNELS.keys() & sample.keys())
        kinds.add(tuple(images))
        assert all(distance(sample, key) == 0 for key in images)
    assert {("image",), ("image_ir",)} <= kinds


def test_photometric_changes_leave_labels_alone(record):
    plain = PairedDatasetMapper(True, [T.RandomFlip(1.0)])(record)
    noise = [GaussianNoise(1.0, (9, 9)), ColorDistortion()]
    noisy = PairedDatasetMapper(True, [T.RandomFlip(1.0)], photometric=noise, photometric_ir=noise)(record)
    assert torch.equal(plain["sem_seg"], noisy["sem_seg"])
    assert not torch.equal(plain["image"], noisy["image"])


PADS = {
    "fixed size": (lambda: T.FixedSizeCrop((H + 16, W + 24), pad=True), (H, W)),
    "pad with 0": (lambda: T.PadTransform(0, 0, 24, 16, W, H), (H, W)),
    "pad with a class": (lambda: T.PadTransform(0, 0, 24, 16, W, H, seg_pad_value=1), (H, W)),
}


@pytest.mark.parametrize(("make", "size"), PADS.values(), ids=PADS)
def test_padding_by_a_transform_is_255(record, make, size):
    labels = PairedDatasetMapper(True, [make()])(record)["sem_seg"]
    h, w = size
    assert labels.shape == (h + 16, w + 24) and (labels[:h, :w].numpy() == BLOCKS).all()
    assert (labels[h:] == 255).all() and (labels[:, w:] == 255).all()


def test_padding_is_ignored_by_the_crop_that_follows(record):
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (H, W), 0.75, 255)
    seen = []
    crop.get_transform = lambda image, sem_seg: seen.append(sem_seg) or T.NoOpTransform()
    PairedDatasetMapper(True, [T.FixedSizeCrop((2 * H, W), pad=True), crop])(record)
    assert (seen[0][H:] == 255).all()


def test_corners_of_a_turned_image_are_255(record):
    sample = PairedDatasetMapper(True, [T.RotationTransform(H, W, 20)])(record)
    labels = sample["sem_seg"]
    assert all(labels[y, x] == 255 for y in (0, -1) for x in (0, -1))
    # The corners took nothing from the class of value 0.
    assert 0.9 < (labels == 0).sum() / BLOCK**2 < 1.1


def test_what_is_smaller_than_the_crop_is_not_padded(record):
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (512, 100), 0.75, 255)
    sample = PairedDatasetMapper(True, [crop])(record)
    assert sample["image"].shape[1:] == sample["sem_seg"].shape == (H, 100)


def test_no_class_fills_the_crop(record, tmp_path):
    """One class covers the left three quarters: without the constraint most crops see nothing else."""
    labels = np.zeros((H, W), np.uint8)
    labels[:, 96:] = np.arange(H)[:, None] // 12 + 1
    labels[:8] = 255  # does not count, whatever its share
    record["sem_seg_file_name"] = save(labels, tmp_path / "uneven.png")

    def worst(limit):
        crop = T.RandomCrop_CategoryAreaConstraint("absolute", (40, 40), limit, 255)
        mapper, shares = PairedDatasetMapper(True, [crop]), []
        for value in range(30):
            seed_all_rng(value)
            labels = mapper(record)["sem_seg"]
            counts = torch.bincount(labels[labels != 255])
            shares.append(float(counts.max() / counts.sum()))
        return sum(share >= 0.75 for share in shares)

    assert worst(1.0) > 15 and worst(0.75) <= 3


def test_a_transform_that_blends_labels_is_refused(record):
    with pytest.raises(UserError, match="RandomExtent blends neighboring labels: use ResizeScale"):
        PairedDatasetMapper(True, [T.RandomExtent((0.8, 0.9), (0.1, 0.1))])(record)
    del record["sem_seg_file_name"]
    assert "sem_seg" not in PairedDatasetMapper(True, [T.RandomExtent((0.8, 0.9), (0.1, 0.1))])(record)


def test_labels_are_not_read_out_of_training(record):
    record["sem_seg_file_name"] = "nowhere.png"
    before = copy.deepcopy(record)
    sample = PairedDatasetMapper(False, [T.ResizeShortestEdge(48, 100)])(record)
    assert record == before and "sem_seg" not in sample
    assert (sample["sem_seg_file_name"], sample["height"], sample["width"]) == ("nowhere.png", H, W)


def test_faults_of_labels_reach_the_user(record, tmp_path):
    mapper = PairedDatasetMapper(True)
    for key in ("height", "width"):  # not known from a JSON: the image's own counts
        del record[key]
    small = save(BLOCKS[:-1], tmp_path / "small.png")
    with pytest.raises(BadPair, match=rf"small.png is {W}x{H - 1} but its image .*file_name.png is {W}x{H}"):
        mapper({**record, "sem_seg_file_name": small})
    with pytest.raises(UserError, match="sem_seg_file_name.png has 256 pixels of value 47"):
        mapper({**record, "label_ids": {i: i for i in range(47)}})


# ---- with boxes, loaders and the config ----


def with_box(record: dict) -> dict:
    x, y, side = 20, 30, 24
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    box = {"bbox": [x, y, side, side], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    return {**record, "annotations": [box | {"segmentation": [corners]}]}


@pytest.mark.parametrize("masks", [False, True])
def test_copy_paste_brings_the_labels_along(record, masks):
    # Flipped, the object comes from another place: only labels that are pasted with it agree with the images.
    turned = PairedDatasetMapper(True, [T.RandomFlip(1.0)], use_instance_mask=masks)
    plain = PairedDatasetMapper(True, use_instance_mask=masks)
    target, source = with_box(record), with_box({**record, "file_name": "source"})

    def mapper(pair):
        if pair["file_name"] == "source":
            return turned({**pair, "file_name": record["file_name"]})
        return plain(pair)

    sample = CopyPaste(mapper, [source], prob=1.0)(target)
    changed = sample["sem_seg"] != plain(target)["sem_seg"]
    y, x = torch.nonzero(changed).unbind(1)
    assert len(sample["instances"]) == 2 and 0.9 * 24**2 < changed.sum() <= 24**2
    assert (x.min(), x.max(), y.min(), y.max()) == (W - 44, W - 21, 30, 53)
    assert all(distance(sample, key) == 0 for key in CHANNELS)
    # What has no labels cannot be pasted into what has.
    del source["sem_seg_file_name"]
    sample = CopyPaste(mapper, [source], prob=1.0)(target)
    assert torch.equal(sample["image"], plain(target)["image"]) and len(sample["instances"]) == 1
    # Without boxes there is nothing to paste.
    assert "instances" not in CopyPaste(mapper, [source], prob=1.0)(record)


@pytest.mark.parametrize("workers", [0, 1])
def test_train_loader_keeps_every_image_and_skips_bad_labels(record, workers):
    dataset = [dict(record, image_id=i) for i in range(3)]
    dataset[1]["sem_seg_file_name"] = "nowhere.png"
    mapper = PairedDatasetMapper(True, [T.RandomCrop("absolute", (32, 32))])
    loader = build_train_loader(dataset, mapper, 2, workers, seed=1, on_bad_pair="skip")
    batches = list(itertools.islice(loader, 3))
    assert {x["image_id"] for batch in batches for x in batch} == {0, 2}
    assert loader.skipped["nowhere.png"] == 2
    again = build_train_loader(dataset, mapper, 2, 0, seed=1, start=2, on_bad_pair="skip")
    for a, b in zip(batches[2], next(iter(again)), strict=True):
        assert torch.equal(a["sem_seg"], b["sem_seg"]) and torch.equal(a["image"], b["image"])
    with pytest.raises(BadPair, match="label map nowhere.png is missing"):
        list(itertools.islice(build_train_loader(dataset, mapper, 3, workers, seed=1), 1))


def test_batches_of_the_config(pairs):
    """The common config on the synthetic set: training batches that detectron2 can pad, and a test loader."""
    cfg = load_config("configs/common/data/segmentation.py")
    data = cfg.dataloader
    data.train.dataset.names, data.test.dataset.names = "synthetic_seg_train", "synthetic_seg_val"
    data.train.total_batch_size, data.train.num_workers, data.test.num_workers = 4, 0, 0
    data.train.seed, data.train.on_bad_pair = 0, "stop"
    sizes = set()
    loader = instantiate(data.train)
    assert len(loader.dataset.dataset) == 12  # images without an object stay
    for batch in itertools.islice(loader, 3):
        for x in batch:
            sizes.add(tuple(x["sem_seg"].shape))
            assert x["sem_seg"].shape == x["image"].shape[1:] and max(x["sem_seg"].shape) <= 512
            assert set(x["sem_seg"].unique().tolist()) <= {0, 1, 2, 3, 4}  # nothing is padded here
        targets = ImageList.from_tensors([x["sem_seg"] for x in batch], 32, 255).tensor
        assert targets.dtype == torch.int64 and targets.shape[1] % 32 == 0
    assert len(sizes) > 3 and max(h for h, _ in sizes) == 512 and min(w for _, w in sizes) < 512
    test = instantiate(data.test)
    assert len(test) == 4
    for (x,) in test:
        assert x["image"].shape == x["image_ir"].shape == (3, x["height"], x["width"]) == (3, 72, 96)
        assert "sem_seg" not in x and x["time"] in ("day", "night")
    assert instantiate(data.evaluator) is not None


def test_detectron2s_test_loader_takes_the_dicts(pairs):
    dicts = segmentation_dicts("synthetic_seg_foreground_val")
    loader = build_detection_test_loader(dataset=dicts, mapper=PairedDatasetMapper(False), num_workers=0)
    assert [x["image_id"] for (x,) in loader] == [1, 2, 3, 4]
