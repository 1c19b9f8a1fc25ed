"""Predictions of salient objects: their maps in Python and as files, and that they are what is evaluated."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers.sets import registering, salient_set
from helpers.tools import load_tool
from PIL import Image

from ivtuning.config import build, load_config
from ivtuning.data.datasets.segmentation import register_segmentation
from ivtuning.engine import run
from ivtuning.errors import UserError
from ivtuning.evaluation.saliency import measure, summary
from ivtuning.predictor import Predictor
from ivtuning.predictor.results import prediction_of

CONFIG = "configs/VT/vit_t_ivtuning.py"
SMALL = [
    *("model.backbone.net.embed_dim=24", "model.backbone.net.num_heads=2"),
    *("model.sem_seg_head.decoder.in_channels=[24,24,24,24]", "model.sem_seg_head.decoder.channels=16"),
    *("model.backbone.net.img_size=64", "dataloader.test.mapper.augmentations.0.shape=[64,64]"),
    *("train.init_checkpoint=", "train.device=cpu", "dataloader.test.num_workers=0"),
    "dataloader.test.dataset.names=salient_2",
]


@pytest.fixture
def trained(tmp_path):
    """Overrides of a tiny model, and the file of its random weights; a set of three pairs is registered."""
    with registering(tmp_path / "sets", "segmentation", register_segmentation) as register:
        record = DatasetCatalog.get(salient_set(tmp_path, register, pairs=3))[0]
        cfg = load_config(CONFIG, SMALL)
        torch.manual_seed(0)
        model = run.build_model(cfg).eval()
        with torch.no_grad():  # maps of random weights are almost uniform
            low, high = model([build(cfg, "dataloader.test.mapper")(record)])[0]["sem_seg"]
            factor = 2 / (high - low).std()
            last = model.sem_seg_head.decoder.classifier[-1]
            last.weight.mul_(factor)
            last.bias.copy_(torch.stack([-low.mean(), -high.mean()]) * factor)
        file = tmp_path / "model.pth"
        torch.save({"model": model.state_dict()}, file)
        yield SMALL, str(file)


def test_written_maps_are_what_is_evaluated(trained, tmp_path, capsys):
    overrides, weights = trained
    out = tmp_path / "out"
    arguments = ["--weights", weights, "--dataset", "salient_2", "--output", str(out), "--draw", "--json"]
    load_tool("predict").main(["--config-file", CONFIG, *overrides, *arguments])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["predicts"] == "labels"
    cfg = load_config(CONFIG, overrides)
    expected = run.evaluate(cfg, run.load_model(cfg, weights))["saliency"]

    predict, rows = Predictor(cfg, weights), []
    results = json.loads((out / "predictions.json").read_text())
    for result, record in zip(results, DatasetCatalog.get("salient_2"), strict=True):
        assert result["file_name"] == record["file_name"]
        found = predict(record["file_name"], record["ir_file_name"])
        assert found.dtype == np.float32 and found.shape == (32, 32) and 0 <= found.min() < found.max() <= 1
        levels = np.asarray(Image.open(out / result["saliency_map"]))
        assert levels.dtype == np.uint8 and len(np.unique(levels)) > 9
        assert np.abs(levels / 255 - found).max() < 0.5001 / 255
        labels = np.asarray(Image.open(out / result["label_map"]))
        assert np.array_equal(labels, found > 0.5)
        assert dict(result["pixels"]) == {k: int((labels == k).sum()) for k in np.unique(labels)}
        truth = np.asarray(Image.open(record["sem_seg_file_name"])) == 1
        rows.append(measure(levels / 255, truth))
        entry = {**result, "results": [result]}
        again = prediction_of(entry, out, [0, 1], (32, 32))
        assert again.dtype == np.float32 and np.array_equal(again, np.float32(levels) / 255)
    assert summary(np.stack(rows)) == pytest.approx(expected, abs=1e-3)
    assert sorted(path.name for path in (out / "saliency").iterdir()) == ["0.png", "1.png", "2.png"]
    assert len(list((out / "pictures").iterdir())) == 3


def test_maps_are_drawn(trained):
    overrides, weights = trained
    predict = Predictor(CONFIG, weights, overrides=overrides)
    visible = np.full((60, 80, 3), 90, np.uint8)
    found = np.zeros((60, 80), np.float32)
    found[20:40, 20:60], found[50:] = 0.8, 0.4
    picture = predict.draw(visible, found)
    assert picture.shape == visible.shape
    assert picture[30, 40].tolist() != [90, 90, 90] == picture[55, 70].tolist()
    assert predict.draw(visible, found, visible[..., 0]).shape[1] > 3 * 512


def test_scores_of_other_classes_are_refused(trained):
    overrides, weights = trained
    predict = Predictor(CONFIG, weights, overrides=overrides)
    for scores, message in (
        (torch.zeros(3, 6, 8), "the model has 3 classes, but salient objects are the second of two"),
        (torch.full((2, 6, 8), float("nan")), "scores of array are not finite"),
    ):
        predict.model.forward = lambda samples, scores=scores: [{"sem_seg": scores}]
        with pytest.raises(UserError, match=message):
            predict(np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint8))
