"""Every segmentation release in its true layout, tiny: what is written, what is copied, what is refused."""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.tools import MSRS
from PIL import Image

from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.segmentation import register_known, register_segmentation
from ivtuning.data.datasets.segmentation_layouts import KNOWN, Part, SegmentationSet, releases, voc_color
from ivtuning.data.labels import read_labels
from ivtuning.data.verify.verification import verify
from ivtuning.errors import UserError, run_tool

W, H = 24, 16
RELEASES = releases()


@pytest.fixture
def main(script):
    return script("prepare_segmentation")


def save(path: Path, pixels: np.ndarray, mode: str | None = None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def noise(seed: int, channels: int) -> np.ndarray:
    shape = (H, W, channels) if channels > 1 else (H, W)
    return np.random.default_rng(seed).integers(1, 255, shape, np.uint8)


def labels(*values: int) -> np.ndarray:
    """(H, W) uint8: equal upright stripes of the values."""
    return np.repeat(np.array(values, np.uint8), W // len(values))[None].repeat(H, 0)


def folders(root: Path, parts: dict, names: tuple[str, str, str], stems, *values):
    for i, part in enumerate(parts):
        for j, stem in enumerate(stems):
            save(root / part / names[0] / f"{stem}.png", noise(10 * i + j, 3))
            save(root / part / names[1] / f"{stem}.png", noise(100 + 10 * i + j, 1))
            save(root / part / names[2] / f"{stem}.png", labels(*values))
    return root


def msrs(root: Path) -> Path:
    names = ("vi", "ir", "Segmentation_labels")
    return folders(root, RELEASES["msrs"].parts, names, ("00001D", "00002N"), 0, 1, 8)


def fmb(root: Path) -> Path:
    folders(root, RELEASES["fmb"].parts, ("Visible", "Infrared", "Label"), ("00001", "00002"), 0, 1, 14)
    save(root / "train/color/00001.png", noise(0, 3))
    return root


def pst900(root: Path) -> Path:
    names = ("rgb", "thermal", "labels")
    folders(root, RELEASES["pst900"].parts, names, ("31_bag1a_rect_rgb_frame0000000007",), 0, 4)
    save(root / "train/depth/31_bag1a_rect_rgb_frame0000000007.png", noise(0, 1))
    return root


def mfnet(root: Path) -> Path:
    lists = {"train": ["00001D", "00002N"], "val": ["00003D"], "test": ["00004N"]}
    for part, stems in lists.items():
        (root / f"{part}.txt").parent.mkdir(exist_ok=True)
        # make_flip.py of the release adds mirrored copies
        copies = [f"{stem}_flip" for stem in stems] if part == "train" else []
        (root / f"{part}.txt").write_text("".join(f"{stem}\n" for stem in stems + copies))
        for stem in stems + copies:
            save(root / f"images/{stem}.png", noise(int(stem[:5]), 4))
            save(root / f"labels/{stem}.png", labels(0, 2, 7))
    return root


def ade20k(root: Path) -> Path:
    for folder, stems in (("training", ("ADE_train_00000001", "ADE_train_00000002")), ("validation", "v")):
        for i, stem in enumerate(stems):
            # A few are gray; no image is in both parts.
            save(root / f"images/{folder}/{stem}.jpg", noise(i + len(folder), 1 if i else 3))
            save(root / f"annotations/{folder}/{stem}.png", labels(0, 1, 150))
    return root


WRITERS = {f.__name__: f for f in (msrs, mfnet, fmb, pst900, ade20k)}


def content(root: Path, part: str) -> dict:
    return json.loads((root / "segmentation" / f"{part}.json").read_text())


def files(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def records(name: str) -> list[dict]:
    return DatasetCatalog.get(name)


def test_tool_offers_every_layout(main):
    assert set(RELEASES) == set(WRITERS)
    with pytest.raises(UserError, match=f"--set msr: give {', '.join(RELEASES)}; did you mean 'msrs'"):
        main(["--set", "msr"])
    with pytest.raises(UserError, match="--set synthetic: give"):  # which has no release
        main(["--set", "synthetic"])


def test_a_new_set_is_one_entry(main, tmp_path, monkeypatch):
    entry = SegmentationSet(
        folder="mine",
        parts={"train": Part("a", 2), "test": Part("b", 2)},
        description="pairs of a test",
        visible="{part}/rgb/*.png",
        infrared="{part}/thermal/*.png",
        labels="{part}/masks/*.png",
        classes={"ground": (0, 0, 0), "tree": (0, 200, 0)},
    )
    monkeypatch.setitem(KNOWN, "mine", entry)
    register_known()
    source = folders(tmp_path / "release", ("a", "b"), ("rgb", "thermal", "masks"), ("1", "2"), 0, 1)
    main(["--set", "mine", "--source", str(source)])
    assert [len(records(f"mine_seg_{part}")) for part in ("train", "test")] == [2, 2]
    assert read_labels(records("mine_seg_foreground_test")[0])[0, :: W // 2].tolist() == [255, 0]
    assert MetadataCatalog.get("mine_seg_train").stuff_classes == ["ground", "tree"]
    for name in [n for n in DatasetCatalog.list() if n.startswith("mine_")]:
        unregister(name)


@pytest.mark.parametrize("name", WRITERS)
def test_dry_run_then_write_then_unchanged(name, main, tmp_path, capsys):
    source, output = WRITERS[name](tmp_path / "release"), tmp_path / "sets"
    released = files(source)
    main(["--set", name, "--source", str(source), "--dry-run"])
    assert "would create" in capsys.readouterr().out and not output.exists()
    main(["--set", name, "--source", str(source)])
    assert "created: " in capsys.readouterr().out
    written = files(output)
    assert files(source) == released
    main(["--set", name, "--source", str(source)])
    out = capsys.readouterr().out
    assert "unchanged: " in out and "created" not in out and "replaced" not in out
    assert files(output) == written
    parts = {part: content(output / name, part) for part in RELEASES[name].parts}
    assert all(c["info"]["image_root"] == str(source) for c in parts.values())

    # What was written reads, is without fault, and is the same where the release lies in the set's folder.
    sets = {part: (output / name / "segmentation" / f"{part}.json", output / name) for part in parts}
    assert verify(sets).count("error") == 0
    arrays = {part: [read_labels(r) for r in records(f"{name}_seg_{part}")] for part in parts}
    main(["--set", name, "--source", str(source), "--output", str(source)])
    for part in parts:
        inside = content(source, part)
        assert "image_root" not in inside["info"] and str(tmp_path) not in json.dumps(inside)
        register_segmentation("inside", source / "segmentation" / f"{part}.json", source)
        np.testing.assert_array_equal([read_labels(r) for r in records("inside")], arrays[part])
    unregister("inside")
    # Only what needed a copy got one; the release itself stays as it was.
    assert released.items() <= files(source).items()


def test_msrs(main, tmp_path, capsys):
    source = msrs(tmp_path / "release")
    save(source / "test/Segmentation_labels/00002N.png", labels(0))
    save(source / "test/Segmentation_labels/00099N.png", labels(0))
    main(["--set", "msrs", "--source", str(source)])
    train = content(tmp_path / "sets/msrs", "train")
    assert train["info"] == {
        "description": "MSRS pairs with label maps",
        "image_root": str(source),
        "split": "train",
    }
    assert train["images"][1] == {
        "id": 2,
        "file_name": "train/vi/00002N.png",
        "ir_file_name": "train/ir/00002N.png",
        "sem_seg_file_name": "train/Segmentation_labels/00002N.png",
        "height": H,
        "width": W,
        "time": "night",
    }
    assert train["categories"][1] == {"id": 1, "name": "car", "color": [64, 0, 128]}
    assert len(train["categories"]) == 9 and train["ignored"] == []
    assert files(tmp_path / "sets/msrs").keys() == {"segmentation/train.json", "segmentation/test.json"}
    out = capsys.readouterr().out
    rows = {tuple(line.split()) for line in out.splitlines()}
    assert {("images", "2", "2"), ("night", "1", "1"), ("size", f"{W}x{H}", "2", "2")} <= rows
    assert ("bump", "33.333", "2", "16.667", "1") in rows and ("bike", "0.000", "0", "0.000", "0") in rows
    assert ("label", "maps", "wholly", "unlabeled", "0", "1") in rows
    assert ("skipped:", "label", "maps", "without", "image", "0", "1") in rows
    assert "warning: train has 2 images (1083 published)" in out
    assert "note: no image of test shows person, bike, curve, car_stop, guardrail and 1 more" in out


def test_protocols(main, tmp_path):
    main(["--set", "msrs", "--source", str(msrs(tmp_path / "release"))])
    everything, foreground = (records(f"msrs_seg{infix}_test")[0] for infix in ("", "_foreground"))
    assert read_labels(everything)[0, ::8].tolist() == [0, 1, 8]
    assert read_labels(foreground)[0, ::8].tolist() == [255, 0, 7]
    assert len(MetadataCatalog.get("msrs_seg_test").stuff_classes) == 9
    assert MetadataCatalog.get("msrs_seg_foreground_test").stuff_classes[0] == "car"


def test_mfnet_channels_are_parted(main, tmp_path, capsys):
    source = mfnet(tmp_path / "release")
    main(["--set", "mfnet", "--source", str(source)])
    out = capsys.readouterr().out
    rows = [line.rsplit(maxsplit=3) for line in out.splitlines()]
    assert ["skipped: mirrored copies (_flip)", "2", "0", "0"] in rows
    assert f"created: {tmp_path}/sets/mfnet/ir (4 files)" in out
    parts = {part: records(f"mfnet_seg_{part}") for part in ("train", "val", "test")}
    assert {part: len(r) for part, r in parts.items()} == {"train": 2, "val": 1, "test": 1}
    assert [r["time"] for r in parts["train"]] == ["day", "night"]
    for record in (r for part in parts.values() for r in part):
        both = np.asarray(Image.open(source / "images" / Path(record["file_name"]).name))
        np.testing.assert_array_equal(np.asarray(Image.open(record["file_name"])), both[..., :3])
        infrared = Image.open(record["ir_file_name"])
        assert infrared.mode == "L"
        np.testing.assert_array_equal(np.asarray(infrared), both[..., 3])
        assert record["sem_seg_file_name"].startswith(str(source))


def test_pst900_holes_take_the_nearest_pixel(main, tmp_path, capsys):
    source = pst900(tmp_path / "release")
    (path,) = (source / "train/thermal").iterdir()
    thermal = noise(5, 1)
    thermal[:, 5] = 0  # a thin line
    thermal[:4, 20:] = 0  # and a corner
    save(path, thermal)
    save(source / "test/thermal" / path.name, np.zeros_like(thermal))  # nothing to fill it with
    main(["--set", "pst900", "--source", str(source)])
    (train,), (test,) = records("pst900_seg_train"), records("pst900_seg_test")
    filled = np.asarray(Image.open(train["ir_file_name"]))
    assert (filled[thermal > 0] == thermal[thermal > 0]).all() and (filled > 0).all()
    assert all(filled[y, 5] in (thermal[y, 4], thermal[y, 6]) for y in range(H))
    assert filled[3, 22] == thermal[4, 22] and filled[0, 20] == thermal[0, 19]
    assert test["ir_file_name"] == str(source / "test/thermal" / path.name)
    assert "infrared images with holes filled" in capsys.readouterr().out


def test_ade20k(main, tmp_path, capsys):
    main(["--set", "ade20k", "--source", str(ade20k(tmp_path / "release"))])
    first, second = records("ade20k_seg_train")
    assert read_labels(first)[0, ::8].tolist() == [255, 0, 149]
    assert "ir_file_name" not in first
    assert Path(first["file_name"]).parent == tmp_path / "release/images/training"
    gray = Image.open(second["file_name"])  # the copy of a gray image
    assert gray.mode == "RGB" and not np.ptp(np.asarray(gray), axis=2).any()
    meta = MetadataCatalog.get("ade20k_seg_train")
    assert meta.stuff_classes[:3] + meta.stuff_classes[-1:] == ["wall", "building", "sky", "flag"]
    assert len(set(meta.stuff_classes)) == len(set(map(tuple, meta.stuff_colors))) == 150
    assert "ade20k_seg_foreground_train" not in DatasetCatalog.list()
    out = capsys.readouterr().out
    assert "visible images copied as RGB" in out
    assert ["ignored", "33.333", "2", "33.333", "1"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize("name", RELEASES)
def test_class_lists(name):
    layout = RELEASES[name]
    assert len(layout.classes) == {"msrs": 9, "mfnet": 9, "fmb": 15, "pst900": 5, "ade20k": 150}[name]
    assert len(set(layout.classes.values())) == len(layout.classes)
    assert all(0 <= v < 256 for rgb in layout.classes.values() for v in rgb)


# ---- how labels are stored ----


def palette_of(layout, order=None) -> list[int]:
    colors = list(layout.classes.values())
    return [v for i in order or range(len(colors)) for v in colors[i]]


def index_palette(values, palette):
    """Palette image of the index as released: the luminance of its colors is something else."""
    image = Image.fromarray(values).copy()
    image.putpalette(palette)
    return image


def reordered(values, layout):
    order = [3, 0, 8, 1, 2, 4, 5, 6, 7]
    return index_palette(
        np.array([order.index(v) for v in range(9)], np.uint8)[values], palette_of(layout, order)
    )


def colors(values, layout):
    return Image.fromarray(np.array(list(layout.classes.values()), np.uint8)[values])


def voc_palette(values, layout):
    # It has car_stop's color at the index of bike; still the index counts.
    return index_palette(values, [v for i in range(9) for v in voc_color(i)])


STORED = {
    "index": (lambda values, _: Image.fromarray(values), False),
    "own palette": (lambda values, layout: index_palette(values, palette_of(layout)), False),
    "another palette": (voc_palette, False),
    "16 bits": (lambda values, _: Image.fromarray(values.astype(np.uint16)), False),
    "colors": (colors, True),
    "colors and alpha": (lambda values, layout: colors(values, layout).convert("RGBA"), True),
    "indices in RGB": (lambda values, _: Image.fromarray(values).convert("RGB"), True),
    "palette of another order": (reordered, True),
}


@pytest.mark.parametrize("kind", STORED)
def test_labels_come_out_the_same(kind, main, tmp_path, capsys):
    source = msrs(tmp_path / "release")
    make, copied = STORED[kind]
    values = np.arange(W, dtype=np.uint8)[None].repeat(H, 0) % 9
    path = source / "train/Segmentation_labels/00001D.png"
    make(values, RELEASES["msrs"]).save(path)
    main(["--set", "msrs", "--source", str(source)])
    record = records("msrs_seg_train")[0]
    np.testing.assert_array_equal(read_labels(record), values)
    assert (record["sem_seg_file_name"] != str(path)) == copied
    assert ("label maps copied as indices" in capsys.readouterr().out) == copied
    if copied:
        assert record["sem_seg_file_name"] == str(tmp_path / "sets/msrs/labels/train/00001D.png")
        assert Image.open(record["sem_seg_file_name"]).mode == "L"


def test_labels_of_four_bits(main, tmp_path):
    # Neither Pillow nor OpenCV writes such a file, so here it is by hand.
    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    values = np.arange(W, dtype=np.uint8)[None].repeat(H, 0) % 9
    rows = b"".join(b"\0" + bytes(row[::2] << 4 | row[1::2]) for row in values)
    source = msrs(tmp_path / "release")
    header = struct.pack(">IIBBBBB", W, H, 4, 0, 0, 0, 0)
    (source / "test/Segmentation_labels/00001D.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    main(["--set", "msrs", "--source", str(source)])
    np.testing.assert_array_equal(read_labels(records("msrs_seg_test")[0]), values)


# ---- bad input ----


def change_label(change):
    def spoil(root):
        path = root / "test/Segmentation_labels/00002N.png"
        change(Image.open(path)).save(path)

    return spoil


def remove(*patterns):
    def spoil(root):
        for pattern in patterns:
            for path in sorted(root.glob(pattern), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    return spoil


def cut(pattern):
    def spoil(root):
        (path,) = root.glob(pattern)
        path.write_bytes(path.read_bytes()[:-60])

    return spoil


def set_value(value):
    return change_label(lambda image: Image.fromarray(np.where(np.asarray(image), value, 0).astype(np.uint8)))


def luminance(image):
    return colors(np.asarray(image), RELEASES["msrs"]).convert("L")


BAD = {
    "no label folder": (
        "msrs",
        remove("train/Segmentation_labels/*", "train/Segmentation_labels"),
        r"no file matches .*train/Segmentation_labels/\*.png: is --source the folder of the release",
    ),
    "no label": (
        "msrs",
        remove("test/Segmentation_labels/00002N.png"),
        r"test/vi/00002N.png has no label map .*test/Segmentation_labels/00002N.png: copy it there",
    ),
    "no infrared": ("msrs", remove("test/ir/00002N.png"), r"vi/00002N.png has no partner .*ir/00002N.png"),
    "unequal counts": ("fmb", remove("train/Visible/*1.png"), r"Infrared/00001.png has no partner"),
    "unknown value": ("msrs", set_value(9), r"00002N.png has 256 pixels of value 9, which the set does not"),
    "gray shades": ("msrs", change_label(luminance), r"00002N.png .* look like gray shades of the class"),
    "unknown color": ("msrs", change_label(lambda i: Image.new("RGB", i.size, (1, 2, 3))), "3 channels"),
    "label size": ("msrs", change_label(lambda i: i.resize((8, 8))), r"is 8x8 but its image 24x16"),
    "cut label": ("msrs", cut("test/Segmentation_labels/00001D.png"), "00001D.png cannot be read"),
    "unequal pair": (
        "pst900",
        lambda root: save(next(root.glob("test/thermal/*")), noise(0, 1)[:8]),
        r"rgb/.* and .*thermal/.* differ in size \(24x16 and 24x8\)",
    ),
    "swapped folders": (
        "msrs",
        lambda root: save(root / "test/vi/00001D.png", noise(0, 1)),
        r"visible image .*00001D.png is gray: are the folders",
    ),
    "three channels": (
        "mfnet",
        lambda root: save(root / "images/00002N.png", noise(0, 3)),
        r"00002N.png has 3 channels, 8 bits \(RGB\), not RGB and infrared in 4 channels",
    ),
    "cut image": ("mfnet", cut("images/00002N.png"), "00002N.png cannot be read"),
    "no list": ("mfnet", remove("val.txt"), r"val.txt is missing: it lists the images"),
    "empty list": ("mfnet", lambda root: (root / "val.txt").write_text("\n"), "val.txt lists no image"),
    "unknown name": (
        "mfnet",
        lambda root: (root / "val.txt").write_text("00003\n"),
        r"val.txt:1 lists '00003', which has no image; did you mean '00003D'",
    ),
    "another release": (
        "ade20k",
        remove("images/validation/*"),
        r"no file matches .*images/validation/\*.jpg",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_release_is_named_and_writes_nothing(case, main, tmp_path):
    name, spoil, message = BAD[case]
    source = WRITERS[name](tmp_path / "release")
    spoil(source)
    before = files(source)
    with pytest.raises(UserError, match=message) as error:
        main(["--set", name, "--source", str(source)])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sets").exists() and files(source) == before
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match=message):  # a set that lies in its release is not touched either
        main(["--set", name, "--source", str(source), "--output", str(source)])
    assert files(source) == before


def test_a_failing_run_keeps_what_was_there(main, tmp_path, monkeypatch):
    source = mfnet(tmp_path / "release")
    arguments = ["--set", "mfnet", "--source", str(source)]
    main(arguments)
    before = files(tmp_path / "sets")
    save(source / "images/00001D.png", noise(77, 4))  # would be replaced
    save(source / "labels/00004N.png", labels(9))  # ... were the last part's label not bad
    with pytest.raises(UserError, match="value 9"):
        main(arguments)
    assert files(tmp_path / "sets") == before

    def refuse(*args, **kwargs):
        raise PermissionError(13, "denied", str(tmp_path / "sets"))

    save(source / "labels/00004N.png", labels(0, 1))
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="cannot write .*sets.*: choose a writable place with --output"):
        main(arguments)
    assert files(tmp_path / "sets") == before


def test_a_changed_release_replaces_what_was_made(main, tmp_path, capsys):
    source = mfnet(tmp_path / "release")
    arguments = ["--set", "mfnet", "--source", str(source)]
    main(arguments)
    image = np.asarray(Image.open(source / "images/00001D.png")).copy()
    image[..., 3] = 7  # only its infrared half changes
    save(source / "images/00001D.png", image)
    capsys.readouterr()
    main(arguments)
    out = capsys.readouterr().out
    folder = tmp_path / "sets/mfnet"
    assert f"replaced: {folder}/ir (1 file)" in out and f"unchanged: {folder}/ir (3 files)" in out
    assert f"unchanged: {folder}/vis (4 files)" in out
    assert (cv2.imread(records("mfnet_seg_train")[0]["ir_file_name"], cv2.IMREAD_UNCHANGED) == 7).all()


def test_exit_code_and_line(main, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_tool(main, ["--set", "msrs", "--source", str(tmp_path)])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: no file matches") and shown.err.count("\n") == 1


@pytest.mark.skipif(not MSRS.is_dir(), reason="the MSRS pairs are not beside the repository")
def test_real_pairs_with_blank_labels(main, tmp_path):
    source = tmp_path / "release"
    for part in ("train", "test"):
        for folder in ("vi", "ir", "Segmentation_labels"):
            (source / part / folder).mkdir(parents=True)
        for path in sorted((MSRS / "test/vi").iterdir())[:3]:
            for folder in ("vi", "ir"):
                (source / part / folder / path.name).symlink_to(MSRS / "test" / folder / path.name)
            save(source / part / "Segmentation_labels" / path.name, np.zeros((480, 640), np.uint8))
    main(["--set", "msrs", "--source", str(source)])
    test = records("msrs_seg_test")
    assert len(test) == 3 and all((r["width"], r["height"]) == (640, 480) for r in test)
    report = verify({"msrs_seg_test": (tmp_path / "sets/msrs/segmentation/test.json", tmp_path)}, sample=3)
    assert {f.kind for f in report.findings} == {"only background"} and len(report.findings) == 3
