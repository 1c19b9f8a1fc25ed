"""The classifier on pairs: every method trains it, both cameras count, and one may be missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers.tiny import plain_vit, swin
from PIL import Image

from ivtuning import Predictor
from ivtuning.checkpoint import save_adapter
from ivtuning.config import load_config
from ivtuning.data.catalog import unregister
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.own import find_set
from ivtuning.engine import run
from ivtuning.engine.optim import param_groups
from ivtuning.errors import UserError
from ivtuning.heads.classification import ImageClassifier
from ivtuning.methods import METHODS
from ivtuning.necks.pooled import PooledTrunk
from ivtuning.tuning import Full, IVTuning
from ivtuning.tuning.stems import InfraredOnly, PromptStem, SumStem, VisibleOnly

CLASSES = ("dark", "hot", "red")
MEAN, STD = [127.5] * 6, [127.5] * 6


def pair(name: str, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A visible and an infrared image. The visible ones of "dark" and "hot" are noise of one distribution."""
    rng = np.random.default_rng(seed)
    visible = rng.integers(0, 60, (size, size, 3), np.uint8)
    infrared = rng.integers(0, 60, (size, size), np.uint8)
    if name == "red":
        visible[8:24, 8:24, 0] += 150
    if name == "hot":
        infrared[8:24, 8:24] += 150
    return visible, infrared


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, str]:
    """The paths of a training and a test set of such pairs: eight and six, by day and by night."""
    root = tmp_path_factory.mktemp("pairs")
    for kind in ("vis", "ir"):
        (root / kind).mkdir()
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    files = {}
    for part, count, first in (("train", 8, 0), ("test", 6, 100)):
        images = []
        for i in range(first, first + count):
            name = CLASSES[i % 3]
            for kind, pixels in zip(("vis", "ir"), pair(name, i), strict=True):
                Image.fromarray(pixels).save(root / f"{kind}/{i}.png")
            image = {"id": i + 1, "file_name": f"vis/{i}.png", "ir_file_name": f"ir/{i}.png"}
            image |= {"width": 32, "height": 32, "category_id": i % 3 + 1, "time": ("day", "night")[i % 2]}
            images.append(image)
        files[part] = str(root / f"{part}.json")
        Path(files[part]).write_text(json.dumps({"images": images, "categories": categories}))
    yield files
    for file in files.values():
        unregister(file)


def classifier(trunk=plain_vit, stem=None, tuner=None, **options) -> ImageClassifier:
    torch.manual_seed(0)
    last = {swin: 2, plain_vit: 3}[trunk]  # no norms of maps that are not pooled
    return ImageClassifier(PooledTrunk(trunk(stem, tuner, out_indices=(last,))), 3, MEAN, STD, **options)


def mapped(file: str, **options) -> list[dict]:
    mapper = PairedDatasetMapper(is_train="modality_dropout" in options, **options)
    return [mapper(record) for record in DatasetCatalog.get(find_set(file))]


def fit(model: ImageClassifier, batch: list[dict], steps: int = 45, rate: float = 4e-3) -> float:
    """The last loss of training on one batch."""
    optimizer = torch.optim.AdamW(param_groups(model, rate, 0.0))
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(batch)["loss_cls"]
        loss.backward()
        optimizer.step()
    return loss.item()


def correct(model: ImageClassifier, batch: list[dict]) -> list[bool]:
    with torch.no_grad():
        scores = model.eval()(batch)
    return [int(y["scores"].argmax()) == x["label"] for x, y in zip(batch, scores, strict=True)]


@pytest.mark.parametrize("trunk", [plain_vit, swin])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_pairs(trunk, method, sets):
    model = classifier(trunk, *METHODS[method].plugins())
    model.train()
    losses = model(mapped(sets["train"]))
    losses["loss_cls"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    assert {"head.weight", "head.bias"} <= trained and torch.isfinite(losses["loss_cls"])
    model.eval()
    changed = [{**x, "image_ir": 255 - x["image_ir"]} for x in mapped(sets["test"])]
    sees_infrared = "infrared" in METHODS[method].stem.uses
    with torch.no_grad():
        for parameter in model.backbone.net.stem.parameters():  # a stem that starts at zero shows nothing yet
            parameter.add_(0.05)
        model.head.weight.normal_()
        before, after = (
            torch.stack([y["scores"] for y in model(b)]) for b in (mapped(sets["test"]), changed)
        )
    assert torch.equal(before, after) != sees_infrared


@pytest.mark.slow
@pytest.mark.parametrize("stem, tuner", [(PromptStem, IVTuning), (SumStem, Full)], ids=["IVTuning", "Full"])
def test_both_cameras_are_learned(stem, tuner, sets):
    model = classifier(stem=stem(), tuner=tuner() if tuner is Full else tuner(hidden_dim=16, dropout=0))
    assert fit(model, mapped(sets["train"]), steps=90 if tuner is Full else 45) < 0.1
    assert all(correct(model, mapped(sets["train"]))) and all(correct(model, mapped(sets["test"])))


@pytest.mark.parametrize("stem, hidden", [(VisibleOnly, "hot"), (InfraredOnly, "red")])
def test_one_camera_alone_does_not_tell_what_the_other_shows(stem, hidden, sets):
    batch = mapped(sets["test"])
    model = classifier(stem=stem(), tuner=Full())
    fit(model, mapped(sets["train"]), steps=40)
    right = dict(
        zip([f"{CLASSES[x['label']]} {i}" for i, x in enumerate(batch)], correct(model, batch), strict=True)
    )
    same = ("dark", hidden)  # one distribution to this camera
    assert all(ok for name, ok in right.items() if name.split()[0] not in same)
    assert not all(ok for name, ok in right.items() if name.split()[0] in same)


def test_a_missing_image_is_refused_or_filled(sets):
    whole, dropped = mapped(sets["test"]), mapped(sets["test"], drop="infrared")
    with pytest.raises(UserError, match="no 'image_ir'.*fill_missing=mean"):
        classifier().eval()(dropped)
    model = classifier(fill_missing="mean").eval()
    with torch.no_grad():
        model.head.weight.normal_()
        model.backbone.net.stem.generator.out.weight.normal_()
        gray = [{**x, "image_ir": torch.full_like(x["image_ir"], 127)} for x in whole]
        scores, near = (torch.stack([y["scores"] for y in model(b)]) for b in (dropped, gray))
    torch.testing.assert_close(scores, near, atol=0.02, rtol=0)
    torch.manual_seed(0)
    np.random.seed(0)
    batch = mapped(sets["train"], modality_dropout=0.7)
    assert {tuple(k for k in ("image", "image_ir") if k in x) for x in batch} > {("image", "image_ir")}
    model.train()
    assert torch.isfinite(model(batch)["loss_cls"])


TINY = [
    *(
        f"model.backbone.net.{change}"
        for change in ("embed_dim=24", "depth=2", "num_heads=2", "out_indices=[1]")
    ),
    *(f"dataloader.{part}.num_workers=0" for part in ("train", "test")),
    "dataloader.train.mapper.augmentations.2.shape=[32,32]",
    "dataloader.test.mapper.augmentations.0.shape=[32,32]",
    *(
        "dataloader.train.total_batch_size=4",
        "train.init_checkpoint=",
        "train.eval_period=0",
        "train.device=cpu",
    ),
]


@pytest.mark.slow
def test_the_config_trains_evaluates_and_predicts(sets, tmp_path):
    data = [f"data.train={sets['train']}", f"data.val={sets['test']}", f"train.output_dir={tmp_path / 'run'}"]
    file = "configs/FLIR_crops/ivtuning_vit_t.py"
    dropout = ["dataloader.train.mapper.modality_dropout=0.3", "train.max_iter=2"]
    cfg = load_config(file, [*TINY, *data, *dropout])
    assert cfg.model.fill_missing == "mean"
    figures = run.train(cfg)["classification"]
    assert set(figures) == {
        *("top1", "top1-day", "top1-night"),
        *("balanced_accuracy", "balanced_accuracy-day", "balanced_accuracy-night"),
        *(f"accuracy-{name}" for name in CLASSES),
    }
    weights = tmp_path / "run/model_final.pth"
    predict = Predictor(cfg, weights)
    assert predict.classes == list(CLASSES)
    record = DatasetCatalog.get(find_set(sets["test"]))[0]
    by_files, by_record = predict(record["file_name"], record["ir_file_name"]), predict(record)
    assert torch.equal(by_files, by_record) and by_files.sum() == pytest.approx(1)
    assert not torch.equal(predict(record["file_name"], None), by_files)
    picture = predict.draw(record["file_name"], by_files, record["ir_file_name"])
    alone = predict.draw(record["file_name"], by_files)
    assert picture.shape[1] > 2 * 512 and alone.shape == (32, 32, 3)
    save_adapter(predict.model, tmp_path / "a.safetensors")
