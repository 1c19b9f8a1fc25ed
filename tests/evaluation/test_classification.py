"""Top-k accuracy against a plain computation, ties, bad scores and two ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ivtuning.data.datasets.classification import register_folder
from ivtuning.errors import UserError
from ivtuning.evaluation.classification import TopKEvaluator

NAME = "topk_test"


@pytest.fixture(autouse=True)
def dataset(tmp_path):
    register_folder(NAME, tmp_path)
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def feed(evaluator, labels, scores, batch=7):
    for first in range(0, len(labels), batch):
        part = slice(first, first + batch)
        evaluator.process(
            [{"label": int(c), "file_name": f"{c}.jpg"} for c in labels[part]],
            [{"scores": s} for s in scores[part]],
        )


def random_case(images=60, classes=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes - 1, images), torch.from_numpy(rng.random((images, classes)))


def test_figures_equal_a_plain_computation():
    labels, scores = random_case()
    evaluator = TopKEvaluator(NAME, topk=(1, 3, 5))
    feed(evaluator, labels, scores)
    figures = evaluator.evaluate()["classification"]
    order = np.argsort(-scores.numpy(), axis=1)
    for k in (1, 3, 5):
        assert figures[f"top{k}"] == pytest.approx(100 * np.mean((order[:, :k] == labels[:, None]).any(1)))
    right = {c: [o[0] == c for o in order[labels == c]] for c in set(labels)}
    assert len(right) == 8  # one of the nine classes does not occur
    assert figures["balanced_accuracy"] == pytest.approx(100 * np.mean([np.mean(r) for r in right.values()]))
    assert 0 < figures["top1"] < figures["top3"] < figures["top5"] < 100
    evaluator.reset()
    feed(evaluator, [0], torch.eye(9)[:1])
    assert evaluator.evaluate()["classification"]["top1"] == 100


def test_k_beyond_the_classes_and_ties():
    evaluator = TopKEvaluator(NAME, topk=(1, 2, 5))
    feed(evaluator, [0, 1, 2], torch.full((3, 3), 0.25))
    figures = evaluator.evaluate()["classification"]
    # Of equal scores the lower class goes first: a constant model is right for one class alone.
    assert [round(figures[f"top{k}"]) for k in (1, 2, 5)] == [33, 67, 100]


def test_figures_of_classes_and_of_times_of_day():
    evaluator = TopKEvaluator(NAME, topk=(1,))
    MetadataCatalog.get(NAME).set(classes=["car", "dog", "ox"], times=["day", "night"])
    labels, guesses = [0, 0, 0, 1, 1], [0, 0, 1, 1, 0]
    times = ["day", "night", "night", "day", None]
    evaluator.process(
        [{"label": k, "time": t} if t else {"label": k} for k, t in zip(labels, times, strict=True)],
        [{"scores": torch.eye(3)[k]} for k in guesses],
    )
    figures = evaluator.evaluate()["classification"]
    assert sorted(evaluator.metric_names()) == sorted(f"classification/{name}" for name in figures)
    assert np.isnan(figures.pop("accuracy-ox"))
    assert {name: round(value, 1) for name, value in figures.items()} == {
        "top1": 60.0,
        "balanced_accuracy": 58.3,  # of 2/3 and 1/2
        "top1-day": 100.0,
        "balanced_accuracy-day": 100.0,
        "top1-night": 50.0,
        "balanced_accuracy-night": 50.0,
        "accuracy-car": 66.7,
        "accuracy-dog": 50.0,
    }


def test_ranks_are_gathered(monkeypatch):
    labels, scores = random_case(40)
    whole = TopKEvaluator(NAME)
    feed(whole, labels, scores)
    expected = whole.evaluate()
    ranks = [TopKEvaluator(NAME) for _ in range(2)]
    feed(ranks[0], labels[:25], scores[:25])
    feed(ranks[1], labels[25:], scores[25:])
    sent = []
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: sent.append(data) or [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert ranks[1].evaluate() == {}
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [data, *sent])
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    assert ranks[0].evaluate() == expected


def test_bad_input_is_reported():
    with pytest.raises(UserError, match="topk_test"):
        TopKEvaluator("topk_tset")
    for topk in ((), (0,)):
        with pytest.raises(UserError, match="from 1"):
            TopKEvaluator(NAME, topk)
    evaluator = TopKEvaluator(NAME)
    with pytest.raises(UserError, match="no image"):
        evaluator.evaluate()
    with pytest.raises(UserError, match="1.jpg are not finite"):
        feed(evaluator, [0, 1], torch.tensor([[0.1, 0.9], [float("nan"), 0.0]]))
    MetadataCatalog.get(NAME).classes = ["a", "b", "c"]
    with pytest.raises(UserError, match="set model.num_classes=3"):
        feed(evaluator, [0], torch.rand(1, 4))
