"""Opening image files: orientation, bits, and files that are no images."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ivtuning.data.image_files import BadPair, decode, image_files, image_size, open_image, turned

W, H = 24, 16
# Four colors, so that every turn shows.
CORNERS = np.zeros((H, W, 3), np.uint8)
CORNERS[:8, :12], CORNERS[:8, 12:], CORNERS[8:, :12], CORNERS[8:, 12:] = (
    (250, 0, 0),
    (0, 250, 0),
    (0, 0, 250),
    (200, 200, 200),
)
# The EXIF orientation -> how the stored pixels are to be shown, from the standard's table.
SHOWN = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def chunks(content: bytes) -> list[bytes]:
    """The chunks of a PNG."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        found.append(content[at : at + 12 + length])
        at += 12 + length
    return found


def exif_last(path: Path) -> None:
    """Move a PNG's EXIF chunk behind its pixels, where the standard allows it as well."""
    content = path.read_bytes()
    parts = chunks(content)
    exif = [part for part in parts if part[4:8] == b"eXIf"]
    rest = [part for part in parts if part[4:8] != b"eXIf"]
    path.write_bytes(content[:8] + b"".join([*rest[:-1], *exif, rest[-1]]))


def store(path: Path, pixels: np.ndarray, orientation: int, late: bool = False, **options) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    where = {"tiffinfo": {274: orientation}} if path.suffix == ".tiff" else {"exif": exif}
    Image.fromarray(pixels).save(path, **where, **options)
    if late:
        exif_last(path)


STORED = {
    "jpg": lambda o, p: store(p.with_suffix(".jpg"), CORNERS, o, quality=100, subsampling=0),
    "png": lambda o, p: store(p.with_suffix(".png"), CORNERS, o),
    "png late": lambda o, p: store(p.with_suffix(".png"), CORNERS, o, late=True),
    "webp": lambda o, p: store(p.with_suffix(".webp"), CORNERS, o, lossless=True),
    "tiff": lambda o, p: store(p.with_suffix(".tiff"), CORNERS, o),
    "tiff lzw": lambda o, p: store(p.with_suffix(".tiff"), CORNERS, o, compression="tiff_lzw"),
    "tiff 16": lambda o, p: store(p.with_suffix(".tiff"), CORNERS[..., 0].astype(np.uint16) * 200, o),
    "tiff float": lambda o, p: store(p.with_suffix(".tiff"), CORNERS[..., 0].astype(np.float32), o),
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_is_applied_once(kind, orientation, tmp_path):
    STORED[kind](orientation, tmp_path / "a")
    (path,) = tmp_path.iterdir()
    expected = SHOWN[orientation](CORNERS)
    if "16" in kind or "float" in kind:
        expected = expected[..., 0].astype(np.float32) * (200 if "16" in kind else 1)
    image = turned(decode(path, "image")[0])
    assert image_size(path) == image.size == expected.shape[1::-1]
    # A JPEG blurs the edges by some levels.
    assert np.abs(np.asarray(image).astype(np.float32) - expected).max() <= (40 if kind == "jpg" else 0)


def test_text_behind_the_pixels_costs_no_decoding(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(CORNERS).save(path)
    content = path.read_bytes()
    *parts, end = chunks(content)
    text = b"tEXt" + b"date:create\x002020"
    late = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    path.write_bytes(content[:8] + b"".join([*parts, late, end]))
    with open_image(path, "image") as (image, _):
        assert image_size(path) == (W, H)
        assert np.array_equal(np.asarray(image), CORNERS)


def test_damaged_exif_leaves_the_image(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(CORNERS).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff\xff")
    assert image_size(path) == turned(decode(path, "image")[0]).size == (W, H)


def test_bits(tmp_path):
    deep = CORNERS.astype(np.uint16) * 200
    for name, pixels, bits in (
        ("a.png", CORNERS, 8),
        ("b.png", deep, 16),
        ("c.tiff", deep, 16),
        ("d.ppm", deep, 16),
        ("e.ppm", CORNERS, 8),
        ("f.pgm", deep[..., 0], 16),
        ("g.tiff", CORNERS[..., 0].astype(np.float32), 32),
    ):
        assert cv2.imwrite(str(tmp_path / name), pixels)
        assert decode(tmp_path / name, "image")[1] == bits, name


def huge(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 10000, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def eps(path: Path) -> None:
    # Pillow would start Ghostscript for it, whatever its suffix.
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n")


BAD = {
    "named pipe": (os.mkfifo, "it is not a file"),
    "folder": (Path.mkdir, "it is not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is not a file"),
    "circle of links": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "link to nothing": (lambda path: path.symlink_to("nowhere.png"), "is missing"),
    "empty file": (Path.touch, "no known kind of image"),
    "web page": (lambda path: path.write_text("<html>404</html>"), "no known kind of image"),
    "EPS": (eps, "no known kind of image"),
    "64-bit floats": (
        lambda path: path.write_bytes(cv2.imencode(".tiff", CORNERS[..., 0].astype(np.float64))[1]),
        "TIFF of at most 32 bits",
    ),
    "200 megapixels": (huge, "has 200 megapixels, and the limit is 178"),
    "a line": (Image.new("L", (60000, 1)).save, "is 60000x1, a strip of more than 100:1"),
    "a column": (Image.new("L", (1, 60000)).save, "is 1x60000, a strip"),
    "nothing": (lambda path: None, "is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path):
    make, message = BAD[case]
    path = tmp_path / "a.png"
    make(path)
    for read in (image_size, lambda path: decode(path, "image")):
        with pytest.raises(BadPair, match=re.escape(message)) as error:
            read(path)
        assert error.value.file_name == str(path) and str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ünï 図.png", os.fsdecode(b"\xff\xfe.png"), " spaces .png", "UPPER.PNG"])
def test_odd_names(name, tmp_path):
    Image.fromarray(CORNERS).save(tmp_path / name)
    assert image_size(tmp_path / name) == (W, H)
    assert image_files(tmp_path) == [tmp_path / name]


def test_a_systems_own_files_are_no_images(tmp_path):
    for name in ("._a.png", ".DS_Store", "Thumbs.db", ".hidden.jpg", "a.txt", "b.png", "a.JPG"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["a.JPG", "b.png"]
