"""Faults of COCO-like JSON are refused with their place; odd but good files are read."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog
from helpers.sets import registering

from ivtuning.data.datasets.detection import check_masks, read_json, training_dicts
from ivtuning.data.datasets.segmentation import register_segmentation, segmentation_dicts
from ivtuning.data.faults import faults
from ivtuning.data.masks import mask_fault
from ivtuning.errors import UserError

H, W = 30, 40


def content() -> dict:
    """Two images, 60 boxes with triangles for masks, two classes."""
    images = [
        {"id": i, "file_name": f"vis/{i}.png", "ir_file_name": f"ir/{i}.png", "height": H, "width": W}
        for i in (1, 2)
    ]
    box = {"category_id": 1, "bbox": [1, 2, 10, 8], "area": 40, "segmentation": [[1, 2, 11, 2, 11, 10]]}
    boxes = [{"id": i, "image_id": 1 + i % 2} | copy.deepcopy(box) for i in range(60)]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def changed(key: str, index: int | None, changes) -> dict:
    made = content()
    if index is None:
        made[key] = changes
    elif isinstance(changes, dict) and isinstance(made[key][index], dict):
        made[key][index] |= changes
    else:
        made[key][index] = changes
    return made


# (list, index or None for the whole list, what is put there): the words of the line
FAULTS = [
    (("images", 0, None), r"images\[0\]: None is no object with id, file_name"),
    (("images", 0, {"id": "1"}), "vis/1.png: id is '1', not an integer"),
    (("images", 0, {"id": 1.0}), "id is 1.0, not an integer"),
    (("images", 0, {"id": True}), "id is True, not an integer"),
    (("images", 0, {"id": 2**63}), "id is 9223372036854775808, not an integer of 64 bits"),
    (("images", 1, {"id": 1}), r"images: id 1 occurs 2 times, first at images\[0\]"),
    (("images", 1, {"file_name": "vis/1.png"}), "images: file_name 'vis/1.png' occurs 2 times"),
    (("images", 0, {"file_name": None}), r"images\[0\]: file_name is null"),
    (("images", 0, {"file_name": 7}), r"images\[0\]: file_name is 7, not a file's path"),
    (("images", 0, {"file_name": "a\0b"}), r"file_name is 'a\\x00b'"),
    (("images", 0, {"file_name": "\ud800"}), r"file_name is '\\ud800'"),
    (("images", 0, {"file_name": "../../secret.png"}), "'../../secret.png' is outside the image root"),
    (("images", 0, {"file_name": "vis/../../x.png"}), "outside the image root"),
    (("images", 0, {"file_name": "/etc/passwd"}), "'/etc/passwd' is outside .*; move .* info.image_root"),
    (("images", 0, {"ir_file_name": "C:\\data\\1.png"}), "is outside the image root"),
    (("images", 0, {"ir_file_name": "..\\..\\1.png"}), "is outside the image root"),
    (("images", 0, {"ir_file_name": ["a.png"]}), "ir_file_name is .'a.png'., not a file's path"),
    (("images", 0, {"ir_file_name": "vis/1.png"}), "vis/1.png: ir_file_name is the visible file"),
    (("images", 0, {"ir_file_name": None}), "vis/1.png: it has no ir_file_name"),
    (("images", 0, {"missing": "infrard"}), "missing is 'infrard', not .*did you mean 'infrared'"),
    (("images", 0, {"time": 7}), "time is 7, not text"),
    (("images", 0, {"width": 0}), "width is 0, not a positive number"),
    (("images", 0, {"width": -40}), "width is -40"),
    (("images", 0, {"width": 40.5}), "width is 40.5"),
    (("images", 0, {"height": "30"}), "height is '30'"),
    (("images", 0, {"height": math.inf}), "height is inf"),
    (("images", 0, {"height": 10**9}), "height is 1000000000"),
    (("annotations", 0, []), r"annotations\[0\]: \[\] is no object"),
    (("annotations", 0, {"id": None}), r"annotations\[0\]: id is null"),
    (("annotations", 0, {"id": 1}), "annotations: id 1 occurs 2 times"),
    (("annotations", 0, {"image_id": "1"}), "annotation 0: image_id is '1'"),
    (("annotations", 0, {"image_id": 9}), "annotation 0: no image has the id 9"),
    (
        ("annotations", 0, {"category_id": 9}),
        r"annotation 0 of vis/1.png: unknown category id 9 \(known: 1 car",
    ),
    (("annotations", 0, {"category_id": None}), "category_id is null"),
    *(
        (("annotations", 0, {"bbox": bbox}), "annotation 0 of vis/1.png: bbox is .*, not four finite numbers")
        for bbox in (
            *(None, [], "1,2,3,4", {}, 5, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, None]),
            *([1, 2, 3, True], [[1, 2], [3, 4]], [1, 2, -3, 4], [1, math.nan, 3, 4], [1, 2, math.inf, 4]),
            [1, 2, 3, 10**400],
        )
    ),
    (("annotations", 0, {"area": "40"}), "area is '40'"),
    (("annotations", 0, {"area": math.nan}), "area is nan"),
    (("annotations", 0, {"area": -1}), "area is -1"),
    (("annotations", 0, {"iscrowd": 2}), "iscrowd is 2, not 0 or 1"),
    (("annotations", 0, {"iscrowd": "0"}), "iscrowd is '0'"),
    (("annotations", 0, {"ignore": -1}), "ignore is -1"),
    (("annotations", 0, {"modality": "infared"}), "modality is 'infared', not .*did you mean 'infrared'"),
    (("annotations", 0, {"segmentation": "x"}), "annotation 0 of vis/1.png: str, neither polygons nor"),
    (("annotations", 0, {"segmentation": False}), "bool, neither polygons nor"),
    (("annotations", 0, {"segmentation": [["a"] * 6]}), "a polygon is no list of finite numbers"),
    (("annotations", 0, {"segmentation": [[1, 2, 3, 4, 5, math.nan]]}), "finite numbers"),
    (("annotations", 0, {"segmentation": [[1, 2, 3, 4, 5, 1e9]]}), "far outside its image of 40x30"),
    (
        ("annotations", 0, {"segmentation": {"counts": [1200]}}),
        "size is None, but .height, width. is .30, 40.",
    ),
    (("annotations", 0, {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}), "size is .1000000"),
    (("annotations", 0, {"segmentation": {"size": [W, H], "counts": [1200]}}), "size is .40, 30."),
    (("annotations", 0, {"segmentation": {"size": [H, W], "counts": [1201]}}), "they add up to 1201"),
    (("annotations", 0, {"segmentation": {"size": [H, W], "counts": [-1, 1201]}}), "one is negative"),
    (("annotations", 0, {"segmentation": {"size": [H, W], "counts": []}}), "they add up to 0"),
    (("annotations", 0, {"segmentation": {"size": [H, W], "counts": ["1200"]}}), "neither whole numbers nor"),
    (("annotations", 0, {"segmentation": {"size": [H, W], "counts": "\u00e9"}}), "neither whole numbers nor"),
    (("annotations", 0, {"segmentation": {"size": [H, W], "counts": "ooooooooo"}}), "neither whole numbers"),
    (("annotations", 0, {"segmentation": {"size": [H, W], "counts": "12"}}), "must cover 1200 pixels"),
    (("categories", 0, "car"), r"categories\[0\]: 'car' is no object with id, name"),
    (("categories", 0, {"id": "1"}), r"categories\[0\]: id is '1'"),
    (("categories", 1, {"id": 1}), "categories: id 1 occurs 2 times"),
    (("categories", 1, {"name": "car "}), "categories: name 'car' occurs 2 times"),
    (("categories", 0, {"name": " "}), "category 1: name is ' ', not a class's name"),
    (("categories", 0, {"name": None}), "category 1: name is null"),
    (("categories", None, {"1": "car"}), "has no list 'categories'"),
    (("annotations", None, None), "has no list 'annotations'"),
    (("info", None, {"image_root": 5}), "info.image_root is 5, not a folder's path"),
]


@pytest.mark.parametrize(("change", "words"), FAULTS, ids=[f"{c[0]}: {w[:40]}" for c, w in FAULTS])
def test_a_fault_is_one_line_with_its_place(register, change, words):
    made = changed(*change)
    name = register(made)
    with pytest.raises(UserError, match=f"train.json.*{words}") as caught:
        training_dicts(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    if change[1] is not None:  # a finding of the same place; other faults are UserErrors there, too
        assert list(faults(made, paired=True, roots=["/root"]))


def test_all_faults_are_counted(register):
    made = content()
    for box in made["annotations"][:5]:
        box["bbox"] = None
    with pytest.raises(UserError, match=r"annotation 0 of vis/1.png: bbox is null.* \(4 more: "):
        training_dicts(register(made))
    assert [fault.entry for fault in faults(made)] == [("annotations", i) for i in range(5)]


@pytest.mark.parametrize("top", [[], [{"images": []}], "text", 5, None])
def test_a_json_that_is_no_object(register, top):
    with pytest.raises(UserError, match="must be an object with images"):
        training_dicts(register(json.dumps(top)))


@pytest.mark.parametrize(
    "change",
    [
        ("info", None, None),
        ("info", None, "made by a tool"),
        ("info", None, []),
        ("licenses", None, [{"id": 1}]),
        ("images", 0, {"height": 30.0, "license": 3, "time": None, "missing": None}),
        ("images", 0, {"file_name": "vis\\1.png"}),
        ("images", 0, {"file_name": "vis/../vis/1.png", "ir_file_name": "été/1.png"}),
        ("annotations", 0, {"area": None, "segmentation": None, "modality": None, "iscrowd": None}),
        ("annotations", 0, {"segmentation": []}),
        ("annotations", 0, {"segmentation": [1, 2, 11, 2, 11, 10]}),
        ("annotations", 0, {"segmentation": {"size": [H, W], "counts": [0, 1200]}}),
        ("annotations", 0, {"bbox": [1, 2, 60, 8]}),
        ("categories", 0, {"id": 0, "name": " car", "supercategory": None}),
    ],
)
def test_odd_files_are_read(register, change):
    made = changed(*change)
    for box in made["annotations"]:
        box["category_id"] = made["categories"][0]["id"]
    records = training_dicts(register(made))
    assert sum(len(record["annotations"]) for record in records) == 60
    assert isinstance(records[0]["height"], int) and "vis" in records[0]["file_name"].split("/")
    first = records[0]["annotations"][0]
    assert first["category_id"] == 0 and None not in first.values()


def test_an_image_root_can_be_asked_for(register, tmp_path):
    made = changed("images", 0, {"file_name": "/elsewhere/1.png"})
    made["info"] = {"image_root": "/"}
    assert DatasetCatalog.get(register(made))[0]["file_name"] == "/elsewhere/1.png"
    made = changed("images", 0, {"file_name": str(tmp_path / "some_set/vis/1.png")})  # absolute, but inside
    assert DatasetCatalog.get(register(made))[0]["file_name"] == str(tmp_path / "some_set/vis/1.png")


def crowds(records: list[dict]) -> list[int]:
    return [box.get("iscrowd", 0) for record in records for box in record["annotations"]]


@pytest.mark.parametrize("flag", [1, True])
@pytest.mark.parametrize("key", ["ignore", "iscrowd"])
def test_ignored_objects_are_crowds(register, key, flag):
    made = changed("annotations", 1, {key: flag})
    name = register(made)
    assert sum(crowds(training_dicts(name))) == 1
    assert [box.get("iscrowd", 0) for box in read_json(json_of(name))["annotations"]][:3] == [0, 1, 0]
    assert list(faults(made)) == []


def json_of(name: str) -> str:
    from ivtuning.data.catalog import metadata

    return metadata(name).json_file


@pytest.mark.parametrize("short", [[[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[]], [[1, 2], [3, 4, 5, 6, 7]]])
def test_objects_without_a_polygon_keep_their_boxes(register, short):
    name = register(changed("annotations", 0, {"segmentation": short}))
    records = training_dicts(name)
    assert (
        sum(map(len, (r["annotations"] for r in records)))
        == len(read_json(json_of(name))["annotations"])
        == 60
    )
    assert (
        "segmentation" not in records[0]["annotations"][0] and "segmentation" in records[1]["annotations"][0]
    )
    with pytest.raises(UserError, match="1 objects of .*vis/1.png have no mask.*use_instance_mask=False"):
        check_masks(records)
    check_masks(records[1:])


def test_one_of_several_polygons_may_be_short(register):
    name = register(changed("annotations", 0, {"segmentation": [[1, 2], [1, 2, 11, 2, 11, 10]]}))
    assert training_dicts(name)[0]["annotations"][0]["segmentation"] == [[1, 2, 11, 2, 11, 10]]


@pytest.mark.parametrize(
    "bbox", [[5, 5, 0, 3], [50, 5, 4, 4], [5, 5, 1e9, 1e9], [-30, 5, 32, 4], [5, 5, 1e308, 1]]
)
def test_boxes_without_an_object_count_nowhere(register, caplog, bbox):
    name = register(changed("annotations", 0, {"bbox": bbox}))
    assert sum(len(record["annotations"]) for record in training_dicts(name)) == 59
    assert len(read_json(json_of(name))["annotations"]) == 59
    assert (
        "1 of 60 boxes are empty or outside their image, the first is annotation 0 of vis/1.png"
        in caplog.text
    )
    made = changed("annotations", 0, {"bbox": bbox})
    made["annotations"][1]["bbox"] = bbox
    with pytest.raises(UserError, match="2 of 60 boxes .* write .x, y, width, height. in pixels"):
        training_dicts(register(made))


def test_boxes_in_fractions_are_refused(register):
    made = content()
    for box in made["annotations"]:
        box["bbox"] = [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(UserError, match="60 of 60 boxes are under 1 px.*give pixels, not fractions"):
        training_dicts(register(made))
    made["annotations"][0]["bbox"] = [0.1, 0.2, 0, 0.4]  # nor does an empty one hide them
    with pytest.raises(UserError, match="59 of 60 boxes are under 1 px"):
        training_dicts(register(made))
    # A few thin boxes are good.
    assert training_dicts(register(changed("annotations", 0, {"bbox": [1, 2, 0.5, 9]})))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ignored": [1]}, "the value 1 is both the class 'car' and ignored"),
        ({"ignored": 7}, "ignored is 7, not a list"),
        ({"ignored": [True]}, "ignored has True"),
    ],
)
def test_ignored_values_of_label_maps(tmp_path, change, words):
    made = content() | change
    for image in made["images"]:
        image["sem_seg_file_name"] = "l.png"
    for category in made["categories"]:
        category["color"] = [1, 2, 3]
    with registering(tmp_path, "segmentation", register_segmentation) as register:
        with pytest.raises(UserError, match=words):
            segmentation_dicts(register(made))
        made["images"][0]["sem_seg_file_name"] = "../l.png"
        with pytest.raises(UserError, match="sem_seg_file_name '../l.png' is outside"):
            segmentation_dicts(register(made))


def test_run_length_codes_of_pycocotools_are_good():
    rng = np.random.default_rng(0)
    for density in (0, 0.02, 0.5, 0.98, 1):
        for size in ((1, 1), (3, 200), (97, 61)):
            mask = np.asfortranarray(rng.random(size) < density, np.uint8)
            code = mask_util.encode(mask)
            code["counts"] = code["counts"].decode()
            assert mask_fault(code, *size) is None
            longer = {"size": [size[0] + 1, size[1]], "counts": code["counts"]}
            assert "must cover" in mask_fault(longer, size[0] + 1, size[1])
