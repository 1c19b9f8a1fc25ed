"""Figures of label maps against plain loops, detectron2's own evaluator, and two processes."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import pickle

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset
from PIL import Image
from scipy.ndimage import binary_erosion

from ivtuning.data.datasets.detection import register_pairs
from ivtuning.data.datasets.segmentation import register_segmentation
from ivtuning.errors import UserError
from ivtuning.evaluation.semantic import PairSemSegEvaluator

NAMES = ["ground", "car", "person", "bike", "never", "guessed"]  # the last two are not in the ground truth
SHAPES = [(12, 17), (9, 30), (16, 16), (11, 20), (13, 14)]
TIMES = ["day", "night", "night", "day", None]


def random_truth(seed: int, shown: int = 4, shapes=SHAPES) -> list[np.ndarray]:
    """Values 0..shown-1 with growing rarity, and 255; class 3 at night only."""
    rng = np.random.default_rng(seed)
    maps = []
    for shape, time in zip(shapes, TIMES, strict=False):
        labels = rng.choice(shown, shape, p=np.linspace(2, 1, shown) / np.linspace(2, 1, shown).sum())
        labels[(labels == 3) & (time == "day")] = 0
        labels[rng.random(shape) < 0.1] = 255
        maps.append(labels.astype(np.uint8))
    return maps


def random_scores(truth: list[np.ndarray], seed: int, classes: int = len(NAMES)) -> list[torch.Tensor]:
    """Scores (K, H, W) that are right at about half of the pixels; "never" never wins."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for labels in truth:
        scores = torch.randn(classes, *labels.shape, generator=generator)
        known = torch.from_numpy(np.where(labels == 255, 0, labels)).long()
        scores.scatter_add_(0, known[None], torch.full((1, *labels.shape), 1.5))
        if classes == len(NAMES):
            scores[4] = -9
        maps.append(scores)
    return maps


@pytest.fixture
def make(tmp_path):
    """Register label maps as a set and build an evaluator on it."""
    made = []

    def _make(truth, names=NAMES, times=TIMES, protocol="all", **kwargs) -> PairSemSegEvaluator:
        name = f"labeled_{tmp_path.name}_{len(made)}"
        (tmp_path / "segmentation").mkdir(exist_ok=True)
        images = []
        for k, (labels, time) in enumerate(zip(truth, times, strict=False)):
            path = f"{name}_{k}.png"
            Image.fromarray(labels).save(tmp_path / path)
            image = {"id": k + 1, "file_name": f"vis/{k}.png", "sem_seg_file_name": path}
            image |= dict(zip(("height", "width"), labels.shape, strict=True))
            images.append(image | ({"time": time} if time else {}))
        categories = [{"id": i, "name": n, "color": [i, i, i]} for i, n in enumerate(names)]
        path = tmp_path / "segmentation" / f"{name}.json"
        path.write_text(json.dumps({"info": {}, "images": images, "categories": categories}))
        register_segmentation(name, path, tmp_path, protocol)
        made.append(name)
        return PairSemSegEvaluator(name, **kwargs)

    yield _make
    for name in made:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


def process(evaluator, scores, batch: int = 2):
    files = [r["file_name"] for r in DatasetCatalog.get(evaluator.dataset_name)][: len(scores)]
    for i in range(0, len(files), batch):
        inputs = [{"file_name": f} for f in files[i : i + batch]]
        evaluator.process(inputs, [{"sem_seg": s} for s in scores[i : i + batch]])


def evaluate(evaluator, scores) -> dict:
    evaluator.reset()
    process(evaluator, scores)
    return evaluator.evaluate()["sem_seg"]


def reference(truth, scores, names=NAMES) -> dict:
    """The figures by counting the pixels of one class after the other."""
    t = np.concatenate([a.ravel() for a in truth])
    p = np.concatenate([s.numpy().argmax(0).ravel() for s in scores])[t != 255]
    t = t[t != 255]
    iou, acc, weights = {}, {}, {}
    for k, name in enumerate(names):
        hits, shown = sum((t == k) & (p == k)), sum(t == k)
        iou[name] = hits / sum((t == k) | (p == k)) if shown else math.nan
        acc[name] = hits / shown if shown else math.nan
        weights[name] = shown / len(t)
    seen = [n for n in names if not math.isnan(iou[n])]
    figures = {
        "mIoU": sum(iou[n] for n in seen) / len(seen),
        "fwIoU": sum(iou[n] * weights[n] for n in seen),
        "mACC": sum(acc[n] for n in seen) / len(seen),
        "pACC": sum(t == p) / len(t),
    }
    figures |= {f"IoU-{n}": v for n, v in iou.items()} | {f"ACC-{n}": v for n, v in acc.items()}
    return {key: 100 * value for key, value in figures.items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_figure_equals_plain_counting(make, seed):
    truth = random_truth(seed)
    scores = random_scores(truth, seed)
    got, want = evaluate(make(truth), scores), reference(truth, scores)
    for time in ("day", "night"):
        some = [i for i, t in enumerate(TIMES) if t == time]
        part = reference([truth[i] for i in some], [scores[i] for i in some])
        want[f"mIoU-{time}"] = part["mIoU"]
        assert math.isnan(part["IoU-bike"]) == (time == "day")
    assert got.keys() == want.keys()
    assert all(isinstance(value, float) for value in got.values())
    for key, value in want.items():
        assert got[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key
    # predicted, but never in the ground truth: no zero in the mean
    assert any((s.argmax(0) == 5).any() for s in scores)
    assert math.isnan(got["IoU-guessed"]) and math.isnan(got["ACC-never"])
    assert got["mIoU"] == pytest.approx(np.mean([got[f"IoU-{n}"] for n in NAMES[:4]]))


def test_every_figure_equals_detectron2s_where_all_classes_show(make):
    truth = random_truth(2)
    scores = [s[:4] for s in random_scores(truth, 2)]
    evaluator = make(truth, NAMES[:4])
    got = evaluate(evaluator, scores)
    reference_evaluator = SemSegEvaluator(evaluator.dataset_name, distributed=False)  # reads files itself
    reference_evaluator.dataset_name = evaluator.dataset_name
    theirs = evaluate(reference_evaluator, scores)
    shared = [k for k in got if k in theirs]
    assert {"mIoU", "fwIoU", "mACC", "pACC", "IoU-bike", "ACC-car"} <= set(shared)
    for key in shared:
        assert got[key] == pytest.approx(theirs[key], abs=1e-9), key


def test_one_hundred_and_fifty_classes_and_one(make):
    names = [f"c{i}" for i in range(150)]
    truth = random_truth(3, shown=150, shapes=[(60, 80)])
    scores = random_scores(truth, 3, classes=150)
    got = evaluate(make(truth, names), scores)
    want = reference(truth, scores, names)
    assert all(got[k] == pytest.approx(v, abs=1e-9, nan_ok=True) for k, v in want.items())
    single = [np.where(a == 255, 255, 0).astype(np.uint8) for a in truth]
    got = evaluate(make(single, ["all"]), [torch.randn(1, 60, 80)])
    assert got["mIoU"] == got["pACC"] == got["ACC-all"] == 100


def test_background_does_not_count_in_the_foreground_protocol(make, caplog):
    truth = random_truth(4)
    scores = [s[1:] for s in random_scores(truth, 4)]
    evaluator = make(truth, protocol="foreground")
    with caplog.at_level(logging.INFO):
        got = evaluate(evaluator, scores)
    moved = [np.where(a == 0, 255, np.where(a == 255, 255, a - 1)).astype(np.uint8) for a in truth]
    want = reference(moved, scores, NAMES[1:])
    assert all(got[k] == pytest.approx(v, abs=1e-9, nan_ok=True) for k, v in want.items())
    assert "IoU-ground" not in got and "protocol foreground (5 classes)" in caplog.text


def test_tables_name_set_protocol_parts_and_classes(make, caplog):
    truth = random_truth(5)
    evaluator, scores = make(truth), random_scores(truth, 5)
    with caplog.at_level(logging.INFO):
        got = evaluate(evaluator, scores)
    title = f"semantic segmentation on {evaluator.dataset_name}, protocol all (6 classes), 5 images:"
    lines = caplog.text.splitlines()
    assert any(line.endswith(title) for line in lines)
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = {row[0]: row[1:] for row in cells}
    assert rows["class"] == ["% of pixels", "IoU", "ACC", "IoU day", "IoU night"]
    assert rows["night"][:2] == ["2", f"{got['mIoU-night']:.3f}"]
    assert rows["bike"][1:4] == [f"{got['IoU-bike']:.3f}", f"{got['ACC-bike']:.3f}", "nan"]
    assert sum(float(rows[n][0]) for n in NAMES) == pytest.approx(100, abs=0.01)

    caplog.clear()
    with caplog.at_level(logging.INFO):
        evaluate(evaluator, scores[:3])
    assert "3 of 5 images" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        got = evaluate(make(truth, times=[None] * 5), scores)
    assert "night" not in caplog.text and not any("day" in key for key in got)


def test_without_a_pixel_that_counts_nothing_is_known(make):
    got = evaluate(make([np.full((4, 5), 255, np.uint8)]), [torch.randn(6, 4, 5)])
    assert all(math.isnan(value) for value in got.values())


def brute_boundary(truth, scores, k) -> float:
    """Boundary IoU by growing the outside one pixel at a time."""
    both = either = 0
    for labels, s in zip(truth, scores, strict=True):
        prediction = np.where(labels == 255, 255, s.numpy().argmax(0))
        reach = max(1, round(0.02 * math.hypot(*labels.shape)))
        bands = []
        for mask in (labels == k, prediction == k):
            bands.append(mask & ~binary_erosion(mask, np.ones((3, 3)), reach))
        both, either = both + (bands[0] & bands[1]).sum(), either + (bands[0] | bands[1]).sum()
    return 100 * both / either


def test_boundary_iou_only_when_asked_for(make):
    truth = [np.zeros((60, 90), np.uint8) for _ in range(2)]
    truth[0][10:50, 20:60] = 1
    truth[1][0:30, 30:90] = 2
    truth[1][40:60, 0:20] = 255
    scores = []
    for labels in truth:
        moved = np.roll(np.where(labels == 255, 0, labels), (1, 2), (0, 1)).astype(np.int64)
        scores.append(torch.nn.functional.one_hot(torch.from_numpy(moved), 6).permute(2, 0, 1).float())
    assert not any("oundary" in key for key in evaluate(make(truth), scores))
    got = evaluate(make(truth, boundary=True), scores)
    for k in range(3):
        assert got[f"BoundaryIoU-{NAMES[k]}"] == pytest.approx(brute_boundary(truth, scores, k)), k
    assert got["mBoundaryIoU"] == pytest.approx(np.mean([got[f"BoundaryIoU-{n}"] for n in NAMES[:3]]))
    assert 5 < got["mBoundaryIoU"] < got["mIoU"] < 100 and math.isnan(got["BoundaryIoU-never"])
    right = [torch.from_numpy(np.stack([a == k for k in range(6)])).float() for a in truth]
    assert evaluate(make(truth, boundary=True), right)["mBoundaryIoU"] == 100


def test_nothing_is_encoded_or_written_unless_asked_for(make, tmp_path, monkeypatch):
    truth = random_truth(6)
    scores = random_scores(truth, 6)
    evaluator = make(truth, output_dir=str(tmp_path / "out" / "eval"))
    got = evaluate(evaluator, scores)
    assert sorted(p.name for p in (tmp_path / "out" / "eval").iterdir()) == [
        "sem_seg_evaluation.json",
        "sem_seg_predictions.json",
    ]
    summed = json.loads((tmp_path / "out/eval/sem_seg_evaluation.json").read_text())
    assert (summed["protocol"], summed["classes"], summed["figures"]["IoU-never"]) == ("all", NAMES, None)
    assert summed["figures"]["mIoU"] == got["mIoU"]
    matrices = {part: np.array(m) for part, m in summed["confusion"].items()}
    assert summed["images"] == {"all": 5, "day": 2, "night": 2}
    assert matrices["all"][1, 2] == sum(
        ((a == 1) & (s.argmax(0).numpy() == 2)).sum() for a, s in zip(truth, scores, strict=True)
    )
    last = truth[4]  # at no known time
    assert (matrices["all"] - matrices["day"] - matrices["night"]).sum() == (last != 255).sum()

    predicted = scores[0].argmax(0).numpy()
    first = DatasetCatalog.get(evaluator.dataset_name)[0]["file_name"]
    predictions = json.loads((tmp_path / "out/eval/sem_seg_predictions.json").read_text())
    for p in (p for p in predictions if p["file_name"] == first):
        assert (mask_util.decode(p["segmentation"]) == (predicted == p["category_id"])).all()

    monkeypatch.setattr(PairSemSegEvaluator, "encode_json_sem_seg", None)
    assert evaluate(make(truth), scores) == pytest.approx(got, nan_ok=True)


def test_works_in_inference_on_dataset(make):
    truth = random_truth(7)
    evaluator, scores = make(truth), random_scores(truth, 7)
    records = DatasetCatalog.get(evaluator.dataset_name)

    class Model(torch.nn.Module):
        def forward(self, inputs):
            return [{"sem_seg": scores[x["image_id"] - 1]} for x in inputs]

    got = inference_on_dataset(Model(), [[r] for r in records], evaluator)["sem_seg"]
    assert got == pytest.approx(
        reference(truth, scores) | {k: v for k, v in got.items() if "mIoU-" in k}, nan_ok=True
    )
    assert evaluator.evaluate()["sem_seg"] == pytest.approx(got, nan_ok=True)  # asking again changes nothing


def _rank(rank, store, evaluator, files, scores, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    evaluator.reset()
    mine = [i for i in range(len(files)) if i % 2 == rank]
    evaluator.process([{"file_name": files[i]} for i in mine], [{"sem_seg": scores[i]} for i in mine])
    out.with_name(f"{rank}.pkl").write_bytes(pickle.dumps(evaluator.evaluate()))
    torch.distributed.destroy_process_group()


def test_two_processes_count_as_one(make, tmp_path):
    truth = random_truth(8)
    scores = random_scores(truth, 8)
    evaluator = make(truth, boundary=True, output_dir=str(tmp_path / "out"))
    want = evaluate(evaluator, scores)
    alone = json.loads((tmp_path / "out/sem_seg_predictions.json").read_text())
    files = [r["file_name"] for r in DatasetCatalog.get(evaluator.dataset_name)]
    fork = multiprocessing.get_context("fork")
    args = (tmp_path / "store", evaluator, files, scores, tmp_path / "rank")
    ranks = [fork.Process(target=_rank, args=(rank, *args)) for rank in range(2)]
    for p in ranks:
        p.start()
    for p in ranks:
        p.join(60)
        assert p.exitcode == 0
    got, other = (pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()) for rank in range(2))
    assert other == {} and got["sem_seg"] == pytest.approx(want, nan_ok=True)
    together = json.loads((tmp_path / "out/sem_seg_predictions.json").read_text())
    assert sorted(map(json.dumps, together)) == sorted(map(json.dumps, alone))


def test_labels_without_a_class_name_their_file(make, tmp_path):
    truth = random_truth(9)
    truth[1][3, 4] = 6
    evaluator, scores = make(truth), random_scores([np.zeros_like(a) for a in truth], 9)
    path = DatasetCatalog.get(evaluator.dataset_name)[1]["sem_seg_file_name"]
    with pytest.raises(UserError, match=f"{path} has 1 pixels of value 6"):
        evaluate(evaluator, scores)
    (tmp_path / path).unlink()
    with pytest.raises(UserError, match=f"{path} is missing"):
        evaluate(evaluator, scores)


def test_bad_input_is_reported_in_one_line(make, tmp_path):
    truth = random_truth(10)
    evaluator, scores = make(truth), random_scores(truth, 10)
    with pytest.raises(
        UserError, match="the model has 5 classes, .* 6: set model.sem_seg_head.num_classes=6"
    ):
        evaluate(evaluator, [s[:5] for s in scores])
    with pytest.raises(UserError, match=r"vis/0.png is \(17, 12\), its label map \(12, 17\)"):
        evaluate(evaluator, [s.transpose(1, 2) for s in scores])
    scores[0][2, 3, 4] = math.nan
    with pytest.raises(UserError, match="scores of .*vis/0.png are not finite"):
        evaluate(evaluator, scores)
    with pytest.raises(UserError, match="other.png was predicted, but .* lacks it"):
        evaluator.process([{"file_name": "other.png"}], [{"sem_seg": scores[0]}])
    evaluator.reset()
    with pytest.raises(UserError, match="no image of .* was evaluated"):
        evaluator.evaluate()
    with pytest.raises(UserError, match=f"did you mean '{evaluator.dataset_name}'"):
        PairSemSegEvaluator(evaluator.dataset_name[:-1])
    register_pairs("only_boxes_val", tmp_path / "boxes.json", tmp_path)
    try:
        with pytest.raises(UserError, match="only_boxes_val has no label maps"):
            PairSemSegEvaluator("only_boxes_val")
    finally:
        DatasetCatalog.remove("only_boxes_val")
        MetadataCatalog.pop("only_boxes_val")
