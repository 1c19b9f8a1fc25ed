"""Measures of salient objects against plain computations and against PySODMetrics' figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from helpers import tiny
from helpers.sets import registering, salient_set
from PIL import Image

from ivtuning.data.datasets.segmentation import register_segmentation
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.errors import UserError
from ivtuning.evaluation.saliency import NAMES, SaliencyEvaluator, measure, saliency, summary
from ivtuning.evaluation.semantic import PairSemSegEvaluator
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.losses import CrossEntropy, IoU, Sum
from ivtuning.heads.segmentation.segformer import SegFormer
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.necks.multi_scale import MultiScale

# PySODMetrics 1.6.2 on the maps of `waves`, rounded to 8 bits.
PUBLISHED = dict(
    zip(
        ("S", "MAE", "wF", "adpF", "adpE", "meanF", "maxF", "meanE", "maxE"),
        (
            *(0.7174053778560953, 0.2571978021978022, 0.6539810644865581, 0.7309572689756046),
            *(0.6392374877728869, 0.6510204743549082, 0.8033834793535003, 0.6402282311673624),
            0.8509015439138925,
        ),
        strict=True,
    )
)


def waves(seed: float, shape=(20, 26)) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.sin(0.31 * x + seed) * np.cos(0.23 * y - 0.7 * seed)


def maps() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three maps of probabilities and of what is salient."""
    return [(1 / (1 + np.exp(-4 * (waves(k + 0.4) - 0.1))), waves(k) > 0.2) for k in (1, 2, 3)]


def test_equals_pysodmetrics():
    figures = summary(np.stack([measure(p, truth) for p, truth in maps()]))
    assert list(figures) == list(NAMES)
    assert figures == pytest.approx({key: 100 * value for key, value in PUBLISHED.items()}, rel=1e-12)


def test_curves_count_pixels_by_threshold():
    p, truth = maps()[0]
    row = measure(p, truth)
    levels = np.rint(255 * p) / 255
    levels = ((levels - levels.min()) / (levels.max() - levels.min()) * 255).astype(int)
    for k, threshold in enumerate(range(255, -1, -1)):
        found = levels >= threshold
        precision, recall = (found & truth).sum() / max(found.sum(), 1), (found & truth).sum() / truth.sum()
        f = 1.3 * precision * recall / (0.3 * precision + recall) if recall else 0
        a, b = found - found.mean(), truth - truth.mean()
        alignment = 2 * a * b / (a * a + b * b + 1e-16)
        assert row[5 + k] == pytest.approx(f, rel=1e-9)
        assert row[5 + 256 + k] == pytest.approx(
            ((1 + alignment) ** 2 / 4).sum() / (truth.size - 1), rel=1e-9
        )


@pytest.mark.parametrize(
    ("p", "truth", "expected"),
    [
        (1.0, True, dict(S=100, MAE=0, wF=100)),
        (0.0, False, dict(S=100, MAE=0, wF=0)),
        (0.0, True, dict(S=0, MAE=100, maxF=100)),
    ],
)
def test_uniform_maps(p, truth, expected):
    figures = summary(measure(np.full((8, 9), p), np.full((8, 9), truth))[None])
    assert {key: figures[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert all(map(math.isfinite, figures.values()))


def test_an_object_in_the_corner_is_measured():
    truth = np.zeros((8, 9), bool)
    truth[-1, -1] = True
    figures = summary(measure(truth.astype(float), truth)[None])
    assert figures["MAE"] == 0 and figures["maxF"] == pytest.approx(100) and math.isfinite(figures["S"])


def test_logits_and_probabilities_give_one_map():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = (logits[1] - logits[0]).double().sigmoid().numpy()
    np.testing.assert_allclose(saliency(logits), expected, atol=1e-7)
    np.testing.assert_allclose(saliency(logits.softmax(0)), expected, atol=1e-7)
    np.testing.assert_allclose(saliency(logits.log_softmax(0)), expected, atol=1e-7)


@pytest.fixture
def make(tmp_path):
    with registering(tmp_path / "sets", "segmentation", register_segmentation) as register:
        yield register


def test_evaluator_adds_the_measures_to_those_of_label_maps(make, tmp_path):
    name = salient_set(tmp_path, make, 3)
    evaluator, plain = SaliencyEvaluator(name), PairSemSegEvaluator(name)
    rows = []
    for record in DatasetCatalog.get(name):
        generator = torch.Generator().manual_seed(record["image_id"])
        scores = torch.randn(2, 32, 32, generator=generator)
        truth = np.asarray(Image.open(record["sem_seg_file_name"])) == 1
        rows.append(measure(saliency(scores), truth))
        for each in (evaluator, plain):
            each.process([{"file_name": record["file_name"]}], [{"sem_seg": scores}])
    results = evaluator.evaluate()
    assert results["sem_seg"] == plain.evaluate()["sem_seg"]
    assert results["saliency"] == summary(np.stack(rows))
    names = [f"{task}/{name}" for task, figures in results.items() for name in figures]
    assert sorted(evaluator.metric_names()) == sorted(names)
    evaluator.reset()
    with pytest.raises(UserError, match="no image of"):
        evaluator.evaluate()


def test_a_set_of_other_classes_is_refused(make, tmp_path):
    with pytest.raises(UserError, match="salient_3 has 3 classes, but salient objects are the second of two"):
        SaliencyEvaluator(salient_set(tmp_path, make, 1, classes=3))


def test_overfits_eight_pairs(make, tmp_path):
    name = salient_set(tmp_path, make)
    torch.manual_seed(0)
    decoder = SegFormer(["block1", "block3"], [24, 24], num_classes=2, channels=32)
    model = PairedSemanticSegmentor(
        backbone=MultiScale(tiny.plain_vit(patch_size=4), 4),
        sem_seg_head=SemSegHead(decoder, 2, Sum([CrossEntropy(), IoU([1])])),
        pixel_mean=tiny.MEAN,
        pixel_std=tiny.STD,
    )
    records = DatasetCatalog.get(name)
    batch = [PairedDatasetMapper(is_train=True)(record) for record in records]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(28):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()

    def figure(drop: str | None = None) -> float:
        samples = [PairedDatasetMapper(is_train=False, drop=drop)(record) for record in records]
        return inference_on_dataset(model, [samples], SaliencyEvaluator(name))["saliency"]["S"]

    whole = figure()
    assert whole > 90
    # Some objects show in one camera alone.
    model.fill_missing = "mean"
    assert figure("infrared") < whole and figure("visible") < whole
