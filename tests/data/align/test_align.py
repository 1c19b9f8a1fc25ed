"""One warp for a set of pairs: it is recovered, refused where pairs disagree, and applied as it is."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.isolation import Case, refuse, run
from PIL import Image

from ivtuning.data.align.agreement import estimate, measure
from ivtuning.data.align.estimate import corners, transform
from ivtuning.data.align.folders import align_pairs
from ivtuning.data.align.warp import Warp, read_calibration, resizing
from ivtuning.data.prepare.folders import find_files, pair_files
from ivtuning.data.synthetic.placement import deal, draw_pair
from ivtuning.errors import UserError

TOOL = "datasets/align_pairs.py"
VISIBLE, INFRARED = (320, 240), (200, 160)
PAIRS = 12  # of the tests but that of the homography, which has twice as many
FOLDERS = ["--vis", "vis", "--ir", "ir", "--output", "out"]
# Where the corners of the infrared image are in the visible one.
PLACES = {
    "homography": [(30, 22), (285, 15), (292, 222), (38, 228)],
    "affine": [(30, 22), (285, 12), (292, 220), (37, 230)],
    "shift": [(30, 14), (288.7, 14), (288.7, 220.7), (30, 220.7)],
}


def true_matrix(model: str) -> np.ndarray:
    ends, there = np.float32(corners(INFRARED)), np.float32(PLACES[model])
    return cv2.getPerspectiveTransform(ends, there)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs that coincide: visible (H, W, 3) and infrared (H, W)."""
    rng = np.random.default_rng(0)
    return [draw_pair(VISIBLE[::-1], *plan, rng)[:2] for plan in deal(2 * PAIRS, rng)]


def seen_by(infrared: np.ndarray, matrix: np.ndarray, seed: int = 0) -> np.ndarray:
    """What a smaller camera sees of an infrared image, with noise."""
    small = cv2.warpPerspective(infrared, np.linalg.inv(matrix), INFRARED)
    noise = np.random.default_rng(seed).normal(0, 4, small.shape)
    return np.clip(small + noise, 0, 255).astype(np.uint8)


def gray(scenes) -> list[np.ndarray]:
    return [cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY) for visible, _ in scenes]


def distance(matrix: np.ndarray, truth: np.ndarray) -> float:
    """How far the corners of the infrared image are from their true places, in visible pixels on average."""
    ends = corners(INFRARED)
    return float(np.linalg.norm(transform(matrix, ends) - transform(truth, ends), axis=1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["homography", "affine"])
def test_the_warp_is_recovered_though_a_third_of_the_pairs_are_none(scenes, model):
    truth = true_matrix(model)
    scenes = scenes if model == "homography" else scenes[:PAIRS]
    infrared = [seen_by(image, truth, i) for i, (_, image) in enumerate(scenes)]
    wrong = len(scenes) // 3
    infrared[:wrong] = infrared[1:wrong] + infrared[:1]
    pairs = list(zip(gray(scenes), infrared, strict=True))
    matrix = estimate(pairs, model)
    # Eight parameters want more than sixteen small scenes, whose skies have no edges: they get to 0.94 px.
    assert distance(matrix, truth) < (1.25 if model == "homography" else 1.0)
    plain = resizing(INFRARED, VISIBLE).matrix
    agreement = measure([(str(i), pair) for i, pair in enumerate(pairs)], matrix, plain, None)
    agreement.check()
    left_out = {r.name for r in agreement.after if not r.is_clear}
    assert left_out >= {str(i) for i in range(wrong)}
    figures = agreement.as_dict()
    assert figures["correlation_after"] > 3 * figures["correlation_before"]
    assert figures["median_px"] < 1.5


def test_pairs_of_two_rigs_disagree(scenes):
    truth, scenes = true_matrix("shift"), scenes[:PAIRS]
    moved = np.array([[1, 0, 25], [0, 1, -10], [0, 0, 1.0]]) @ truth
    named = [
        (str(i), (visible, seen_by(image, truth if i % 2 else moved, i)))
        for i, (visible, (_, image)) in enumerate(zip(gray(scenes), scenes, strict=True))
    ]
    agreement = measure(named, truth, resizing(INFRARED, VISIBLE).matrix, None)
    off = {r.name: (r.dx, r.dy) for r in agreement.clear}
    assert len(off) > PAIRS / 2
    for name, shift in off.items():
        assert shift == pytest.approx((0, 0) if int(name) % 2 else (25, -10), abs=2.0)
    with pytest.raises(
        UserError, match=r"disagree on one warp: .* 2\d\.\d px .* the limit is 4.0 px; the worst"
    ):
        agreement.check()


def test_pairs_without_common_edges_give_no_warp():
    rng = np.random.default_rng(0)
    noise = [(str(i), tuple(rng.integers(0, 255, (120, 160), np.uint8) for _ in "vi")) for i in range(6)]
    flat = [("flat", (np.full((120, 160), 7, np.uint8), np.full((120, 160), 9, np.uint8)))]
    agreement = measure([*noise, *flat], np.eye(3), np.eye(3), None)
    with pytest.raises(UserError, match="0 of 7 sampled pairs"):
        agreement.check()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
def test_values_keep_their_type(kind):
    warp = Warp(np.array([[2.0, 0, 10.5], [0, 2.0, 4.5], [0, 0, 1]]), "shift", (40, 30), (120, 90))
    image = np.full((30, 40), 200, kind)
    image[10:20, 10:20] = 250
    warped = warp.apply(image)
    assert warped.dtype == kind and warped.shape == (90, 120)
    assert warped[4 + 30, 10 + 30] == 250 and warped[8, 14] == 200 and warped[0, 0] == 200
    assert {0, 255} == set(np.unique(warp.seen()))


def test_the_common_view_is_the_largest_rectangle_that_infrared_sees():
    warp = Warp(np.array([[2.0, 0, 10], [0, 2.0, 4], [0, 0, 1]]), "shift", (40, 30), (120, 60))
    left, top, right, bottom = warp.common_view()
    # The outermost pixels of infrared reach half a pixel, here one of visible, beyond their centers.
    assert (left, top, right, bottom) == (9, 3, 89, 60)
    assert warp.seen()[top:bottom, left:right].min() == 255


def write_set(folder: Path, scenes, matrix: np.ndarray, infrared: str = "png", deep: bool = False) -> Path:
    """Pairs in vis/ and ir/ of a folder; returns it."""
    for name in ("vis/a", "ir/a"):
        (folder / name).mkdir(parents=True)
    for i, (visible, image) in enumerate(scenes):
        Image.fromarray(visible).save(folder / f"vis/a/{i:02}_rgb.jpg")
        small = seen_by(image, matrix, i)
        pixels = small.astype(np.uint16) * 50 + 1000 if deep else small
        Image.fromarray(pixels).save(folder / f"ir/a/{i:02}_ir.{infrared}")
    return folder


@pytest.mark.slow
def test_two_folders_are_aligned_and_the_warp_is_used_again(scenes, tmp_path):
    truth = true_matrix("shift")
    folder = write_set(tmp_path, scenes[:PAIRS], truth, "tif", deep=True)
    outcome = run(TOOL, [*FOLDERS, "--pairs", "9", "--model", "shift"], folder)
    assert outcome.code == 0, outcome.err
    assert "report: out/report.html; go on with --vis vis --ir out/infrared" in outcome.out
    out = folder / "out"
    warp = json.loads((out / "warp.json").read_text())
    assert distance(np.array(warp["matrix"]), truth) < 1.0
    assert warp["infrared_size"] == [200, 160] and warp["visible_size"] == [320, 240]
    report = json.loads((out / "report.json").read_text())
    assert (report["sample"]["sampled"], report["held_out"]["sampled"]) == (9, 3)
    page = (out / "report.html").read_text()
    assert page.count("<figure>") % 3 == 0 and page.count("<figure>") >= 6 and "://" not in page
    # What the pair's images are now: of equal size, in pairs by their names, and 16-bit where they were.
    found = pair_files(
        *(find_files(str(place), {".jpg", ".tif"}, "") for place in (folder / "vis", out / "infrared")),
        ["", ""],
    )
    assert len(found) == PAIRS
    pixels = np.asarray(Image.open(found[0].infrared))
    assert pixels.dtype == np.uint16 and pixels.shape == (240, 320) and pixels.min() >= 1000
    seen = np.asarray(Image.open(out / "seen.png"))
    assert seen.shape == (240, 320) and (pixels[seen == 0] == pixels.min()).all()
    again = align_pairs(
        str(folder / "vis"),
        str(folder / "ir"),
        tmp_path / "crop",
        calibration=out / "warp.json",
        crop=True,
        pairs=5,
    )
    assert again["warp"]["matrix"] == warp["matrix"]
    left, top, right, bottom = again["warp"]["crop"]
    cut = np.asarray(Image.open(tmp_path / "crop/infrared/a/00_ir.tif"))
    assert np.array_equal(cut, pixels[top:bottom, left:right])
    assert Image.open(tmp_path / "crop/visible/a/00_rgb.jpg").size == (right - left, bottom - top)


def test_calibration_files_are_json_or_opencv(tmp_path):
    matrix = true_matrix("homography")
    (tmp_path / "bare.json").write_text(json.dumps(matrix.tolist()))
    (tmp_path / "named.json").write_text(json.dumps({"homography": matrix.tolist()}))
    for name in ("rig.yml", "rig.xml"):
        storage = cv2.FileStorage(str(tmp_path / name), cv2.FILE_STORAGE_WRITE)
        storage.write("K", np.eye(3))
        storage.write("H", matrix)
        storage.release()
    for name in ("bare.json", "named.json", "rig.yml", "rig.xml"):
        assert np.allclose(read_calibration(tmp_path / name, INFRARED, VISIBLE).matrix, matrix)


def small_set(change=None, *options: str):
    """Six pairs, which `change(folder)` spoils, and the tool's arguments."""

    def make(folder: Path) -> list[str]:
        for name, size, mode in (("vis", (32, 24), "RGB"), ("ir", (20, 16), "L")):
            (folder / name).mkdir()
            for i in range(6):
                Image.new(mode, size, (i * 40, 9, 0) if mode == "RGB" else i).save(folder / name / f"{i}.png")
        if change:
            change(folder)
        return [*FOLDERS, *options]

    return make


def calibrated(text: str, name: str = "rig.json"):
    return small_set(lambda folder: (folder / name).write_text(text), "--calibration", name)


def filled(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/x.txt").write_text("x")


def test_cropped_visible_images_keep_their_colors(tmp_path):
    small_set()(tmp_path)
    with Image.open(tmp_path / "vis/5.png") as image:
        image.quantize(4).save(tmp_path / "vis/5.png")  # a palette
        image.convert("CMYK").save(tmp_path / "vis/4.jpg")
    (tmp_path / "vis/4.png").unlink()
    (tmp_path / "rig.json").write_text(json.dumps(np.diag([1.6, 1.5, 1]).tolist()))
    places = (str(tmp_path / name) for name in ("vis", "ir"))
    align_pairs(*places, tmp_path / "out", calibration=tmp_path / "rig.json", crop=True)
    for name in ("5.png", "4.jpg"):
        image = Image.open(tmp_path / "out/visible" / name)
        assert image.mode == "RGB" and np.abs(np.subtract(image.getpixel((5, 5)), (200, 9, 0))).max() < 9


CASES = [
    Case("no folder", TOOL, small_set(None, "--ir", "infra"), ["--ir", "infra"]),
    Case("one folder twice", TOOL, small_set(None, "--ir", "vis"), ["--vis and --ir", "'vis'"]),
    Case("no partner", TOOL, small_set(lambda f: (f / "ir/3.png").unlink()), ["vis/3.png", "no partner"]),
    Case(
        "two sizes",
        TOOL,
        small_set(lambda f: Image.new("L", (9, 9)).save(f / "ir/3.png")),
        ["ir/3.png is 9x9, and most are 20x16", "by themselves"],
    ),
    Case(
        "unreadable",
        TOOL,
        small_set(lambda f: (f / "ir/2.png").write_bytes(b"x")),
        ["ir/2.png", "fetch it again"],
    ),
    Case("nothing to see", TOOL, small_set(), ["0 of 6 sampled pairs", "--calibration"]),
    Case("few pairs asked", TOOL, small_set(None, "--pairs", "2"), ["--pairs 2"]),
    Case("no limit", TOOL, small_set(None, "--limit", "-1"), ["--limit -1"]),
    Case("output inside", TOOL, small_set(None, "--output", "ir/aligned"), ["ir/aligned", "inside"]),
    Case("output filled", TOOL, small_set(filled), ["--output out", "empty"]),
    Case("no calibration", TOOL, small_set(None, "--calibration", "no.json"), ["no.json is missing"]),
    Case("other JSON", TOOL, calibrated('{"K": 1}'), ["rig.json", "no 3x3 matrix", "homography"]),
    Case("other YAML", TOOL, calibrated("- x: [", "rig.yml"), ["rig.yml", "FileStorage"]),
    Case(
        "singular",
        TOOL,
        calibrated("[[1, 0, 0], [0, 0, 0], [0, 0, 1]]"),
        ["rig.json", "singular"],
    ),
    Case("elsewhere", TOOL, calibrated("[[1, 0, 900], [0, 1, 0], [0, 0, 1]]"), ["rig.json", "less than 2%"]),
    Case("not finite", TOOL, calibrated("[[1, 0, NaN], [0, 1, 0], [0, 0, 1]]"), ["rig.json", "finite"]),
    Case(
        "other sizes",
        TOOL,
        calibrated('{"matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "infrared_size": [640, 512]}'),
        ["rig.json", "infrared_size", "[20, 16]"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_is_one_line(case, tmp_path):
    refuse(case, tmp_path)
