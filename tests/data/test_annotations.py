"""Reading boxes of VOC and YOLO files: every form that is understood, and what is refused."""

from __future__ import annotations

import math

import pytest

from ivtuning.data.annotations import Box, check_classes, read_classes, read_voc, read_yolo
from ivtuning.errors import UserError

CLASSES = ["person", "car"]
SIZE = (40, 30)


def bndbox(*corners) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    return f"<bndbox>{''.join(f'<{n}>{c}</{n}>' for n, c in zip(names, corners, strict=True))}</bndbox>"


def corners(tag, *values) -> str:
    """A polygon x1, y1, x2 ... as DroneVehicle writes it."""
    numbered = (f"{'xy'[i % 2]}{i // 2 + 1}" for i in range(len(values)))
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in zip(numbered, values, strict=True))
    return f"<{tag}>{inside}</{tag}>"


PLACE = bndbox(1, 2, 11, 8)


def voc(tmp_path, place=PLACE, size="<width>40</width><height>30</height>", more=""):
    path = tmp_path / "a.xml"
    item = f"<object><name>Car</name>{more}{place}</object>"
    path.write_text(f"<annotation><size>{size}</size>{item}</annotation>")
    return read_voc(path, CLASSES, SIZE)


@pytest.mark.parametrize("tag", ["polygon", "bndbox"])
def test_polygons_become_the_box_around_them(tag, tmp_path):
    assert voc(tmp_path, corners(tag, 5, 6, 9, 4, 12, 8, 7, 10)) == [Box(1, 5, 4, 12, 10)]
    # A box beside the polygon is the annotator's own.
    assert voc(tmp_path, corners("polygon", 5, 6, 9, 4, 12, 8) + bndbox(1, 2, 3, 4)) == [Box(1, 1, 2, 3, 4)]


def test_other_forms_of_a_place(tmp_path):
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in [(1, 2), (5, 2), (3, 7)])
    assert voc(tmp_path, f"<polygon>{points}</polygon>") == [Box(1, 1, 2, 5, 7)]
    turned = f"<cx>10</cx><cy>12</cy><w>6</w><h>2</h><angle>{math.pi / 2}</angle>"
    (box,) = voc(tmp_path, f"<robndbox>{turned}</robndbox>")
    assert box[1:5] == pytest.approx((9, 9, 11, 15))


@pytest.mark.parametrize(("text", "crowd"), [("1", True), (" True ", True), ("0", False), ("", False)])
def test_difficult_objects_are_crowd(text, crowd, tmp_path):
    assert voc(tmp_path, more=f"<difficult>{text}</difficult>") == [Box(1, 1, 2, 11, 8, crowd)]


@pytest.mark.parametrize(
    "size", ["", "<width>0</width><height>0</height>", "<width/>", "<width>40.0</width>"]
)
def test_a_size_may_be_unknown(size, tmp_path):
    assert len(voc(tmp_path, size=size)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(size="<width>80</width><height>60</height>"),
            "made on an image of 80x60, but its image is 40x30",
        ),
        (dict(size="<width>30</width><height>40</height>"), "made on an image of 30x40"),
        (dict(size="<width>wide</width>"), "not two whole numbers"),
        (dict(place=bndbox(20, 10, 6, 12)), r"corners \(20, 10\) and \(6, 12\), which are not in order"),
        (dict(place=bndbox(1, 8, 11, 2)), "not in order"),
        (dict(place=bndbox(1, "nan", 3, 4)), "not four numbers: 1, nan, 3, 4"),
        (dict(place=bndbox(1, 2, "1e999", 4)), "not four numbers"),
        (dict(place="<bndbox><xmin>1</xmin></bndbox>"), "not four numbers"),
        (dict(place=""), "has no bndbox, polygon or robndbox"),
        (dict(place=corners("polygon", 5, 6, 9, 4)), "a polygon of 4 numbers"),
        (dict(place=corners("polygon", 5, 6, 9, 4, 3)), "not 6 numbers"),
        (dict(more="<difficult>maybe</difficult>"), "difficult='maybe': write 0 or 1"),
    ],
)
def test_bad_objects(change, message, tmp_path):
    with pytest.raises(UserError, match=rf"a\.xml.*{message}"):
        voc(tmp_path, **change)


def test_an_xml_of_another_kind(tmp_path):
    (tmp_path / "a.xml").write_text("<annotations><image/></annotations>")
    with pytest.raises(UserError, match="no VOC file: its root is <annotations>"):
        read_voc(tmp_path / "a.xml", CLASSES)


def yolo(tmp_path, text, encoding="utf-8"):
    (tmp_path / "a.txt").write_text(text, encoding)
    return read_yolo(tmp_path / "a.txt", CLASSES, SIZE)


@pytest.mark.parametrize(
    ("line", "corners"),
    [
        ("1 0.5 0.5 0.25 0.2", (15, 12, 25, 18)),
        ("1.0\t0.5 0.5 0.25 0.2\r\n\r\n", (15, 12, 25, 18)),
        ("1 0.1 0.1 0.5 0.1 0.5 0.5", (4, 3, 20, 15)),
        ("1 0.1 0.2 0.5 0.1 0.5 0.5 0.2 0.3", (4, 3, 20, 15)),
    ],
)
def test_yolo_lines(line, corners, tmp_path):
    (box,) = yolo(tmp_path, line)
    assert box.label == 1 and box[1:5] == pytest.approx(corners)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_yolo_with_a_byte_order_mark(encoding, tmp_path):
    assert [box.label for box in yolo(tmp_path, "1 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2", encoding)] == [1, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 -0.2 0.2", "has a negative size"),
        ("1 0.5 0.5 0.2 0.2 0.9", "a confidence is for predictions"),
        ("1 0.1 0.1 0.5 0.1 0.5 0.5 0.3", "expected `class xc yc w h`"),
        ("² 0.5 0.5 0.2 0.2", "expected"),
        ("1.5 0.5 0.5 0.2 0.2", "expected"),
        ("99999999999999999999999 0.5 0.5 0.2 0.2", "expected"),
        ("-1 0.5 0.5 0.2 0.2", "unknown class id -1"),
        ("1,0.5,0.5,0.2,0.2", "expected"),
        ("1 10 10 20 10 20 20", "is in pixels"),
        ("1 .5 .5 .2 .2 .45 .45 2 .55 .55 2", "no polygon in the image; key points are not read"),
        ("1 inf 0.5 0.2 0.2", "not four numbers"),
        ("图 0.5", "expected"),
    ],
)
def test_bad_yolo_lines(line, message, tmp_path):
    with pytest.raises(UserError, match=rf"a\.txt:2.*{message}"):
        yolo(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")


@pytest.mark.parametrize(
    "content",
    [
        b"person\ncar\n",
        b"\xef\xbb\xbfperson\r\ncar\r\n",
        "person\ncar".encode("utf-16"),
        b" person \n\n\tcar\t",
        b"0 person\n1 car\n",
        b"0: person\n1: car\n",
    ],
)
def test_class_lists(content, tmp_path):
    (tmp_path / "classes.txt").write_bytes(content)
    assert read_classes(tmp_path / "classes.txt") == CLASSES


def test_a_class_may_begin_with_a_number(tmp_path):
    (tmp_path / "classes.txt").write_text("2 wheeler\ncar\n")
    assert read_classes(tmp_path / "classes.txt") == ["2 wheeler", "car"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("人".encode("gbk"), "classes.txt:1: not UTF-8"),
        (b"1 person\n2 car\n", "classes.txt:1: '1 person' has another id than 0"),
        (b"car\nCar\n", "class 'Car' is there twice"),
        (b"\n \n", "names no class"),
    ],
)
def test_bad_class_lists(content, message, tmp_path):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_class_options():
    assert check_classes(["person", " car "], "--classes") == CLASSES
    for text, message in {
        "person,,car": "class 2 of 3 has an empty name",
        "car,CAR": "twice",
        "": "empty",
    }.items():
        with pytest.raises(UserError, match=f"--classes: .*{message}"):
            check_classes(text.split(","), "--classes")
