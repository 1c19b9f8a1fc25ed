"""COCO evaluators of a ground truth, with either library."""

from __future__ import annotations

import json

import pytest
from detectron2.data import MetadataCatalog
from helpers.coco import NAMES
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ivtuning.evaluation import PairCOCOEvaluator, coco


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


@pytest.fixture(params=["faster", "pycocotools"])
def library(request, monkeypatch):
    """What the evaluator computes with: faster-coco-eval or pycocotools."""
    if request.param == "pycocotools":
        monkeypatch.setattr(coco, "COCO", COCO)
        monkeypatch.setattr(coco, "COCOeval", COCOeval)
    else:
        pytest.importorskip("faster_coco_eval")
        assert coco.COCOeval.__module__.startswith("faster_coco_eval")
