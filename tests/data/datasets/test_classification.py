"""Every layout of classification data, its mistakes, and the mapper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from PIL import Image
from torchvision.transforms import v2

from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.classification import labeled_images, register_folder, register_known
from ivtuning.data.datasets.classification_layouts import CLASS_NAMES
from ivtuning.data.image_files import BadPair
from ivtuning.data.loaders.eval import build_test_loader
from ivtuning.data.loaders.train import build_train_loader
from ivtuning.data.mappers.classification import ClassificationMapper
from ivtuning.errors import UserError


@pytest.fixture
def root(sets):
    """$DETECTRON2_DATASETS with the three known sets, tiny."""
    flowers(sets / "flowers102")
    pets(sets / "pets")
    voc(sets / "VOC2007")
    yield sets
    for name in [n for n in DatasetCatalog.list() if n.startswith("own")]:
        unregister(name)


def picture(path: Path, color=(200, 30, 90), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def write(path: Path, *lines: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def flowers(root: Path, labels=(1, 2, 3, 3, 2, 1)):
    for i in range(1, 7):
        picture(root / f"jpg/image_{i:05d}.jpg")
    scipy.io.savemat(root / "imagelabels.mat", {"labels": [list(labels)]})
    scipy.io.savemat(root / "setid.mat", {"trnid": [[2, 1]], "valid": [[4]], "tstid": [[3, 5, 6]]})


def pets(root: Path):
    rows = {"Abyssinian_1": 1, "great_pyrenees_2": 2, "Abyssinian_3": 1, "great_pyrenees_4": 2}
    lines = [f"{name} {label} 1 1" for name, label in rows.items()]
    for name in rows:
        picture(root / f"images/{name}.jpg")
    write(root / "annotations/trainval.txt", "# image class species breed", *lines[:2])
    write(root / "annotations/test.txt", *lines[2:])


def voc(root: Path):
    """000001 a cat; 000002 a large person on a small horse; 000003 a difficult dog and nothing else."""
    flags = {"cat": {"000001": 1}, "person": {"000002": 1}, "horse": {"000002": 1}, "dog": {"000003": 0}}
    for name in CLASS_NAMES:
        for part in ("trainval", "test"):
            marks = flags.get(name, {})
            lines = [f"{i} {marks.get(i, -1):2d}" for i in ("000001", "000002", "000003")]
            write(root / f"ImageSets/Main/{name}_{part}.txt", *lines)
    box = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"
    boxes = "".join(f"{box.format(*b)}</object>" for b in (("horse", 9), ("person", 30), ("dog", 39)))
    write(root / "Annotations/000002.xml", f"<annotation>{boxes}</annotation>")
    for i in (1, 2, 3):
        picture(root / f"JPEGImages/00000{i}.jpg")


def labels_of(name: str | list[str], **kwargs) -> dict[str, int]:
    """The label of each image by the stem of its file."""
    return {Path(r["file_name"]).stem: r["label"] for r in labeled_images(name, **kwargs)}


def test_known_sets_read_their_releases(root):
    assert labels_of("flowers102_train", every_class=True) == {
        "image_00002": 1,
        "image_00001": 0,
        "image_00004": 2,
    }
    assert labels_of("flowers102_test") == {"image_00003": 2, "image_00005": 1, "image_00006": 0}
    assert labels_of("pets_train", every_class=True) == {"Abyssinian_1": 0, "great_pyrenees_2": 1}
    assert labels_of("pets_test") == {"Abyssinian_3": 0, "great_pyrenees_4": 1}
    assert MetadataCatalog.get("pets_train").classes == ["Abyssinian", "great_pyrenees"]
    cat, person, dog = (CLASS_NAMES.index(n) for n in ("cat", "person", "dog"))
    for part in ("train", "test"):
        assert labels_of(f"voc2007cls_{part}") == {"000001": cat, "000002": person, "000003": dog}
    assert [r["image_id"] for r in labeled_images("pets_test")] == [1, 2]


def test_lists_win_over_the_release(root):
    write(root / "pets/meta/train.txt", "a 1/x.png 0", "y.png 2", "z.png\t1")
    write(root / "pets/meta/test.txt", "w.png 2")
    for path in ("train/a 1/x.png", "train/y.png", "train/z.png", "test/w.png"):
        picture(root / "pets" / path)
    register_known()
    assert labels_of("pets_train", every_class=True) == {"x": 0, "y": 2, "z": 1}
    assert labels_of("pets_test") == {"w": 2} and MetadataCatalog.get("pets_test").classes == ["0", "1", "2"]


def test_known_names_read_lists_and_class_folders_of_all_parts(root):
    (root / "pets/meta").mkdir()
    for i, part in enumerate(("train", "val", "test")):
        write(root / f"pets/meta/{part}.txt", "x.png 0", f"y{i}.png 1")
        for name in ("x.png", f"y{i}.png"):
            picture(root / "pets" / part / name)
        for name in ("cat", "dog"):
            picture(root / "flowers102" / part / name / f"{name}{i}.png")
    register_known()
    assert [labels_of(f"pets_{part}") for part in ("train", "val", "test")] == [
        {"x": 0, f"y{i}": 1} for i in range(3)
    ]
    # Plain folders, where the images of the release would be beside them.
    assert [labels_of(f"flowers102_{part}") for part in ("train", "val", "test")] == [
        {f"cat{i}": 0, f"dog{i}": 1} for i in range(3)
    ]
    assert MetadataCatalog.get("flowers102_val").classes == ["cat", "dog"]


def test_folders(root):
    for path in ("train/dog/1.png", "train/cat/2.JPG", "train/cat/notes.txt", "test/dog/3.png"):
        picture(root / "own" / path) if not path.endswith("txt") else write(root / "own" / path, "no image")
    register_folder("own_train", root / "own", "train")
    register_folder("own_test", root / "own", "test")
    register_folder("own_whole", root / "own/train")
    assert labels_of("own_train", every_class=True) == labels_of("own_whole") == {"2": 0, "1": 1}
    assert labels_of("own_test") == {"3": 1}  # classes are those of train
    assert labels_of(["own_train", "own_test"]) == {"2": 0, "1": 1, "3": 1}
    picture(root / "own/train/dog/small/4.png")
    register_folder("own_deep", root / "own/train")
    assert labels_of("own_deep") == {"2": 0, "1": 1, "4": 1}


def _meta(root, *lines):
    picture(root / "pets/train/a.jpg")
    write(root / "pets/meta/train.txt", *lines)


MISTAKES = {
    "two labels": (
        "pets_train",
        lambda r: _meta(r, "a.jpg 0", "b.jpg 1", "a.jpg 1"),
        "train.txt:3: a.jpg has the label 0 in a line above",
    ),
    "no root": ("pets_train", lambda r: (r / "pets").rename(r / "x"), "pets is missing"),
    "no labels": (
        "flowers102_train",
        lambda r: (r / "flowers102/imagelabels.mat").unlink(),
        "imagelabels.mat is mis",
    ),
    "no images": ("flowers102_test", lambda r: (r / "flowers102/jpg").rename(r / "x"), "jpg is missing"),
    "cut mat": (
        "flowers102_test",
        lambda r: (r / "flowers102/setid.mat").write_bytes(b"MAT"),
        "setid.mat is not a",
    ),
    "other mat": (
        "flowers102_test",
        lambda r: scipy.io.savemat(r / "flowers102/setid.mat", {"ids": [1]}),
        "no numbers 'tstid'",
    ),
    "short labels": (
        "flowers102_test",
        lambda r: flowers(r / "flowers102", (1, 2)),
        "imagelabels.mat labels 2",
    ),
    "label 0": (
        "flowers102_train",
        lambda r: flowers(r / "flowers102", (0, 1, 2, 1, 1, 1)),
        "unknown label -1",
    ),
    "empty class": (
        "flowers102_train",
        lambda r: flowers(r / "flowers102", (1, 2, 3, 1, 1, 1)),
        r"class 2 \(3\)",
    ),
    "no list": ("pets_test", lambda r: (r / "pets/annotations/test.txt").unlink(), "test.txt is missing"),
    "unknown breed": (
        "pets_test",
        lambda r: write(r / "pets/annotations/test.txt", "a_1 9 1 1"),
        "unknown label 8",
    ),
    "odd line": (
        "pets_test",
        lambda r: write(r / "pets/annotations/test.txt", "a_1 cat"),
        "test.txt:1: expected",
    ),
    "empty list": ("pets_test", lambda r: write(r / "pets/annotations/test.txt"), "lists no image"),
    "voc list": (
        "voc2007cls_test",
        lambda r: (r / "VOC2007/ImageSets/Main/cow_test.txt").unlink(),
        "cow_test.txt",
    ),
    "voc xml": (
        "voc2007cls_test",
        lambda r: (r / "VOC2007/Annotations/000002.xml").unlink(),
        "000002.xml is mis",
    ),
    "voc box": (
        "voc2007cls_test",
        lambda r: write(r / "VOC2007/Annotations/000002.xml", "<annotation/>"),
        "000002.xml has no box",
    ),
    "voc flag": (
        "voc2007cls_train",
        lambda r: write(r / "VOC2007/ImageSets/Main/bus_trainval.txt", "000001 2"),
        "bus_trainval.txt:1: expected",
    ),
    "voc class": ("voc2007cls_train", lambda r: None, r"class 0 \(aeroplane\) has no image"),
    "meta line": ("pets_train", lambda r: _meta(r, "a.jpg"), "train.txt:1: expected `path label`"),
    "meta label": ("pets_train", lambda r: _meta(r, "a.jpg -1"), "unknown label -1"),
    "val": (
        "flowers102_val",
        lambda r: None,
        "neither meta/val.txt nor val/.*flowers102_test",
    ),
    "typo": ("pest_train", lambda r: None, "did you mean 'pets_train'"),
    "pairs": ("synthetic_train", lambda r: None, "no classification set"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_reported(root, case):
    name, spoil, message = MISTAKES[case]
    spoil(root)
    with pytest.raises(UserError, match=message) as error:
        labeled_images(name, every_class="train" in name)
    assert "\n" not in str(error.value)


def test_mistakes_in_folders_are_reported(root):
    for path in ("train/cat/1.png", "test/cta/1.png"):
        picture(root / "own" / path)
    register_folder("own_test", root / "own", "test")
    with pytest.raises(UserError, match="no class 'cta'; did you mean 'cat'"):
        labeled_images("own_test")
    (root / "own/train/bird").mkdir()
    register_folder("own_train", root / "own", "train")
    with pytest.raises(UserError, match="bird holds no image"):
        labeled_images("own_train")
    with pytest.raises(UserError, match="different classes"):
        labeled_images(["pets_train", "flowers102_train"])


def mapper(is_train=True, size=16):
    if is_train:
        return ClassificationMapper(True, [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])
    return ClassificationMapper(False, [v2.Resize(2 * size), v2.CenterCrop(size)])


def test_mapper_crops_and_keeps_the_label(root):
    record = labeled_images("pets_test")[1]
    for is_train in (True, False):
        out = mapper(is_train)(record)
        assert out["image"].shape == (3, 16, 16) and out["image"].dtype == torch.uint8 and out["label"] == 1
        # One color, whatever the crop; JPEG moves it a little.
        assert (out["image"].float().mean((1, 2)) - torch.tensor([200.0, 30, 90])).abs().max() < 4
    assert "image" not in record


def test_test_mapper_takes_the_center(root):
    image = np.zeros((32, 64, 3), np.uint8)
    image[8:24, 24:40] = 255
    Image.fromarray(image).save(root / "center.png")
    out = mapper(False)({"file_name": str(root / "center.png"), "label": 0})
    assert (out["image"] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_color_modes_become_rgb(root, mode):
    path = root / f"x.{'tif' if mode == 'CMYK' else 'png'}"
    image = Image.new("RGB", (20, 20), (90, 90, 90))
    (image.quantize(4) if mode == "P" else image.convert(mode)).save(path)
    image = ClassificationMapper(True)({"file_name": str(path)})["image"]
    assert image.shape == (3, 20, 20) and (image.float() - 90).abs().max() < 3


def test_mapper_names_the_bad_file(root):
    (root / "cut.jpg").write_bytes((root / "pets/images/Abyssinian_1.jpg").read_bytes()[:200])
    for name, why in (("cut.jpg", "cannot be read"), ("gone.jpg", "is missing")):
        with pytest.raises(BadPair, match=f"{name} {why}") as error:
            mapper()({"file_name": str(root / name), "label": 0})
        assert error.value.file_name == str(root / name)
    floats = ClassificationMapper(True, [v2.ToDtype(torch.float32)])
    with pytest.raises(UserError, match="ToDtype gave"):
        floats(labeled_images("pets_train")[0])


def test_training_stream_is_a_function_of_seed_and_position(root):
    rng = np.random.default_rng(0)
    for path in (root / "pets/images").iterdir():
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path, quality=95)
    dicts = labeled_images("pets_train")

    def batches(count, **kwargs):
        torch.rand(3)  # what was drawn before makes no difference
        loader = iter(build_train_loader(dicts, mapper(), total_batch_size=3, seed=5, **kwargs))
        return [[(x["label"], x["image"]) for x in next(loader)] for _ in range(count)]

    whole, late = batches(4), batches(2, start=2, num_workers=1)
    for a, b in zip(whole[2:], late, strict=True):
        assert all(p[0] == q[0] and torch.equal(p[1], q[1]) for p, q in zip(a, b, strict=True))
    assert not torch.equal(whole[0][0][1], whole[1][0][1])


def test_skipping_takes_the_next_image(root):
    (root / "pets/images/Abyssinian_1.jpg").write_bytes(b"no image")
    dicts = labeled_images("pets_train")
    loader = build_train_loader(dicts, mapper(), total_batch_size=4, on_bad_pair="skip")
    assert {x["label"] for x in next(iter(loader))} == {1}


def test_test_loaders_give_every_image_once_in_order(root):
    dicts = labeled_images("flowers102_test")
    ours = [[x["image_id"] for x in batch] for batch in build_test_loader(dicts, mapper(False), batch_size=2)]
    theirs = [
        x["image_id"] for batch in build_detection_test_loader(dicts, mapper=mapper(False)) for x in batch
    ]
    assert ours == [[1, 2], [3]] and theirs == [1, 2, 3]
