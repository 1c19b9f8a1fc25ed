"""Sets that list the same classes in different orders get one order."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from helpers.sets import registering

from ivtuning.data.catalog import unregister
from ivtuning.data.classes import align_classes, class_names, read_sets
from ivtuning.data.datasets.classification import labeled_images, register_folder
from ivtuning.data.datasets.detection import training_dicts
from ivtuning.data.datasets.segmentation import register_segmentation, segmentation_dicts
from ivtuning.data.datasets.visible import visible_dicts
from ivtuning.errors import UserError


def content(*names: str, label: int = 0) -> dict:
    """One image with one box of the class `names[label]`; the categories' ids are 3, 6, ..."""
    image = {"id": 1, "file_name": "1.png", "ir_file_name": "i.png", "height": 30, "width": 40}
    box = {"id": 1, "image_id": 1, "category_id": 3 * (label + 1), "bbox": [1, 2, 3, 4]}
    categories = [{"id": 3 * i, "name": n} for i, n in enumerate(names, 1)]
    return {"images": [image], "annotations": [box], "categories": categories}


def labels(records: list[dict]) -> list[int]:
    return [box["category_id"] for record in records for box in record["annotations"]]


def test_boxes_follow_the_first_set(register):
    first = register(content("car", "person", "bus", label=1), "first_set")
    second = register(content("bus", "person", "car", label=2), "second_set")
    assert align_classes([first, second]) == ["car", "person", "bus"]
    facts = MetadataCatalog.get(second)
    # Before the next reading as well as after it: an evaluator may be built first.
    for _ in range(2):
        assert class_names(second) == ["car", "person", "bus"]
        assert facts.thing_dataset_id_to_contiguous_id == {3: 2, 6: 1, 9: 0}
        assert labels(DatasetCatalog.get(second)) == [0]
    assert labels(training_dicts([first, second])) == [1, 0]


def test_the_first_set_gets_its_own_order_back(register):
    first = register(content("car", "person"), "first_set")
    second = register(content("person", "car"), "second_set")
    align_classes([first, second])
    assert labels(training_dicts(second)) == [1]
    assert align_classes([second, first]) == ["person", "car"]
    assert labels(training_dicts([second, first])) == [0, 1]
    assert align_classes([first]) == ["car", "person"]
    assert labels(DatasetCatalog.get(first)) == [0]


def test_sets_that_train_together_are_aligned(register):
    sets = [
        register(content("car", "person"), "first_set"),
        register(content("person", "car"), "second_set"),
    ]
    assert labels(training_dicts(sets)) == [0, 1]


def test_visible_sets_of_detectron2_follow_and_are_checked(tmp_path):
    made = {"first_visible": content("car", "bus"), "second_visible": content("bus", "car", label=1)}
    for name, data in made.items():
        del data["images"][0]["ir_file_name"]
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
    try:
        records = visible_dicts(list(made))
        assert labels(records) == [0, 0] and "ir_file_name" not in records[0]
        assert class_names("second_visible") == ["car", "bus"]
        assert labels(visible_dicts("second_visible", filter_empty=False)) == [0]
        data["annotations"][0]["bbox"] = []
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        with pytest.raises(UserError, match=r"annotation 1 of 1.png: bbox is \[\]"):
            visible_dicts("second_visible")
    finally:
        for name in made:
            unregister(name)


def test_label_maps_follow_the_first_set(tmp_path):
    def seg(*names: str) -> dict:
        made = content(*names)
        made["images"][0]["sem_seg_file_name"] = "l.png"
        for category in made["categories"]:
            category["color"] = [category["id"], 0, 0]
        return made | {"ignored": [1]}

    with registering(tmp_path, "segmentation", register_segmentation) as make:
        first, second = make(seg("road", "car"), "first_seg"), make(seg("car", "road"), "second_seg")
        align_classes([first, second])
        facts = MetadataCatalog.get(second)
        for _ in range(2):
            assert facts.stuff_classes == ["road", "car"]
            assert facts.stuff_colors == [[6, 0, 0], [3, 0, 0]]
            assert DatasetCatalog.get(second)[0]["label_ids"] == {3: 1, 6: 0, 1: 255}


def test_folders_follow_the_first_set(tmp_path):
    for path in ("one/cat/1.png", "one/dog/1.png", "two/meta/train.txt", "two/train/1.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    register_folder("one_folder", tmp_path / "one")
    register_folder("two_folder", tmp_path / "one")
    MetadataCatalog.get("one_folder").set(classes=["dog", "cat"])
    assert align_classes(["one_folder", "two_folder"]) == ["dog", "cat"]
    assert [record["label"] for record in labeled_images("two_folder")] == [1, 0]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("car", "persn"), "first_set and other_set have different classes.*'persn'; did you mean 'person'"),
        (("car",), "first_set alone has 'person'"),
        (("car", "person", "bus"), "other_set alone has 'bus'"),
    ],
)
def test_other_classes_are_refused(register, other, words):
    sets = [register(content("car", "person"), "first_set"), register(content(*other), "other_set")]
    for use in (align_classes, read_sets, training_dicts):
        with pytest.raises(UserError, match=words):
            use(sets)


def test_a_set_that_is_named_twice_is_refused(register):
    name = register(content("car"))
    with pytest.raises(UserError, match="some_set is named twice"):
        training_dicts([name, name])


@pytest.mark.parametrize("names", [[], "", 5, None, [5], {"a": 1}])
@pytest.mark.parametrize("read", [training_dicts, segmentation_dicts, labeled_images, visible_dicts])
def test_names_of_sets_are_checked(names, read):
    with pytest.raises(UserError, match="give the name of a registered set|no data set is called ''"):
        read(names)
