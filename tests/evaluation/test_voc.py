"""VOC's average precision against figures computed by hand."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.structures import Boxes, Instances
from PIL import Image

from ivtuning.config import load_config
from ivtuning.data.datasets.visible import visible_dicts
from ivtuning.errors import UserError
from ivtuning.evaluation.coco import PairCOCOEvaluator
from ivtuning.evaluation.voc import VOCEvaluator

XML = """<annotation><size><width>60</width><height>40</height><depth>3</depth></size>{}</annotation>"""
OBJECT = (
    "<object><name>{}</name><pose>Left</pose><truncated>0</truncated><difficult>{}</difficult><bndbox>"
    "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
# Four cats, one of them difficult, and a dog; corners are inclusive pixels, counted from 1.
TRUTH = {
    "000001": [("cat", 0, 11, 11, 20, 20), ("cat", 0, 31, 11, 40, 20), ("cat", 1, 11, 25, 20, 34)],
    "000002": [("cat", 0, 11, 11, 20, 20), ("dog", 0, 31, 11, 40, 20)],
}
CAT, DOG, PERSON = 7, 11, 14


@pytest.fixture
def voc(tmp_path):
    """A registered set of two images, "tiny_voc"."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("\n".join(TRUTH) + "\n")
    for name, objects in TRUTH.items():
        (tmp_path / f"Annotations/{name}.xml").write_text(
            XML.format("".join(OBJECT.format(*o) for o in objects))
        )
        Image.new("RGB", (60, 40)).save(tmp_path / f"JPEGImages/{name}.jpg")
    register_pascal_voc("tiny_voc", str(tmp_path), "test", 2007)
    yield tmp_path
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("tiny_voc")


def evaluate(detections: dict[str, list[tuple]]) -> dict:
    """Evaluate detections (class, score, x0, y0, x1, y1) of each image; corners are counted from 0."""
    evaluator = VOCEvaluator("tiny_voc")
    evaluator.reset()
    for image, rows in detections.items():
        instances = Instances((40, 60))
        instances.pred_classes = torch.tensor([r[0] for r in rows], dtype=torch.int64)
        instances.scores = torch.tensor([r[1] for r in rows])
        instances.pred_boxes = Boxes(torch.tensor([r[2:] for r in rows], dtype=torch.float32).reshape(-1, 4))
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_average_precision_by_hand(voc):
    figures = evaluate(
        {
            "000002": [(CAT, 0.80001, 10, 10, 15, 20)],  # IoU of exactly 0.5: wrong, after the first
            "000001": [
                (CAT, 0.80002, 10, 10, 20, 20),  # right: recall 1/3, precision 1
                (CAT, 0.7, 30, 11, 40, 20),  # right: recall 2/3, precision 2/3
                (CAT, 0.65, 10, 24, 20, 34),  # the difficult one: does not count
                (CAT, 0.6, 10, 10, 20, 19),  # the first object again: wrong
                (PERSON, 0.9, 0, 0, 9, 9),  # a class without objects
            ],
        }
    )
    # Precision is 1 at the recalls 0 to .3, 2/3 at .4 to .6, then 0.
    assert figures["AP50_11point-cat"] == pytest.approx(100 * (4 + 3 * 2 / 3) / 11)
    assert figures["AP50_area-cat"] == pytest.approx(100 * (1 / 3 + 1 / 3 * 2 / 3))
    assert figures["AP50_11point-dog"] == figures["AP50_area-dog"] == 0.0
    assert figures["AP50_area-person"] != figures["AP50_area-person"]
    assert figures["AP50_11point"] == pytest.approx(figures["AP50_11point-cat"] / 2)
    assert figures["AP50_area"] == pytest.approx(figures["AP50_area-cat"] / 2)


def test_evaluator_takes_what_the_loader_reads(voc):
    records = visible_dicts("tiny_voc")
    assert [r["image_id"] for r in records] == list(TRUTH) and "ir_file_name" not in records[0]
    mapper = instantiate(load_config("configs/VOC/retinanet_mona_swin_l.py").dataloader.train.mapper)
    x = mapper(records[1])
    assert x["image"].shape == (3, 600, 900) and "image_ir" not in x and len(x["instances"]) == 2
    detections = {
        r["image_id"]: [(a["category_id"], 0.5, *a["bbox"]) for a in r["annotations"]] for r in records
    }
    figures = evaluate(detections)
    assert figures["AP50_11point"] == pytest.approx(100) and figures["AP50_area"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: VOCEvaluator("voc_2070_test"), "did you mean"),
        (lambda: VOCEvaluator("coco_2017_val"), "not in VOC's layout"),
        (lambda: evaluate({"000009": [(CAT, 0.5, 0, 0, 9, 9)]}), "image 000009 was predicted"),
        (lambda: evaluate({"000001": [(20, 0.5, 0, 0, 9, 9)]}), "predicts class 20"),
        (lambda: visible_dicts("voc_2070_test"), "did you mean"),
    ],
)
def test_bad_input_is_one_line(voc, act, words):
    with pytest.raises(UserError, match=words) as error:
        act()
    assert "\n" not in str(error.value)


def test_a_set_that_is_not_there_is_named(voc):
    (voc / "ImageSets/Main/test.txt").unlink()
    for act in (visible_dicts, VOCEvaluator):
        with pytest.raises(UserError, match=r"tiny_voc: .*test\.txt is missing.*DETECTRON2_DATASETS"):
            act("tiny_voc")


def test_precision_by_recall_takes_images_whose_ids_are_text(voc):
    evaluator = PairCOCOEvaluator("tiny_voc")
    dog = {"image_id": "000002", "category_id": DOG, "bbox": [30, 10, 10, 10], "score": 0.5}
    precision = evaluator.precision_by_recall([dog])
    assert (precision[:, :, DOG] == 1).all() and (precision[:, :, CAT] == 0).all()
    assert (precision[:, :, PERSON] == -1).all()  # the set has none
