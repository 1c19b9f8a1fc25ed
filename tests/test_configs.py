"""Every config builds with its methods, large ones on the meta device, and says what its file name says."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from helpers.sets import own_data
from helpers.tools import ROOT

from ivtuning.backbones.trunk import find_trunk
from ivtuning.config import load_config
from ivtuning.engine.optim import build_optimizer, param_groups

CONFIGS = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*/*.py") if path.parent.name != "common"
)
FULL = [(file, "Full") for file in CONFIGS if not file.startswith("configs/quick/")]
OTHERS = [
    (file, method)
    for file in CONFIGS
    for method in ("visible", "infrared", "full_visible", "parity")
    if file.startswith(("configs/MSRS/", "configs/M3FD/vitdet", "configs/synthetic/"))
]
KEYS = {"data", "dataloader", "lr_multiplier", "model", "optimizer", "train"}


def test_there_are_configs():
    assert len(CONFIGS) >= 15


@pytest.mark.parametrize("file, method", [*((file, None) for file in CONFIGS), *FULL, *OTHERS])
def test_config_builds(file, method, tmp_path):
    cfg = load_config(file, [*own_data(file, tmp_path), *([f"method={method}"] if method else [])])
    assert set(cfg) == KEYS
    with torch.device("meta"):
        model = instantiate(cfg.model)
    optimizer = build_optimizer(cfg.optimizer, model, find_trunk(model))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == trained > 0
    multiplier = instantiate(cfg.lr_multiplier)
    assert 0 <= multiplier(0.0) <= multiplier(0.5) <= 1 and multiplier(0.999) < multiplier(0.5)
    for part in ("train", "test"):
        mapper = instantiate(cfg.dataloader[part].mapper)
        assert mapper.is_train == (part == "train")
    name = file.removeprefix("configs/").removesuffix(".py")
    assert cfg.train.output_dir == f"output/{name}" + (f"-{method}" if method else "")


MODELS = sorted(f"configs/common/models/{p.name}" for p in ROOT.glob("configs/common/models/*rcnn*.py"))


@pytest.mark.parametrize("file", MODELS)
def test_common_model_builds(file):
    with torch.device("meta"):
        model = instantiate(load_config(file).model)
    assert model.roi_heads.mask_on == ("mask_rcnn" in file)


@pytest.mark.parametrize("file", CONFIGS)
def test_experiments_are_short(file):
    assert len((ROOT / file).read_text().splitlines()) <= 40


def test_published_recipe_of_vitdet_b():
    cfg = load_config("configs/M3FD/vitdet_ivtuning_b.py")
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.optimizer.params.layer_decay) == (
        1e-4,
        0.1,
        0.7,
    )
    assert tuple(cfg.optimizer.betas) == (0.9, 0.999) and cfg.model.backbone.net.drop_path_rate == 0.1
    assert cfg.train.max_iter == 184_375
    multiplier = instantiate(cfg.lr_multiplier)
    at = {i: multiplier(i / cfg.train.max_iter) for i in (0, 250, 163_000, 164_000, 178_000)}
    assert [round(v, 4) for v in at.values()] == [0.001, 1.0, 1.0, 0.1, 0.01]
    assert cfg.model.roi_heads.num_classes == 6 and "mask_head" not in cfg.model.roi_heads


def test_full_and_iv_tuning_rows_share_everything_but_stem_and_tuner():
    file = "configs/M3FD/vitdet_ivtuning_b.py"
    tuned, full = (load_config(file, [f"method={method}"]) for method in ("IVTuning", "Full"))
    with torch.device("meta"):
        groups = [
            sorted({(g["lr"], g["weight_decay"]) for g in param_groups(instantiate(c.model), 1.0, 0.1, 0.7)})
            for c in (tuned, full)
        ]
    # Layer decay gives the full row a rate for every layer, the tuned one has a single rate.
    assert [len({rate for rate, _ in g}) for g in groups] == [1, 14]
    for cfg in (tuned, full):
        del cfg.model.backbone.net.stem, cfg.model.backbone.net.tuner, cfg.train.output_dir
    assert tuned == full
