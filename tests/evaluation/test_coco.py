"""COCO figures against pycocotools alone, driven as detectron2 drives it."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import BoxMode
from helpers.coco import (
    NAMES,
    boxes,
    evaluate,
    mean,
    one_object_scene,
    random_predictions,
    random_truth,
    reference,
)

from ivtuning.errors import UserError
from ivtuning.evaluation import PairCOCOEvaluator


@pytest.mark.parametrize("seed", [0, 1])
def test_every_figure_equals_pycocotools(make, library, seed):
    truth = random_truth(seed)
    predictions = random_predictions(truth, seed + 50)
    got = evaluate(make(truth), truth, predictions)["bbox"]
    stats, precision = reference(truth, predictions)
    want = dict(zip(["AP", "AP50", "AP75", "APs", "APm", "APl"], 100 * stats[:6], strict=True))
    for k, name in enumerate(NAMES):
        want |= {f"AP-{name}": mean(precision[:, :, k]), f"AP50-{name}": mean(precision[0, :, k])}
    for parity, time in ((0, "day"), (1, "night")):
        _, p = reference(truth, predictions, images=[i for i in range(1, 15) if i % 2 == parity])
        want |= {f"AP-{time}": mean(p), f"AP50-{time}": mean(p[0])}
    for kept in ("both", "visible", "infrared"):
        _, p = reference(truth, predictions, ignored={"both", "visible", "infrared"} - {kept})
        want |= {f"AP-{kept}": mean(p), f"AP50-{kept}": mean(p[0])}
    assert got.keys() == want.keys()
    assert {f"bbox/{key}" for key in got} <= set(make(truth).metric_names())
    for key, value in want.items():
        assert got[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
    assert 5 < got["AP"] < 95 and math.isnan(got["AP-unseen"])
    assert len({round(got[f"AP-{m}"], 3) for m in ("both", "visible", "infrared")}) == 3


@pytest.mark.parametrize("limit", [100, 7])
def test_many_detections_are_cut_as_pycocotools_cuts_them(make, library, limit):
    truth = random_truth(3, images=4, modality=False)
    for image in truth["images"]:
        del image["time"]
    predictions = random_predictions(truth, 4, extra=3000)
    assert max(np.bincount(p.pred_classes).max() for p in predictions) > 100
    got = evaluate(make(truth, max_dets_per_image=limit), truth, predictions)["bbox"]
    _, p = reference(truth, predictions, limit=limit)
    assert got["AP"] == pytest.approx(mean(p), abs=1e-6) and got["AP"] > 0
    assert got["AP50"] == pytest.approx(mean(p[0]), abs=1e-6)
    assert not {"AP-day", "AP-both"} & got.keys()


def test_masks_equal_pycocotools(make, library):
    truth = random_truth(5, images=6, masks=True)
    for a in truth["annotations"]:
        a["iscrowd"] = 0
    predictions = random_predictions(truth, 6, extra=5, masks=True)
    got = evaluate(make(truth), truth, predictions)
    assert list(got) == ["bbox", "segm"]
    stats, _ = reference(truth, predictions, task="segm")
    assert [got["segm"][k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-6)
    for k, value in zip(("APs", "APm", "APl"), 100 * stats[3:6], strict=True):
        assert got["segm"][k] == pytest.approx(value, abs=1e-6)
    assert got["segm"]["AP50"] > 1
    # the box figures are those of the same predictions without masks
    boxes_only = copy.deepcopy(predictions)
    for p in boxes_only:
        p.remove("pred_masks")
    assert list(evaluate(make(truth), truth, boxes_only)) == ["bbox"]
    stats, _ = reference(truth, predictions)
    assert got["bbox"]["AP"] == pytest.approx(100 * stats[0], abs=1e-6)


@pytest.mark.parametrize("processed", [True, False])
def test_no_detections_score_zero(make, library, processed):
    truth = random_truth(1, images=6, masks=True)
    evaluator = make(truth)
    if processed:
        nothing = random_predictions({"images": truth["images"], "annotations": []}, 0, extra=1, masks=True)
        assert sum(map(len, nothing)) == 0
        got = evaluate(evaluator, truth, nothing)
        assert got["segm"]["AP"] == 0.0
    else:
        evaluator.reset()
        got = evaluator.evaluate()
    for key in ("AP", "AP50", "AP75", "APs", "AP-car", "AP50-night", "AP-infrared"):
        assert got["bbox"][key] == 0.0, key
    assert math.isnan(got["bbox"]["AP-unseen"])


def test_restricted_to_some_images_and_without_night(make, library):
    truth = random_truth(2)
    predictions = random_predictions(truth, 9)
    some = [4, 6, 8, 10]
    got = evaluate(make(truth), truth, predictions, img_ids=some)["bbox"]
    _, p = reference(truth, predictions, images=some)
    assert got["AP"] == pytest.approx(mean(p), abs=1e-6)
    assert got["AP-day"] == pytest.approx(got["AP"]) and math.isnan(got["AP-night"])


def test_ids_of_images_may_be_text():
    """As those of VOC's images are, a set without a JSON."""
    box = {"bbox": [10, 10, 50, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": "a.jpg", "image_id": "000005", "height": 100, "width": 100, "annotations": [box]}
    DatasetCatalog.register("named_images", lambda: [record])
    MetadataCatalog.get("named_images").thing_classes = ["person"]
    try:
        evaluator = PairCOCOEvaluator("named_images")
        evaluator.reset()
        (found,) = boxes(([10, 10, 50, 50], 0.9))
        evaluator.process([record], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove("named_images")
        MetadataCatalog.pop("named_images")


def test_an_area_that_is_not_stated_is_that_of_the_mask(make):
    """A triangle of 800 square pixels in a box of 1600 is small, not medium."""
    triangle = [10, 10, 50, 10, 10, 50]
    truth = one_object_scene()
    stated = {key: value for key, value in truth["annotations"][0].items() if key != "area"}
    predictions = boxes(([10, 10, 50, 50], 0.9))
    rle = mask_util.frPyObjects([triangle], 320, 320)[0]
    compressed = {"size": rle["size"], "counts": rle["counts"].decode()}
    for mask in ([triangle], compressed):
        truth["annotations"] = [stated | {"segmentation": mask}]
        got = evaluate(make(truth), truth, predictions)["bbox"]
        assert math.isnan(got["APm"]) and not math.isnan(got["APs"])


def test_works_in_inference_on_dataset_and_writes_coco_results(make, tmp_path, caplog):
    truth = random_truth(7, images=5)
    predictions = random_predictions(truth, 8)
    evaluator = make(truth, output_dir=str(tmp_path / "out"))
    loader = [[{"image_id": i["id"], "index": k}] for k, i in enumerate(truth["images"])]

    class Model(torch.nn.Module):
        def forward(self, inputs):
            return [{"instances": predictions[x["index"]]} for x in inputs]

    got = inference_on_dataset(Model(), loader, evaluator)
    again = evaluator.evaluate()
    assert got.keys() == again.keys()
    assert got["bbox"] == pytest.approx(again["bbox"], nan_ok=True)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["coco_instances_results.json"]
    assert len(written) == sum(map(len, predictions))
    first = next(p for p in predictions if len(p))
    x0, y0, x1, y1 = first.pred_boxes.tensor[0].tolist()
    assert written[0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-3)
    assert {w["category_id"] for w in written} <= {2, 5, 8, 11, 14}


def test_bad_input_is_reported_in_one_line(make, tmp_path):
    truth = one_object_scene()
    wrong = boxes(([10, 10, 50, 50], 0.5))
    wrong[0].pred_classes[0] = 7
    with pytest.raises(UserError, match="predicts class 7.*num_classes"):
        evaluate(make(truth), truth, wrong)
    evaluator = make(truth)
    evaluator.reset()
    evaluator.process([{"image_id": 99}], [{"instances": boxes(([10, 10, 50, 50], 0.5))[0]}])
    with pytest.raises(UserError, match="image 99 was predicted"):
        evaluator.evaluate()
    DatasetCatalog.register("evaluated_pairs_val", list)
    try:
        with pytest.raises(UserError, match="did you mean 'evaluated_pairs_val'"):
            PairCOCOEvaluator("evaluated_pair_val")
    finally:
        DatasetCatalog.remove("evaluated_pairs_val")
    MetadataCatalog.get("evaluated_gone").set(json_file=str(tmp_path / "gone.json"))
    with pytest.raises(UserError, match="gone.json"):
        PairCOCOEvaluator("evaluated_gone")
    MetadataCatalog.pop("evaluated_gone")


def test_a_class_called_like_a_part_is_refused(make):
    truth = one_object_scene()
    truth["categories"][0]["name"] = "infrared"
    with pytest.raises(UserError, match="AP-infrared would be the figure of a class and of a part"):
        make(truth)
    for annotation in truth["annotations"]:
        del annotation["modality"]
    make(truth)  # no such part


def test_miss_rates_stand_beside_ap(make):
    truth = random_truth(1, modality=False)
    for a in truth["annotations"]:
        a["occlusion"] = a["id"] % 3
    plain, evaluator = make(truth), make(truth, miss_rate=True)
    figures = evaluate(evaluator, truth, random_predictions(truth, 1))["bbox"]
    ap = evaluate(plain, truth, random_predictions(truth, 1))["bbox"]
    assert {name: figures[name] for name in ap} == pytest.approx(ap, nan_ok=True)
    assert sorted(evaluator.metric_names()) == sorted(f"bbox/{name}" for name in figures)
    assert 0 < figures["MR"] < 100 and figures["MR"] != figures["MR-day"]
    nothing = [p[:0] for p in random_predictions(truth, 1)]
    assert evaluate(evaluator, truth, nothing)["bbox"]["MR"] == 100
    assert math.isnan(evaluate(evaluator, truth, nothing, img_ids=[1])["bbox"]["MR"])


def test_an_occlusion_of_another_kind_is_refused(make):
    truth = random_truth(1, modality=False)
    truth["annotations"][0]["occlusion"] = "heavy"
    with pytest.raises(UserError, match=r"occlusion is 'heavy', not 0, 1 or 2"):
        make(truth)
