"""Kinds of pixels: which are read as visible, infrared or a photograph, and as what."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from ivtuning.data.image_files import BadPair
from ivtuning.data.images import check_ir_range, inspect_pair, read_pair, read_photograph
from ivtuning.data.mappers.classification import ClassificationMapper
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.errors import UserError

W, H = 24, 16
GRAY = np.arange(W * H, dtype=np.uint16).reshape(H, W).astype(np.uint8)
COLOR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], 2)
KELVIN = 250 + np.linspace(0, 100, W * H, dtype=np.float32).reshape(H, W)


@pytest.fixture
def pair(tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "v.png")
    Image.fromarray(GRAY).save(tmp_path / "i.png")
    return {"file_name": str(tmp_path / "v.png"), "ir_file_name": str(tmp_path / "i.png")}


def save(image, path, **options) -> str:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return str(path)


def test_float_infrared_is_scaled_by_its_unit(pair, tmp_path):
    pair["ir_file_name"] = save(KELVIN, tmp_path / "radiometric.tiff")
    assert inspect_pair(pair["file_name"], pair["ir_file_name"]) == (W, H)
    by_unit = read_pair(pair, ir_range=(273.15, 323.15))[1]
    expected = np.rint(((KELVIN - 273.15) * (255 / 50)).clip(0, 255))
    assert (by_unit == expected[..., None]).all() and by_unit.dtype == np.uint8
    by_share = read_pair(pair)[1][..., 0]
    low, high = np.percentile(KELVIN, (1, 99))
    assert np.abs(by_share - ((KELVIN - low) * (255 / (high - low))).clip(0, 255)).max() <= 0.51
    mapped = PairedDatasetMapper(False, ir_range=(273.15, 323.15))(pair)["image_ir"]
    assert (mapped.numpy() == by_unit.transpose(2, 0, 1)).all()
    pair["ir_file_name"] = save((KELVIN - 250) * 1e-9, tmp_path / "watts.tiff")  # of another unit
    assert np.abs(read_pair(pair)[1][..., 0].astype(int) - by_share).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_pixels_that_are_no_numbers(value, pair, tmp_path):
    broken = KELVIN.copy()
    broken[3, 3:5] = value
    pair["ir_file_name"] = save(broken, tmp_path / "a.tiff")
    with pytest.raises(BadPair, match=r"a\.tiff: 2 of its pixels are not finite numbers; fill them"):
        read_pair(pair)
    with pytest.raises(BadPair, match=r"a\.tiff: 2 of its pixels"):
        read_photograph(pair["ir_file_name"])


def test_gray_visible_on_request(pair, tmp_path):
    pair["file_name"] = save(GRAY, tmp_path / "gray.png")
    message = "is it the infrared partner.*data.gray_visible=true .scripts: --gray-visible"
    for read in (read_pair, PairedDatasetMapper(False)):
        with pytest.raises(BadPair, match=message):
            read(pair)
    with pytest.raises(BadPair, match=message):
        inspect_pair(pair["file_name"], pair["ir_file_name"])
    assert (read_pair(pair, gray_visible=True)[0] == GRAY[..., None]).all()
    assert PairedDatasetMapper(False, gray_visible=True)(pair)["image"].shape == (3, H, W)
    assert inspect_pair(pair["file_name"], pair["ir_file_name"], gray_visible=True) == (W, H)


def test_a_palette_is_not_called_infrared(pair, tmp_path):
    pair["file_name"] = save(Image.fromarray(COLOR).quantize(16), tmp_path / "palette.png")
    with pytest.raises(BadPair, match=r"\(P\): save it as 8-bit RGB$"):
        read_pair(pair)


def deep_color(path):
    assert cv2.imwrite(str(path), COLOR.astype(np.uint16) * 200)


def pages(path):
    Image.fromarray(COLOR).save(path, save_all=True, append_images=[Image.fromarray(COLOR[::-1].copy())])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.png", deep_color, "3 channels, 16 bits"),
        ("a.ppm", deep_color, "3 channels, 16 bits"),
        ("a.tiff", deep_color, "3 channels, 16 bits"),
        ("a.tiff", pages, "holds 2 images: save the one"),
        ("a.png", pages, "holds 2 images"),
        ("a.webp", pages, "holds 2 images"),
        ("a.jpg", Image.fromarray(COLOR).convert("CMYK").save, "4 channels, 8 bits .CMYK."),
        ("a.png", Image.fromarray(COLOR).convert("1").save, "1 channel, 8 bits .1."),
        ("a.png", Image.fromarray(COLOR).convert("LA").save, "2 channels, 8 bits .LA."),
    ],
)
def test_preparation_refuses_what_training_would(name, make, message, pair, tmp_path):
    make(tmp_path / name)
    for key in pair:
        bad = pair | {key: str(tmp_path / name)}
        for read in (lambda bad=bad: read_pair(bad), lambda bad=bad: inspect_pair(*bad.values())):
            with pytest.raises(BadPair, match=message):
                read()


def test_a_preview_is_no_second_image(pair, tmp_path):
    preview = [Image.fromarray(COLOR[::2, ::2].copy())]
    pair["file_name"] = save(COLOR, tmp_path / "a.tiff", save_all=True, append_images=preview)
    assert (read_pair(pair)[0] == COLOR).all()
    pair["file_name"] = save(COLOR, tmp_path / "a.jpg", format="MPO", save_all=True, append_images=preview)
    assert read_pair(pair)[0].shape == COLOR.shape


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_gray_photographs_are_scaled(dtype, tmp_path):
    values = np.linspace(1000, 3000, W * H).reshape(H, W).astype(dtype)
    path = save(values, tmp_path / "a.tiff")
    by_share = read_photograph(path)
    assert by_share.shape == (H, W, 3) and abs(float(by_share.mean()) - 127.5) < 2
    mapped = ClassificationMapper(False, ir_range=(1000, 3000))({"file_name": path})["image"]
    expected = np.rint((values.astype(np.float32) - 1000) * (255 / 2000))
    assert mapped.shape == (3, H, W) and np.abs(mapped.numpy() - expected).max() <= 1


def test_other_photographs_are_converted(tmp_path):
    gray = read_photograph(save(GRAY, tmp_path / "a.png"))
    assert (gray == GRAY[..., None]).all()
    assert (read_photograph(save(Image.fromarray(COLOR).convert("RGBA"), tmp_path / "b.png")) == COLOR).all()
    palette = Image.fromarray(COLOR).quantize(16)
    assert (read_photograph(save(palette, tmp_path / "c.png")) == np.asarray(palette.convert("RGB"))).all()
    deep_color(tmp_path / "d.png")
    with pytest.raises(BadPair, match="3 channels, 16 bits"):
        read_photograph(str(tmp_path / "d.png"))


@pytest.mark.parametrize(
    "given", [(5, 5), (9, 1), (1,), (1, 2, 3), 5, "ab", (0, float("nan")), (0, float("inf"))]
)
def test_bad_ranges(given):
    with pytest.raises(UserError, match="two increasing raw counts"):
        check_ir_range(given)
