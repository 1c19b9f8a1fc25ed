"""Reading the two images of a pair: forms that are alike, what 16 bits become, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.pairs import H, W, pattern, save
from helpers.tools import REAL
from PIL import Image

from ivtuning.data.image_files import BadPair
from ivtuning.data.images import read_pair
from ivtuning.data.mappers.pairs import PairedDatasetMapper


def test_gray_and_three_channel_infrared_are_alike(pair, tmp_path):
    visible, infrared = read_pair(pair)
    assert visible.shape == infrared.shape == (H, W, 3)
    assert visible.dtype == infrared.dtype == np.uint8
    assert (infrared == pattern()[:, :, None]).all()
    pair["ir_file_name"] = save(infrared, tmp_path / "three.png")
    assert (read_pair(pair)[1] == infrared).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_infrared(pair, tmp_path, suffix):
    counts = np.linspace(1000, 3000, H * W).reshape(H, W).astype(np.uint16)
    counts[0, 0] = 60000  # a hot pixel must not squeeze the rest
    pair["ir_file_name"] = save(counts, tmp_path / f"deep.{suffix}")
    infrared = read_pair(pair)[1]
    assert infrared.dtype == np.uint8 and (infrared[..., 0] == infrared[..., 2]).all()
    assert infrared.min() == 0 and infrared.max() == 255
    assert abs(int(infrared[H // 2, 0, 0]) - 128) <= 3
    fixed = read_pair(pair, ir_range=(1000, 5000))[1]
    assert fixed[0, 0, 0] == 255 and fixed[0, 1, 0] == 0
    assert abs(int(fixed[-1, -1, 0]) - 128) <= 1
    mapped = PairedDatasetMapper(False, ir_range=(1000, 5000))(pair)["image_ir"]
    assert (mapped.numpy() == fixed.transpose(2, 0, 1)).all()


def test_flat_16_bit_infrared_is_black(pair, tmp_path):
    pair["ir_file_name"] = save(np.full((H, W), 700, np.uint16), tmp_path / "flat.png")
    assert not read_pair(pair)[1].any()


def test_exif_orientation_is_honoured(pair, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera stood on its side: show it turned by 90 degrees clockwise
    turned = np.ascontiguousarray(np.rot90(np.stack([pattern()] * 3, 2)))
    pair["file_name"] = save(turned, tmp_path / "turned.png", exif=exif)
    visible, infrared = read_pair(pair)
    assert (visible == infrared).all()


def test_gray_photograph_without_partner(pair, tmp_path):
    """Sets of visible images such as COCO hold some gray ones; beside a partner gray would be a mix-up."""
    alone = {"file_name": save(pattern(), tmp_path / "gray.png")}
    visible, infrared = read_pair(alone, absent="infrared")
    assert infrared is None and (visible == np.stack([pattern()] * 3, 2)).all()


def rgb(height=H, width=W):
    return np.stack([pattern(height, width)] * 3, 2)


BAD_VISIBLE = {
    "gray": (lambda: pattern(), "1 channel, 8 bits .L.: save it as 8-bit RGB; is it the infrared partner"),
    "rgba": (lambda: np.dstack([rgb(), pattern()]), "4 channels, 8 bits .RGBA.: save it as 8-bit RGB"),
    "gray16": (lambda: pattern().astype(np.uint16), "1 channel, 16 bits"),
    "palette": (lambda: Image.fromarray(rgb()).quantize(16), "1 channel, 8 bits .P."),
}
BAD_INFRARED = {
    "two": (lambda: np.dstack([pattern()] * 2), "2 channels"),
    "four": (lambda: np.dstack([pattern()] * 4), "4 channels"),
    "palette": (lambda: Image.fromarray(rgb()).quantize(16), ".P."),
    "binary": (lambda: Image.fromarray(pattern()).convert("1"), ".1."),
}


def expect_bad_pair(pair, path, message):
    """read_pair fails with one line that names the file, and says which file is at fault."""
    with pytest.raises(BadPair, match=message) as caught:
        read_pair(pair)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    assert caught.value.file_name == str(path)


@pytest.mark.parametrize(
    ("key", "make", "message"),
    [("file_name", *case) for case in BAD_VISIBLE.values()]
    + [("ir_file_name", *case) for case in BAD_INFRARED.values()],
    ids=[f"visible-{n}" for n in BAD_VISIBLE] + [f"infrared-{n}" for n in BAD_INFRARED],
)
def test_wrong_channels(pair, tmp_path, key, make, message):
    content = make()
    path = tmp_path / "wrong.tiff"
    (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)
    pair[key] = str(path)
    expect_bad_pair(pair, path, message)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("key", ["file_name", "ir_file_name"])
def test_16_bit_rgb_is_not_taken_for_8_bit(pair, tmp_path, key, suffix):
    cv2 = pytest.importorskip("cv2")
    pair[key] = str(tmp_path / f"deep.{suffix}")
    assert cv2.imwrite(pair[key], rgb().astype(np.uint16) * 257)
    expect_bad_pair(pair, pair[key], "16 bits")


@pytest.mark.parametrize("key", ["file_name", "ir_file_name"])
def test_missing_file(pair, tmp_path, key):
    pair[key] = str(tmp_path / "nowhere.png")
    expect_bad_pair(pair, pair[key], "is missing")


def test_no_partner_named(pair):
    del pair["ir_file_name"]
    expect_bad_pair(pair, pair["file_name"], "no infrared partner")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_truncated_file(pair, tmp_path, suffix, share):
    path = tmp_path / f"cut.{suffix}"
    save(rgb(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    pair["file_name"] = str(path)
    expect_bad_pair(pair, path, "cannot be read")


def test_garbage_and_folder(pair, tmp_path):
    path = tmp_path / "garbage.png"
    path.write_bytes(b"not an image at all")
    expect_bad_pair({**pair, "ir_file_name": str(path)}, path, "cannot be read")
    expect_bad_pair({**pair, "ir_file_name": str(tmp_path)}, tmp_path, "cannot be read")


def test_unequal_sizes(pair, tmp_path):
    pair["ir_file_name"] = save(pattern(H, W + 16), tmp_path / "wide.png")
    expect_bad_pair(pair, pair["file_name"], "64x48 but infrared .*wide.png is 80x48")


def test_size_differs_from_the_json(pair):
    pair["width"] = 1024
    expect_bad_pair(pair, pair["file_name"], "64x48 but its JSON says 1024x48")


@pytest.mark.parametrize("folders", ["M3FD_sample/Vis M3FD_sample/Ir", "MSRS/test/vi MSRS/test/ir"])
def test_real_pairs(folders):
    visible, infrared = (REAL / folder for folder in folders.split())
    if not visible.is_dir():
        pytest.skip("needs the real pairs beside the project")
    name = min(path.name for path in visible.iterdir())
    images = read_pair({"file_name": str(visible / name), "ir_file_name": str(infrared / name)})
    assert images[0].std() > 5 and images[1].std() > 5
    assert (images[1][..., 0] == images[1][..., 2]).all()
