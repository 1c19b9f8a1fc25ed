"""Label maps come out the same, however a release stores them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from helpers.segmentation_releases import RELEASES, H, W, colors, msrs, records
from PIL import Image

from ivtuning.data.datasets.segmentation_layouts import voc_color
from ivtuning.data.labels import read_labels


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
def test_labels_come_out_the_same(kind, prepare_segmentation, tmp_path, capsys):
    source = msrs(tmp_path / "release")
    make, copied = STORED[kind]
    values = np.arange(W, dtype=np.uint8)[None].repeat(H, 0) % 9
    path = source / "train/Segmentation_labels/00001D.png"
    make(values, RELEASES["msrs"]).save(path)
    prepare_segmentation(["--set", "msrs", "--source", str(source)])
    record = records("msrs_seg_train")[0]
    np.testing.assert_array_equal(read_labels(record), values)
    assert (record["sem_seg_file_name"] != str(path)) == copied
    assert ("label maps copied as indices" in capsys.readouterr().out) == copied
    if copied:
        assert record["sem_seg_file_name"] == str(tmp_path / "sets/msrs/labels/train/00001D.png")
        assert Image.open(record["sem_seg_file_name"]).mode == "L"


def test_labels_of_four_bits(prepare_segmentation, tmp_path):
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
    prepare_segmentation(["--set", "msrs", "--source", str(source)])
    np.testing.assert_array_equal(read_labels(records("msrs_seg_test")[0]), values)
