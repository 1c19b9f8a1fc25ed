"""COCO figures against pycocotools alone, driven as detectron2 drives it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, Instances
from helpers.sets import registering
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ivtuning.data.classes import align_classes
from ivtuning.data.datasets.detection import register_pairs
from ivtuning.errors import UserError
from ivtuning.evaluation import PairCOCOEvaluator, coco

NAMES = ["person", "car", "bus", "lamp", "unseen"]
SIZE = 320


def random_truth(seed: int, images: int = 14, modality: bool = True, masks: bool = False) -> dict:
    """Crowds, empty images, objects of every size, category ids with gaps, one class without objects."""
    rng = np.random.default_rng(seed)
    data = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE, "time": ["day", "night"][i % 2]}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 2 + 3 * k, "name": n} for k, n in enumerate(NAMES)],
        "annotations": [],
    }
    for image in data["images"][2:]:  # two images without objects
        for _ in range(rng.integers(1, 12)):
            w, h = rng.choice([12, 25, 60, 110, 180], 2) + rng.uniform(0, 8, 2)
            x, y = rng.uniform(0, SIZE - w), rng.uniform(0, SIZE - h)
            a = {
                "id": len(data["annotations"]) + 1,
                "image_id": image["id"],
                "category_id": int(2 + 3 * rng.integers(0, 4)),
                "bbox": [float(v) for v in (x, y, w, h)],
                "area": float(w * h * rng.uniform(0.7, 1)),
                "iscrowd": int(rng.random() < 0.15),
            }
            if modality:
                a["modality"] = str(rng.choice(["both", "visible", "infrared"]))
            if masks:
                a["segmentation"] = [[x, y, x + w, y + h / 4, x + w / 2, y + h]]
            data["annotations"].append(a)
    return data


def random_predictions(truth: dict, seed: int, extra: int = 30, masks: bool = False) -> list[Instances]:
    """Jittered truth, duplicates, wrong classes and noise; scores with ties. One Instances per image."""
    rng = np.random.default_rng(seed)
    out = []
    for image in truth["images"]:
        boxes, classes = [], []
        for a in truth["annotations"]:
            if a["image_id"] == image["id"] and rng.random() < 0.8:
                x, y, w, h = a["bbox"]
                for _ in range(rng.integers(1, 3)):
                    box = np.array([x, y, x + w, y + h]) + rng.normal(0, 0.06, 4) * [w, h, w, h]
                    boxes.append(np.concatenate([np.minimum(box[:2], box[2:] - 1), box[2:]]))
                    right = rng.random() < 0.85
                    classes.append((a["category_id"] - 2) // 3 if right else rng.integers(0, len(NAMES)))
        for _ in range(int(rng.integers(0, extra))):
            lo, size = rng.uniform(0, SIZE / 2, 2), rng.uniform(2, SIZE / 2, 2)
            boxes.append(np.concatenate([lo, lo + size]))
            classes.append(rng.integers(0, len(NAMES)))
        n = len(boxes)
        inst = Instances((SIZE, SIZE))
        inst.pred_boxes = Boxes(torch.as_tensor(np.array(boxes).reshape(n, 4), dtype=torch.float32))
        inst.scores = torch.as_tensor(rng.integers(1, 60, n) / 60, dtype=torch.float32)
        inst.pred_classes = torch.as_tensor(np.array(classes, dtype=np.int64))
        if masks:
            inst.pred_masks = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
            for m, (x0, y0, x1, y1) in zip(inst.pred_masks, np.array(boxes).reshape(n, 4), strict=True):
                x0, y0 = max(int(x0), 0), max(int(y0), 0)
                m[y0 : max(int(y1), y0 + 1), x0 : max(int((x0 + 2 * x1) / 3), x0 + 1)] = True
        out.append(inst)
    return out


@pytest.fixture
def make(tmp_path):
    """Register a ground truth and build an evaluator on it."""
    made = []

    def _make(truth: dict, **kwargs) -> PairCOCOEvaluator:
        name = f"evaluated_{tmp_path.name}_{len(made)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(truth))
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=NAMES,
            thing_dataset_id_to_contiguous_id={c["id"]: k for k, c in enumerate(truth["categories"])},
        )
        made.append(name)
        return PairCOCOEvaluator(name, **kwargs)

    yield _make
    for name in made:
        MetadataCatalog.pop(name)


def evaluate(evaluator, truth, predictions, **kwargs):
    evaluator.reset()
    for image, instances in zip(truth["images"], predictions, strict=True):
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    return evaluator.evaluate(**kwargs)


def reference(truth, predictions, images=None, ignored=(), limit=100, task="bbox"):
    """pycocotools alone, driven as detectron2 drives it: (stats of summarize(), precision array)."""
    truth = copy.deepcopy(truth)
    for a in truth["annotations"]:
        if a.get("modality") in ignored:
            a["area"] = 1e12  # outside every area range
    results = []
    for image, inst in zip(truth["images"], predictions, strict=True):
        for k in range(len(inst)):
            x0, y0, x1, y1 = inst.pred_boxes.tensor[k].double().tolist()
            if task == "bbox":
                box = np.float32([x0, y0, np.float32(x1) - np.float32(x0), np.float32(y1) - np.float32(y0)])
                shape = {"bbox": [float(v) for v in box]}
            else:
                shape = {
                    "segmentation": mask_util.encode(np.asfortranarray(inst.pred_masks[k].numpy(), "uint8"))
                }
            category = truth["categories"][int(inst.pred_classes[k])]["id"]
            results.append(
                {"image_id": image["id"], "category_id": category, "score": float(inst.scores[k])} | shape
            )
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        run = COCOeval(gt, gt.loadRes(results), task)
        run.params.maxDets = [1, 5, limit]
        if images is not None:
            run.params.imgIds = images
        run.evaluate()
        run.accumulate()
        if limit == 100:
            run.summarize()
    return run.stats, run.eval["precision"][..., 0, -1]


def mean(p):
    return 100 * p[p > -1].mean() if (p > -1).any() else math.nan


@pytest.fixture(params=["faster", "pycocotools"])
def library(request, monkeypatch):
    if request.param == "pycocotools":
        monkeypatch.setattr(coco, "COCO", COCO)
        monkeypatch.setattr(coco, "COCOeval", COCOeval)
    else:
        pytest.importorskip("faster_coco_eval")
        assert coco.COCOeval.__module__.startswith("faster_coco_eval")


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


def one_object_scene():
    """One object that both cameras show and one that only infrared shows, each in its own image half."""
    box = {"category_id": 2, "iscrowd": 0, "area": 1600.0, "image_id": 1}
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": SIZE, "width": SIZE}],
        "categories": [{"id": 2, "name": "person"}],
        "annotations": [
            box | {"id": 0, "bbox": [10, 10, 40, 40], "modality": "both"},
            box | {"id": 1, "bbox": [200, 200, 40, 40], "modality": "infrared"},
        ],
    }


def boxes(*items):
    inst = Instances((SIZE, SIZE))
    inst.pred_boxes = Boxes(torch.tensor([b for b, _ in items], dtype=torch.float32))
    inst.scores = torch.tensor([s for _, s in items])
    inst.pred_classes = torch.zeros(len(items), dtype=torch.int64)
    return [inst]


def test_objects_of_another_modality_are_neither_right_nor_wrong(make, library):
    truth = one_object_scene()
    detections = boxes(([200, 200, 240, 240], 0.9), ([10, 10, 50, 50], 0.5))
    got = evaluate(make(truth), truth, detections)["bbox"]
    assert (got["AP-both"], got["AP-infrared"], got["AP"]) == pytest.approx((100, 100, 100))
    assert math.isnan(got["AP-visible"])  # no object is shown by the visible camera alone
    # a false alarm inside the ignored object still counts: 1 right below 1 wrong
    alarm = boxes(([205, 205, 215, 215], 0.9), ([10, 10, 50, 50], 0.5))
    got = evaluate(make(truth), truth, alarm)["bbox"]
    assert got["AP-both"] == pytest.approx(50)
    assert got["AP-infrared"] == 0.0


def test_annotation_id_zero_is_an_object_like_any_other(make, library):
    truth = one_object_scene()
    truth["annotations"] = truth["annotations"][:1]
    assert evaluate(make(truth), truth, boxes(([10, 10, 50, 50], 0.5)))["bbox"]["AP"] == pytest.approx(100)


def test_ignored_objects_count_as_crowds(make, library):
    truth = random_truth(11, modality=False)
    marked = [a for a in truth["annotations"] if a["iscrowd"]]
    assert len(marked) > 3
    expected = copy.deepcopy(truth)
    for a in marked:
        del a["iscrowd"]
        a["ignore"] = 1
    predictions = random_predictions(truth, 12)
    stats, _ = reference(expected, predictions)
    got = evaluate(make(truth), truth, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)


def test_objects_with_bad_polygons_count_with_their_boxes(make, library):
    truth = random_truth(13, modality=False, masks=True)
    predictions = random_predictions(truth, 14)
    stats, _ = reference(truth, predictions)
    for k, a in enumerate(truth["annotations"]):
        a["segmentation"] = [[a["segmentation"][0][:4]], [a["segmentation"][0][:5]], [[]], []][k % 4]
    got = evaluate(make(truth), truth, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)


def test_boxes_that_stick_out_are_those_of_pycocotools(make, library):
    truth = random_truth(15, modality=False)
    for a in truth["annotations"][::3]:
        a["bbox"][0] -= a["bbox"][0] + 0.3 * a["bbox"][2]
    predictions = random_predictions(truth, 16)
    stats, _ = reference(truth, predictions)
    got = evaluate(make(truth), truth, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)


def test_labels_are_those_of_the_set_that_was_trained_on(library, tmp_path):
    truth = random_truth(17, modality=False)
    predictions = random_predictions(truth, 18)
    stats, _ = reference(truth, predictions)
    renamed = copy.deepcopy(truth)
    names = {c["id"]: c["name"] for c in truth["categories"]}
    ids = {name: number for number, name in zip(names, reversed(names.values()), strict=True)}
    renamed["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    for a in renamed["annotations"]:
        a["category_id"] = ids[names[a["category_id"]]]
    for data in (truth, renamed):
        for image in data["images"]:
            image["ir_file_name"] = f"infrared_{image['file_name']}"
    with registering(tmp_path, "annotations", register_pairs) as register:
        trained, tested = register(truth, "trained_set"), register(renamed, "tested_set")
        align_classes([trained, tested])
        got = evaluate(PairCOCOEvaluator(tested), renamed, predictions)["bbox"]
    assert [got[k] for k in ("AP", "AP50", "AP75")] == pytest.approx(100 * stats[:3], abs=1e-9)


def test_restricted_to_some_images_and_without_night(make, library):
    truth = random_truth(2)
    predictions = random_predictions(truth, 9)
    some = [4, 6, 8, 10]
    got = evaluate(make(truth), truth, predictions, img_ids=some)["bbox"]
    _, p = reference(truth, predictions, images=some)
    assert got["AP"] == pytest.approx(mean(p), abs=1e-6)
    assert got["AP-day"] == pytest.approx(got["AP"]) and math.isnan(got["AP-night"])


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
