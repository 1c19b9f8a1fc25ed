"""The image classifier: its head, its training, its files, and the configs' recipe."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.tiny import plain_vit, swin, vitdet
from PIL import Image

from ivtuning.checkpoint import load_weights, save_adapter
from ivtuning.checkpoint.files import read as read_checkpoint
from ivtuning.config import load_config
from ivtuning.data.datasets.classification import register_folder
from ivtuning.engine import run
from ivtuning.engine.parameters import count_parameters
from ivtuning.errors import UserError
from ivtuning.heads.classification import ImageClassifier
from ivtuning.necks.pooled import PooledTrunk
from ivtuning.tuning import TUNERS, Mona
from ivtuning.tuning.stems import VisibleOnly

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]


def classifier(tuner=None, trunk=swin, **kwargs):
    torch.manual_seed(0)
    net = trunk(VisibleOnly(), tuner or Mona(hidden_dim=4), **kwargs)
    return ImageClassifier(PooledTrunk(net), 3, MEAN, STD)


def batch(count=3, size=24):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return [dict(image=x, label=i % 3, file_name=f"{i}.jpg") for i, x in enumerate(images)]


def test_scores_are_the_softmax_of_the_pooled_last_map():
    model, inputs = classifier().eval(), batch()
    with torch.no_grad():
        model.head.weight.normal_()
        scores = torch.stack([y["scores"] for y in model(inputs)])
        x = torch.stack([x["image"] for x in inputs]).float()
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        feature = model.backbone.net(x)["p2"]
        assert feature.shape == (3, 32, 2, 2)
        logits = F.linear(feature.flatten(2).mean(2), model.head.weight, model.head.bias)
        torch.testing.assert_close(scores, logits.softmax(1))
        model.train()
        model.backbone.net.tuner.eval()  # no dropout, to compare
        expected = F.cross_entropy(logits, torch.tensor([0, 1, 2]))
        torch.testing.assert_close(model(inputs)["loss_cls"], expected)


@pytest.mark.parametrize("trunk", [swin, vitdet, plain_vit])
def test_every_trunk_pools_its_last_output(trunk):
    model = classifier(trunk=trunk)
    assert model.head.in_features == (32 if trunk is swin else 24)
    model(batch(size=48))["loss_cls"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_head_starts_as_the_papers_and_counts_as_head():
    model = classifier()
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.2) and not model.head.bias.any()
    counts = count_parameters(model)["groups"]
    assert counts["heads"] == {"total": 3 * 33, "trained": 3 * 33} and counts["neck"]["total"] == 0
    assert counts["trunk"]["trained"] == 0 < counts["tuner"]["trained"]


def test_bad_input_is_reported():
    model = classifier()
    for label in (3, -1, None):
        inputs = batch()
        inputs[1] = {**inputs[1], "label": label} if label is not None else {"image": inputs[1]["image"]}
        with pytest.raises(UserError, match="set model.num_classes"):
            model(inputs)
    with pytest.raises(UserError, match="24x24 and 32x32 pixels"):
        model([*batch(1), *batch(1, size=32)])
    with pytest.raises(UserError, match="num_classes=1"):
        ImageClassifier(model.backbone, 1, MEAN, STD)
    with pytest.raises(UserError, match="three numbers, or six"):
        ImageClassifier(model.backbone, 3, MEAN + [9.0], STD + [9.0])


def test_adapter_file_carries_tuner_and_head(tmp_path):
    model = classifier().eval()
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    trunk = {n: t for n, t in model.state_dict().items() if ".tuner." not in n and "head" not in n}
    torch.save({"model": trunk}, tmp_path / "base.pth")
    header = save_adapter(model, tmp_path / "a.safetensors")
    assert header["groups"] == ["backbone", "task"]
    other = classifier().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    load_weights(other, tmp_path / "base.pth", tmp_path / "a.safetensors")
    for a, b in zip(model(batch()), other(batch()), strict=True):
        assert torch.equal(a["scores"], b["scores"])


@pytest.fixture
def colored(tmp_path):
    """Three classes that a linear layer can separate: reddish, greenish and bluish noise."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 4)):
        for c, name in enumerate("rgb"):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 80, (40, 48, 3), np.uint8)
                image[..., c] += 150
                Image.fromarray(image).save(folder / f"{i}.png")
        register_folder(f"colored_{part}", tmp_path / "set", part)
    yield tmp_path / "set"
    for part in ("train", "test"):
        DatasetCatalog.remove(f"colored_{part}")
        MetadataCatalog.remove(f"colored_{part}")


TINY = [
    "model.backbone.net.embed_dim=8",
    "model.backbone.net.depths=[1,1,2,2]",
    "model.backbone.net.num_heads=[1,1,2,2]",
    "model.num_classes=3",
    "dataloader.train.mapper.augmentations.0.size=32",
    "dataloader.test.mapper.augmentations.0.size=40",
    "dataloader.test.mapper.augmentations.1.size=32",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.train.total_batch_size=6",
    "train.init_checkpoint=",
    "train.precision=fp32",
]


def config(output, *overrides):
    output.mkdir(exist_ok=True)
    names = ["dataloader.train.dataset.names=colored_train", "dataloader.test.dataset.names=colored_test"]
    options = [*TINY, *names, "optimizer.lr=0.01", "train.eval_period=0", f"train.output_dir={output}"]
    return load_config("configs/Flowers102/mona_swin_l.py", [*options, *overrides])


@pytest.mark.slow
def test_the_engine_trains_evaluates_and_resumes(colored, tmp_path):
    options = ["train.max_iter=30", "train.checkpointer.period=15", "lr_multiplier.length=0.1"]
    cfg = config(tmp_path / "whole", *options)
    results = run.train(cfg)["classification"]
    assert results["top1"] == results["balanced_accuracy"] == results["top5"] == 100
    best = json.loads((tmp_path / "whole/best.json").read_text())
    assert best["metric"] == "classification/top1" and best["value"] == 100
    again = run.evaluate_checkpoint(cfg, str(tmp_path / "whole/model_final.pth"))
    assert again["classification"] == results

    cut = config(tmp_path / "cut", *options)
    (tmp_path / "cut/model_0000014.pth").write_bytes((tmp_path / "whole/model_0000014.pth").read_bytes())
    (tmp_path / "cut/last_checkpoint").write_text("model_0000014.pth")
    run.train(cut, resume=True)
    a, b = (read_checkpoint(tmp_path / d / "model_final.pth")["model"] for d in ("whole", "cut"))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_wrong_number_of_classes_is_reported(colored, tmp_path):
    with pytest.raises(UserError, match="give model.num_classes=3"):
        run.train(config(tmp_path / "few", "train.max_iter=1", "model.num_classes=2"))
    with pytest.raises(UserError, match="model.num_classes=4, but colored_train has 3 classes"):
        run.train(config(tmp_path / "many", "train.max_iter=1", "model.num_classes=4"))


# The rate of all methods but Mona on Flowers-102 and Pets.
EQUAL_RATE = "optimizer.lr=1.5625e-5"
# docs/method.md, section 4: parameters that train in Swin-L with the last output alone, without the head.
TRAINED = {
    "Full": 194_995_476,
    "Frozen": 0,
    "BitFit": 301_140,
    "NormTuning": 86_400,
    "Partial": 28_339_632,
    "Adapter": 4_659_456,
    "LoRA": 4_620_288,
    "AdaptFormer": 2_329_728,
    "Mona": 5_267_712,
}


@pytest.mark.parametrize("tuner", TRAINED)
def test_every_baseline_goes_by_name_and_has_the_papers_count(tuner):
    assert tuner in TUNERS
    cfg = load_config("configs/Pets/mona_swin_l.py", [EQUAL_RATE, f"model.backbone.net.tuner={tuner}"])
    with torch.device("meta"):
        counts = count_parameters(instantiate(cfg.model))
    assert counts["backbone_trainable"] == TRAINED[tuner] and counts["backbone_base"] == 194_995_476
    assert counts["groups"]["heads"]["trained"] == 1537 * 37 and counts["groups"]["neck"]["total"] == 0


RECIPES = [
    ("Flowers102", [], 3.125e-5),
    ("Flowers102", [EQUAL_RATE], 1.5625e-5),
    ("Flowers102", [EQUAL_RATE, "method=Full"], 1.5625e-5),
    ("Pets", [], 3.125e-5),
    ("Pets", [EQUAL_RATE], 1.5625e-5),
    ("Pets", [EQUAL_RATE, "method=Full"], 1.5625e-5),
    ("VOC2007", [], 1.5625e-5),
    ("VOC2007", ["method=Full"], 1.5625e-5),
]
CLASSES = {"Flowers102": 102, "Pets": 37, "VOC2007": 20}
IMAGES = {"Flowers102": 2040, "Pets": 3680, "VOC2007": 5011}


@pytest.mark.parametrize("data, overrides, rate", RECIPES)
def test_recipe(data, overrides, rate):
    cfg = load_config(f"configs/{data}/mona_swin_l.py", overrides)
    assert cfg.optimizer.lr == rate and cfg.optimizer.weight_decay == 0.05
    assert cfg.model.num_classes == CLASSES[data]
    assert round(cfg.train.max_iter * cfg.dataloader.train.total_batch_size / IMAGES[data], 2) == 100
    assert (cfg.train.clip_grad_norm, cfg.train.best_metric) == (5.0, "classification/top1")
    assert cfg.train.eval_period == -(-IMAGES[data] // 16)  # every epoch
    net = cfg.model.backbone.net
    assert net.drop_path_rate == 0.3 and list(net.out_indices) == [3] and not net.frozen_eval
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.0) == pytest.approx(0.001) and multiplier(1.0) == pytest.approx(0.01)
    assert multiplier(0.1) < multiplier(0.2) == pytest.approx(0.01 + 0.99 * (1 + np.cos(0.2 * np.pi)) / 2)
