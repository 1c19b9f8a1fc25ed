"""Every fault that verification finds, its report, and the tool."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.detection import register_pairs
from ivtuning.data.datasets.segmentation import register_segmentation
from ivtuning.data.verify.findings import CONFIDENT, KINDS
from ivtuning.data.verify.verification import estimate_shift, verify
from ivtuning.errors import UserError

SIZE = (96, 80)


def scene(seed: int) -> np.ndarray:
    """(H+32, W+32) uint8: bright and dark rectangles, enough edges for a confident estimate."""
    rng = np.random.default_rng(seed)
    canvas = np.full((SIZE[1] + 32, SIZE[0] + 32), 100, np.uint8)
    for _ in range(60):
        x, y = rng.integers(0, SIZE[0] + 16), rng.integers(0, SIZE[1] + 16)
        w, h = rng.integers(5, 24, 2)
        cv2.rectangle(canvas, (int(x), int(y)), (int(x + w), int(y + h)), int(rng.integers(0, 255)), -1)
    return canvas


def crop(canvas: np.ndarray, dx: int = 0, dy: int = 0) -> np.ndarray:
    """The middle of the canvas, its content moved by (dx, dy) pixels."""
    return canvas[16 - dy : 16 - dy + SIZE[1], 16 - dx : 16 - dx + SIZE[0]]


@pytest.fixture
def pairs(tmp_path):
    """Three good pairs; returns (content, a function that verifies what it was made into)."""
    for folder in ("vis", "ir", "annotations"):
        (tmp_path / folder).mkdir()
    images = []
    for number in (1, 2, 3):
        canvas = scene(number)
        Image.fromarray(crop(canvas)).convert("RGB").save(tmp_path / f"vis/{number}.png")
        # Inverted, as cold and warm may be: only the edges are common.
        Image.fromarray(255 - crop(canvas)).save(tmp_path / f"ir/{number}.png")
        names = {"file_name": f"vis/{number}.png", "ir_file_name": f"ir/{number}.png"}
        images.append({"id": number, "width": SIZE[0], "height": SIZE[1]} | names)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "car"}]}
    path = tmp_path / "annotations" / "train.json"

    def check(**options):
        path.write_text(json.dumps(content))
        return verify({"some_set": (path, tmp_path)}, **options)

    return content, check


def test_a_good_set_has_no_findings(pairs):
    report = pairs[1]()
    assert report.findings == []
    assert (report.images, report.annotations) == (3, 1)
    figures = report.misalignment()
    assert figures["sampled"] == figures["confident"] == 3
    assert figures["max_px"] < 0.5
    assert "0 errors, 0 warnings" in report.text()


@pytest.mark.parametrize("dx, dy", [(0, 0), (6, -4), (-9, 11)])
def test_known_shift_is_measured(dx, dy):
    canvas = scene(7)
    shift = estimate_shift(crop(canvas), 255 - crop(canvas, dx, dy))
    assert shift[2] > CONFIDENT
    np.testing.assert_allclose(shift[:2], (dx, dy), atol=0.75)


def test_unrelated_images_are_not_believed():
    noise = np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8)
    other = np.random.default_rng(1).integers(0, 255, (240, 320), np.uint8)
    assert estimate_shift(noise, other)[2] < CONFIDENT


def test_sample_limits_what_is_measured(pairs):
    assert pairs[1](sample=2).misalignment()["sampled"] == 2
    assert pairs[1](sample=0).misalignment() == {
        "sampled": 0,
        "confident": 0,
        "median_px": None,
        "max_px": None,
        "median_dx": None,
        "median_dy": None,
        "worst": [],
    }


def lost(root, content):
    (root / "ir/2.png").unlink()


def unnamed(root, content):
    del content["images"][1]["ir_file_name"]


def truncated(root, content):
    data = (root / "ir/2.png").read_bytes()
    (root / "ir/2.png").write_bytes(data[: len(data) // 2])


def no_image(root, content):
    (root / "vis/2.png").write_text("not an image")


def unequal(root, content):
    Image.open(root / "ir/2.png").resize((40, 40)).save(root / "ir/2.png")


def stated_wrong(root, content):
    content["images"][1]["width"] = 50


def gray_visible(root, content):
    Image.open(root / "vis/2.png").convert("L").save(root / "vis/2.png")


def four_channels(root, content):
    Image.open(root / "ir/2.png").convert("RGBA").save(root / "ir/2.png")


def copied(root, content):
    Image.open(root / "vis/2.png").save(root / "ir/2.png")


def colored(root, content):
    gray = np.asarray(Image.open(root / "ir/2.png"))
    Image.fromarray(np.stack([gray, 255 - gray, gray], 2)).save(root / "ir/2.png")


def repeated(root, content):
    for folder in ("vis", "ir"):
        Image.open(root / f"{folder}/1.png").save(root / f"{folder}/2.png")


def shifted(root, content):
    Image.fromarray(255 - crop(scene(2), 8, 6)).save(root / "ir/2.png")


def add_box(content, **changes):
    box = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}
    content["annotations"].append(box | changes)


FAULTS = {
    lost: ("missing", "ir/2.png"),
    unnamed: ("no partner", "vis/2.png"),
    truncated: ("unreadable", "ir/2.png"),
    no_image: ("unreadable", "vis/2.png"),
    unequal: ("unequal sizes", "vis/2.png"),
    stated_wrong: ("wrong size", "vis/2.png"),
    gray_visible: ("channels", "vis/2.png"),
    four_channels: ("channels", "ir/2.png"),
    copied: ("same image", "ir/2.png"),
    colored: ("colored infrared", "ir/2.png"),
    repeated: ("duplicate image", "some_set: vis/2.png"),
    shifted: ("misaligned", "vis/2.png"),
    lambda r, c: add_box(c, bbox=[90, 5, 10, 10]): ("box outside", "annotation 2 of vis/2.png"),
    lambda r, c: add_box(c, bbox=[5, 5, 0, 10]): ("degenerate box", "annotation 2 of vis/2.png"),
    lambda r, c: add_box(c, category_id=9): ("unknown class", "annotation 2 of vis/2.png"),
    lambda r, c: add_box(c, image_id=9): ("unknown image", "annotation 2"),
    lambda r, c: add_box(c, image_id=1): ("duplicate box", "annotation 2 of vis/1.png"),
    lambda r, c: add_box(c, id=1): ("duplicate id", "annotations"),
    lambda r, c: add_box(c, bbox=None): ("wrong value", "annotation 2 of vis/2.png"),
    lambda r, c: c["images"][1].update(width="96"): ("wrong value", "vis/2.png"),
    lambda r, c: c["images"][1].update(ir_file_name="../2.png"): ("outside root", "vis/2.png"),
    lambda r, c: c["categories"].append({"id": 2, "name": "car"}): ("duplicate name", "categories"),
    lambda r, c: add_box(c, segmentation={"size": [1, 1], "counts": [1]}): (
        "bad mask",
        "annotation 2 of vis/2.png",
    ),
    lambda r, c: add_box(c, segmentation=[[5, 5, 15, 15]]): ("short polygon", "annotation 2 of vis/2.png"),
}


@pytest.mark.parametrize("spoil", FAULTS, ids=[kind for kind, _ in FAULTS.values()])
def test_each_fault_is_found(spoil, pairs, tmp_path):
    content, check = pairs
    spoil(tmp_path, content)
    kind, where = FAULTS[spoil]
    report = check()
    matches = [f for f in report.findings if f.kind == kind]
    assert matches and matches[0].where.endswith(where)
    assert KINDS[kind][1] in report.text()
    assert report.count(KINDS[kind][0]) >= 1
    # Nothing else is blamed, but for sizes: unequal ones cannot both be what the JSON says.
    assert {f.kind for f in report.findings} <= {kind, *(["wrong size"] if kind == "unequal sizes" else [])}


@pytest.fixture
def labeled(pairs, tmp_path):
    """The same pairs with label maps: "ground" left, "car" in a quarter, 7 (ignored) in another."""
    content, _ = pairs
    (tmp_path / "labels").mkdir()
    (tmp_path / "segmentation").mkdir()
    values = np.zeros(SIZE[::-1], np.uint8)
    values[: SIZE[1] // 2, SIZE[0] // 2 :] = 1
    values[SIZE[1] // 2 :, SIZE[0] // 2 :] = 7
    del content["annotations"]
    for image in content["images"]:
        image["sem_seg_file_name"] = f"labels/{image['id']}.png"
        Image.fromarray(values).save(tmp_path / image["sem_seg_file_name"])
    content["categories"] = [
        {"id": 0, "name": "ground", "color": [0, 0, 0]},
        {"id": 1, "name": "car", "color": [64, 0, 128]},
    ]
    content["ignored"] = [7]
    path = tmp_path / "segmentation" / "train.json"

    def check():
        path.write_text(json.dumps(content))
        return verify({"some_seg_train": (path, tmp_path)})

    return content, check


def test_label_maps_are_counted(labeled):
    report = labeled[1]()
    assert report.findings == []
    text = report.text()
    assert text.startswith("3 images, 3 label maps\n")
    rows = [line.split() for line in text.splitlines()[3:6]]
    assert rows == [["ground", "50.000", "3"], ["car", "25.000", "3"], ["ignored", "25.000", "3"]]
    classes = report.as_dict()["classes"]["some_seg_train"]
    assert classes["car"] == {"share": 0.25, "images": 3} and list(classes) == ["ground", "car", "ignored"]


def repaint(root, change):
    path = root / "labels/2.png"
    change(Image.open(path)).save(path)


def recolored(image):
    """A palette image of the right indices whose luminance would be something else."""
    image = image.copy()
    image.putpalette([200, 10, 30, 5, 250, 90] + [9] * 18)
    assert image.mode == "P"
    return image


def lost_label(root, content):
    (root / "labels/2.png").unlink()


def truncated_label(root, content):
    data = (root / "labels/2.png").read_bytes()
    (root / "labels/2.png").write_bytes(data[: len(data) // 2])


def no_label(root, content):
    (root / "labels/2.png").write_text("no image")


def luminance(root, content):
    repaint(root, lambda image: recolored(image).convert("L"))


def filled(value):
    return lambda root, content: repaint(root, lambda image: Image.new("L", image.size, value))


LABEL_FAULTS = {
    lost_label: "missing",
    truncated_label: "unreadable",
    no_label: "unreadable",
    luminance: "unknown value",
    filled(9): "unknown value",
    filled(0): "only background",
    filled(7): "only ignored",
    filled(255): "only ignored",
    lambda r, c: repaint(r, lambda image: image.resize((40, 40), Image.Resampling.NEAREST)): "label size",
    lambda r, c: repaint(r, lambda image: recolored(image).convert("RGB")): "label mode",
}


@pytest.mark.parametrize("spoil", LABEL_FAULTS, ids=LABEL_FAULTS.values())
def test_each_label_fault_is_found(spoil, labeled, tmp_path):
    content, check = labeled
    spoil(tmp_path, content)
    report = check()
    assert [(f.kind, f.where) for f in report.findings] == [(LABEL_FAULTS[spoil], "labels/2.png")]
    read = 2 if report.count("error") else 3
    assert f"3 images, {read} label maps" in report.text()


def test_palette_gives_its_index(labeled, tmp_path):
    repaint(tmp_path, recolored)
    assert labeled[1]().findings == []


def test_visible_only_set(labeled, tmp_path):
    content, check = labeled
    for image in content["images"]:
        del image["ir_file_name"]
    report = check()
    assert report.findings == [] and not report.shifts
    Image.open(tmp_path / "vis/1.png").save(tmp_path / "vis/2.png")
    assert [f.kind for f in check().findings] == ["duplicate image"]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"categories": [{"id": i + 256, "name": str(i), "color": [1, 1, 1]} for i in range(255)]},
            "at most 254",
        ),
        ({"ignored": [1]}, "the value 1 is both the class 'car' and ignored"),
        ({"images": None}, "has no list 'images'"),
    ],
)
def test_broken_segmentation_json(change, message, labeled):
    content, check = labeled
    content.update(change)
    with pytest.raises(UserError, match=message):
        check()


@pytest.mark.parametrize(
    "change, where",
    [
        ({"id": "car", "name": "car", "color": [1, 1, 1]}, "categories[0]"),
        ({"id": 1, "name": "car"}, "category 1 (car)"),
    ],
)
def test_faulty_categories_of_label_maps_are_found(change, where, labeled):
    content, check = labeled
    content["categories"] = [change]
    assert [(f.kind, f.where) for f in check().findings] == [("wrong value", where)]


def test_every_kind_has_a_test():
    # The last two need two sets.
    tested = {kind for kind, _ in FAULTS.values()} | set(LABEL_FAULTS.values())
    tested |= {"shared image", "shared group"}
    assert tested == set(KINDS)


def test_images_shared_between_sets_are_found(pairs, tmp_path):
    pairs[1]()
    path = tmp_path / "annotations" / "train.json"
    report = verify({"train": (path, tmp_path), "val": (path, tmp_path)})
    assert {f.kind for f in report.findings} == {"shared image"} and report.count("error") == 6
    assert [f.where for f in report.findings] == [
        f"val: {m}/{i}.png" for i in (1, 2, 3) for m in ("vis", "ir")
    ]


@pytest.fixture
def main(script):
    return script("check_pairs")


def test_tool_exit_code_and_json(main, pairs, tmp_path, capsys):
    content, check = pairs
    check()
    path = str(tmp_path / "annotations" / "train.json")
    assert main([path, "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["images"], last["errors"], last["warnings"]) == (3, 0, 0)
    add_box(content, image_id=1)
    check()
    assert main([path]) == 0  # a warning does not fail
    assert "warning: duplicate box (1)" in capsys.readouterr().out
    lost(tmp_path, content)
    assert main([path, "--json"]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["kinds"] == {"duplicate box": 1, "missing": 1}
    assert last["findings"][1]["where"] == "ir/2.png"


def test_tool_on_label_maps(main, labeled, tmp_path, capsys):
    labeled[1]()
    path = tmp_path / "segmentation" / "train.json"
    register_segmentation("checked_seg_foreground", path, tmp_path, "foreground")
    assert main(["checked_seg_foreground", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["classes"]["checked_seg_foreground"]["ground"]["share"] == 0.5
    lost_label(tmp_path, labeled[0])
    assert main([str(path)]) == 1
    with pytest.raises(UserError, match="make it with datasets/prepare_segmentation.py"):
        main([str(tmp_path / "msrs" / "segmentation" / "train.json")])
    unregister("checked_seg_foreground")


def test_tool_takes_names_and_an_image_root(main, pairs, tmp_path, capsys):
    pairs[1]()
    path = tmp_path / "annotations" / "train.json"
    register_pairs("checked_set", path, tmp_path)
    assert main(["checked_set"]) == 0
    assert main([str(path), "--image-root", str(tmp_path / "elsewhere")]) == 1
    assert "error: missing (6)" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean 'checked_set'"):
        main(["checked_sett"])
    with pytest.raises(UserError, match="none.json is missing"):
        main([str(tmp_path / "none.json")])
    with pytest.raises(UserError, match="voc_2007_test has no JSON to check"):
        main(["voc_2007_test"])
    with pytest.raises(UserError, match="sample=-1: give a number"):
        main([str(path), "--sample", "-1"])
    unregister("checked_set")
