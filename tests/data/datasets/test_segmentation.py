"""Label maps: their values, and registration and reading of segmentation sets."""

import struct
import zlib

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.sets import registering
from PIL import Image

from ivtuning.data.catalog import metadata, unregister
from ivtuning.data.datasets.detection import training_dicts
from ivtuning.data.datasets.segmentation import (
    KNOWN,
    register_known,
    register_segmentation,
    segmentation_dicts,
)
from ivtuning.data.image_files import BadPair
from ivtuning.data.labels import read_labels
from ivtuning.data.synthetic import generate as synthetic
from ivtuning.errors import UserError

H, W = 6, 8
IDS = {0: 0, 3: 1, 9: 2, 7: 255}
MAPPED = {**IDS, 255: 255}
VALUES = np.random.RandomState(0).choice(list(MAPPED), (H, W)).astype(np.uint8)
EXPECTED = np.vectorize(MAPPED.get)(VALUES)


def save(picture, path, **kwargs) -> str:
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(path, **kwargs)
    return str(path)


def record(path, ids=IDS, **changes) -> dict:
    sizes = {"height": H, "width": W}
    return {"file_name": "v.png", "sem_seg_file_name": str(path), "label_ids": ids, **sizes} | changes


def palette(values) -> Image.Image:
    """Colors whose luminance is far from the index."""
    image = Image.fromarray(values).copy()
    image.putpalette(np.random.RandomState(1).randint(0, 256, 768, np.uint8).tobytes())
    return image


def small_gray_png(values, bits: int) -> bytes:
    """A gray PNG of 2 or 4 bits a sample, which Pillow does not write."""
    flat = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in flat)

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", *values.shape[::-1], bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# ---- reading ----


@pytest.mark.parametrize("make", [np.copy, palette, np.uint16], ids=["L", "P", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_values_become_train_ids(tmp_path, make, suffix):
    path = save(make(VALUES), tmp_path / f"labels.{suffix}")
    labels = read_labels(record(path))
    assert labels.dtype == np.uint8 and (labels == EXPECTED).all()


def test_a_palette_of_few_colors_is_read_by_index(tmp_path):
    values = np.minimum(VALUES, 9)  # needs 4 bits
    path = save(palette(values.copy()), tmp_path / "p.png", bits=4)
    assert (read_labels(record(path)) == np.vectorize(IDS.get)(values)).all()


def test_values_beyond_8_bits_and_150_classes(tmp_path):
    ids = {300 * (i + 1): i for i in range(150)}
    values = np.arange(H * W, dtype=np.uint16).reshape(H, W) % 50 * 900 + 300
    path = save(values, tmp_path / "deep.png")
    assert (read_labels(record(path, ids)) == values // 300 - 1).all()


def test_exif_orientation_does_not_turn_labels(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = save(VALUES, tmp_path / "turned.png", exif=exif)
    assert (read_labels(record(path)) == EXPECTED).all()


@pytest.mark.parametrize(
    ("value", "dtype"), [(8, np.uint8), (254, np.uint8), (10, np.uint8), (256, np.uint16), (65535, np.uint16)]
)
def test_an_unknown_value_is_named(tmp_path, value, dtype):
    values = VALUES.astype(dtype)
    values[2:4, 3] = value
    path = save(values, tmp_path / "odd.png")
    with pytest.raises(UserError, match=rf"odd.png has 2 pixels of value {value}, .*fix the file") as caught:
        read_labels(record(path))
    # Wrong for the whole set as a rule, so on_bad_pair=skip must not hide it.
    assert not isinstance(caught.value, BadPair)


BAD = {
    "rgb": (
        lambda: palette(VALUES.copy()).convert("RGB"),
        r"3 channels, 8 bits \(RGB\).*convert its colors",
    ),
    "rgba": (lambda: palette(VALUES.copy()).convert("RGBA"), r"4 channels, .*\(RGBA\)"),
    "gray and alpha": (lambda: Image.fromarray(VALUES).convert("LA"), r"2 channels, .*\(LA\)"),
    "binary": (lambda: Image.fromarray(VALUES).convert("1"), r"\(1\)"),
    "high": (lambda: VALUES[:-1], "labels.png is 8x5 but its image v.png is 8x6"),
    "turned": (lambda: VALUES.T.copy(), "labels.png is 6x8 but its image v.png is 8x6"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_wrong_label_files(tmp_path, make, message):
    path = save(make(), tmp_path / "labels.png")
    expect_bad(path, message)


def expect_bad(path, message):
    with pytest.raises(BadPair, match=message) as caught:
        read_labels(record(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.file_name == str(path)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_of_few_bits_is_refused_because_decoders_scale_it(tmp_path, bits):
    path = tmp_path / "small.png"
    path.write_bytes(small_gray_png(np.full((H, W), 3, np.uint8), bits))
    with Image.open(path) as image:
        assert image.mode == "L" and np.asarray(image)[0, 0] == 3 * (85 if bits == 2 else 17)
    expect_bad(path, rf"{bits} bits \(L\), not one class index a pixel")


def test_jpeg_missing_truncated_and_no_image(tmp_path):
    expect_bad(save(VALUES, tmp_path / "lossy.jpg"), "is a JPEG")
    expect_bad(tmp_path / "nowhere.png", "label map .* is missing")
    noise = np.random.RandomState(0).randint(0, 9, (60, 80), np.uint8)
    path = tmp_path / "cut.png"
    save(noise, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    expect_bad(path, "label map .* cannot be read")
    path.write_bytes(b"no image at all")
    expect_bad(path, "cannot be read")


# ---- registration ----


def content(paired=True, **changes) -> dict:
    folders = {"file_name": "vis", "sem_seg_file_name": "labels"} | ({"ir_file_name": "ir"} if paired else {})
    images = [
        {"id": i, "height": 6, "width": 8} | {key: f"{folder}/{i}.png" for key, folder in folders.items()}
        for i in (1, 2)
    ]
    images[0]["time"] = "night"
    # Not in the order of their values, which counts.
    named = {4: "sky", 0: "unlabeled", 1: "road"}
    categories = [{"id": i, "name": name, "color": [i, 20, 30]} for i, name in named.items()]
    return {"info": {}, "images": images, "categories": categories} | changes


@pytest.fixture
def register(tmp_path):
    with registering(tmp_path, "segmentation", register_segmentation) as make:
        yield lambda content, name="some_seg", **options: make(content, name, **options)


def test_records_and_metadata(register, tmp_path):
    name = register(content(ignored=[9]))
    first, second = segmentation_dicts(name)
    root = tmp_path / name
    assert first == {
        "file_name": str(root / "vis/1.png"),
        "ir_file_name": str(root / "ir/1.png"),
        "sem_seg_file_name": str(root / "labels/1.png"),
        "height": 6,
        "width": 8,
        "image_id": 1,
        "time": "night",
        "label_ids": {0: 0, 1: 1, 4: 2, 9: 255},
    }
    assert "time" not in second and second["image_id"] == 2
    meta = MetadataCatalog.get(name)
    assert meta.stuff_classes == ["unlabeled", "road", "sky"]
    assert meta.stuff_colors == [[0, 20, 30], [1, 20, 30], [4, 20, 30]]
    assert meta.stuff_dataset_id_to_contiguous_id == {0: 0, 1: 1, 4: 2}
    assert (meta.ignore_label, meta.evaluator_type, meta.protocol) == (255, "sem_seg", "all")
    assert meta.json_file == str(root / "segmentation" / "train.json") and meta.image_root == str(root)
    assert segmentation_dicts(name) == [first, second]  # read a second time


def test_foreground_leaves_out_the_background(register):
    name = register(content(), protocol="foreground")
    assert segmentation_dicts(name)[0]["label_ids"] == {0: 255, 1: 0, 4: 1}
    meta = MetadataCatalog.get(name)
    assert meta.stuff_classes == ["road", "sky"] and meta.protocol == "foreground"


def test_visible_only_set_and_declared_missing(register):
    assert all("ir_file_name" not in r for r in segmentation_dicts(register(content(paired=False))))
    mixed = content()
    del mixed["images"][1]["ir_file_name"]
    mixed["images"][1]["missing"] = "infrared"
    records = segmentation_dicts(register(mixed, "mixed_seg"))
    assert "ir_file_name" in records[0] and records[1]["missing"] == "infrared"


def test_recorded_image_root_wins(register, tmp_path):
    record = segmentation_dicts(register(content(info={"image_root": "raw"})))[0]
    assert record["sem_seg_file_name"] == str(tmp_path / "some_seg/raw/labels/1.png")
    record = segmentation_dicts(register(content(info={"image_root": "/far"}), "far_seg"))[0]
    assert record["file_name"] == "/far/vis/1.png"


def test_registering_is_lazy_and_idempotent(register, tmp_path):
    path = tmp_path / "segmentation" / "train.json"
    register_segmentation("lazy_seg", path, tmp_path)
    before = MetadataCatalog.get("lazy_seg")
    register_segmentation("lazy_seg", path, tmp_path)
    assert MetadataCatalog.get("lazy_seg") is before
    register_segmentation("lazy_seg", path, tmp_path, "foreground")
    assert MetadataCatalog.get("lazy_seg").protocol == "foreground"
    with pytest.raises(UserError, match=r"train.json is missing: make it with datasets/prepare_pairs.py"):
        segmentation_dicts("lazy_seg")
    unregister("lazy_seg")


def test_known_sets_follow_the_environment(sets):
    for name, file, protocol in [
        ("msrs_seg_train", "msrs/segmentation/train.json", "all"),
        ("msrs_seg_foreground_test", "msrs/segmentation/test.json", "foreground"),
        ("mfnet_seg_val", "mfnet/segmentation/val.json", "all"),
        ("fmb_seg_test", "fmb/segmentation/test.json", "all"),
        ("pst900_seg_foreground_train", "pst900/segmentation/train.json", "foreground"),
        ("ade20k_seg_val", "ade20k/segmentation/val.json", "all"),
        ("synthetic_seg_train", "synthetic/segmentation/train.json", "all"),
    ]:
        known = metadata(name)
        assert (known.json_file, known.protocol) == (str(sets / file), protocol)
    assert "ade20k_seg_foreground_val" not in DatasetCatalog.list()
    for name in ("street/segmentation/mine_train.json", "street/segmentation/mine_extra.json"):
        (sets / name).parent.mkdir(parents=True, exist_ok=True)
        (sets / name).write_text("{}")
    register_known()
    assert metadata("street_seg_mine_train").image_root == str(sets / "street")
    assert "street_seg_mine_extra" not in DatasetCatalog.list()
    with pytest.raises(UserError, match=rf"train.json is missing: make it with {KNOWN['msrs'].maker}"):
        segmentation_dicts("msrs_seg_train")


def test_synthetic_set_is_made_on_first_use(sets, monkeypatch):
    generate = synthetic.generate
    monkeypatch.setattr(synthetic, "generate", lambda root: generate(root, train=2, val=1, size=(96, 72)))
    records = segmentation_dicts("synthetic_seg_train")
    assert len(records) == 2 and {r["time"] for r in records} == {"day", "night"}
    assert MetadataCatalog.get("synthetic_seg_train").stuff_classes[0] == "background"
    for name, background in (("synthetic_seg_train", 0), ("synthetic_seg_foreground_train", 255)):
        for r in segmentation_dicts(name):
            labels = read_labels(r)
            assert labels.shape == (72, 96) and labels[0, 0] == background
            assert 0 < np.isin(labels, range(5 - (background > 0))).mean() <= 1
    assert len(DatasetCatalog.get("synthetic_train")) == 2  # the boxes of the same scenes


def test_entry_of_the_synthetic_set_is_true_to_its_files(sets):
    known = KNOWN["synthetic"]
    synthetic.generate(sets / known.folder, train=1, val=1, size=(96, 72))
    for part, (folder, _) in known.parts.items():
        for pattern in (known.visible, known.infrared, known.labels):
            assert len(list((sets / known.folder).glob(pattern.replace("{part}", folder)))) == 1
        segmentation_dicts(f"synthetic_seg_{part}")
        assert MetadataCatalog.get(f"synthetic_seg_{part}").stuff_classes == list(known.classes)


def changed(where, **changes) -> dict:
    """The content with one image or class changed; None takes the key away."""
    coco = content()
    key, index = where
    coco[key][index] = {k: v for k, v in (coco[key][index] | changes).items() if v is not None}
    return coco


BAD_JSON = {
    "half written": ('{"images": [', "not valid JSON"),
    "a list": ("[]", "is a list, but must be an object with images, categories"),
    "boxes only": ({"images": []}, "no list 'categories'"),
    "no images": (content(images=[]), "lists no images"),
    "no categories": (content(categories=[]), "lists 0 classes"),
    "no labels": (changed(("images", 1), sem_seg_file_name=None), "vis/2.png: it has no 'sem_seg_file_name'"),
    "no partner": (changed(("images", 1), ir_file_name=None), "vis/2.png: it has no ir_file_name"),
    "odd missing": (
        changed(("images", 1), missing="infrard"),
        "vis/2.png: missing is 'infrard', not .*did you",
    ),
    "id twice": (changed(("images", 1), id=1), r"images: id 1 occurs 2 times, first at images\[0\]"),
    "no color": (changed(("categories", 0), color=None), r"category 4 \(sky\): it has no 'color'"),
    "bad color": (changed(("categories", 0), color=[1, 2]), r"category 4 \(sky\): color is \[1, 2\], not"),
    "text as value": (changed(("categories", 0), id="4"), "id is '4', not a value of label files"),
    "class twice": (changed(("categories", 0), id=1), "categories: id 1 occurs 2 times"),
    "class ignored": (content(ignored=[4]), "the value 4 is both the class 'sky' and ignored"),
    "class 255": (changed(("categories", 0), id=255), r"category 255 \(sky\): id is 255, not"),
    "too many": (
        content(categories=[{"id": i + 256, "name": str(i), "color": [0, 0, 0]} for i in range(255)]),
        "lists 255 classes",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json_is_named(register, text, message):
    with pytest.raises(UserError, match=f"train.json.*{message}"):
        segmentation_dicts(register(text))


def test_foreground_needs_a_background(register):
    text = content()
    text["categories"] = [c for c in text["categories"] if c["id"]]
    with pytest.raises(UserError, match="no class has the value 0, .* use protocol=all"):
        segmentation_dicts(register(text, protocol="foreground"))
    with pytest.raises(UserError, match="protocol='foregrund': give all or foreground; did you mean"):
        register_segmentation("never_seg", "x.json", ".", "foregrund")
    assert "never_seg" not in DatasetCatalog.list()


def test_what_cannot_train_together(register):
    name = register(content())
    assert len(segmentation_dicts([name, register(content(), "second_seg")])) == 4
    other = register(content(), "other_seg", protocol="foreground")
    with pytest.raises(UserError, match="some_seg and other_seg have different classes"):
        segmentation_dicts([name, other])
    with pytest.raises(UserError, match="no data set is called 'some_sge'; did you mean 'some_seg'"):
        segmentation_dicts("some_sge")
    with pytest.raises(UserError, match="synthetic_val has no label maps"):
        segmentation_dicts("synthetic_val")
    with pytest.raises(UserError, match="some_seg has no box to train on"):
        training_dicts(name)
