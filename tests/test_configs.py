"""Every config builds with its methods, large ones on the meta device, and says what its file name says."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import timm
import torch
from detectron2.config import instantiate
from helpers.sets import own_data
from helpers.tools import ROOT

from ivtuning.backbones.trunk import PLUGINS, find_trunk
from ivtuning.config import load_config
from ivtuning.config.files import read_config
from ivtuning.data.catalog import metadata
from ivtuning.data.datasets import detection, segmentation
from ivtuning.engine.optim import build_optimizer, param_groups

CONFIGS = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*/*.py") if path.parent.name != "common"
)
# Configs of other sets, whose models are those of the second.
_CODETR, _SEGFORMER = "configs/M3FD/codetr_ivtuning_swin_l.py", "configs/MSRS/segformer_ivtuning_swin_l.py"
_EVA = "configs/MFNet/segformer_ivtuning_eva02_l.py"
OF_OTHER_SETS = {
    **{
        f"configs/{s}/codetr_ivtuning_swin_l.py": _CODETR
        for s in ("KAIST", "CVC14", "LLVIP", "FLIR", "VEDAI")
    },
    **{f"configs/{s}/segformer_ivtuning_swin_l.py": _SEGFORMER for s in ("MFNet", "FMB", "PST900")},
    **{f"configs/{s}/segformer_ivtuning_eva02_l.py": _EVA for s in ("FMB", "PST900")},
}
CLASSES = dict(KAIST=1, CVC14=1, LLVIP=1, FLIR=3, VEDAI=9, MFNet=9, FMB=15, PST900=5)
BUILT = [file for file in CONFIGS if file not in OF_OTHER_SETS]
FULL = [(file, "Full") for file in BUILT if not file.startswith("configs/quick/")]
OTHERS = [
    (file, method)
    for file in BUILT
    for method in ("visible", "infrared", "full_visible", "parity")
    if file.startswith(("configs/MSRS/", "configs/M3FD/vitdet", "configs/synthetic/"))
]
KEYS = {"data", "dataloader", "lr_multiplier", "model", "optimizer", "train"}


def test_there_are_configs():
    assert len(CONFIGS) >= 15


@pytest.mark.parametrize("file, method", [*((file, None) for file in BUILT), *FULL, *OTHERS])
def test_config_builds(file, method, tmp_path):
    cfg = load_config(file, [*own_data(file, tmp_path), *([f"method={method}"] if method else [])])
    assert set(cfg) - {"methods"} == KEYS
    with torch.device("meta"):
        model = instantiate(cfg.model)
    optimizer = build_optimizer(cfg.optimizer, model, find_trunk(model))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == trained > 0
    assert all(p.ndim for p in model.parameters()), "FSDP cannot distribute scalars"
    multiplier = instantiate(cfg.lr_multiplier)
    assert 0 <= multiplier(0.0) <= multiplier(0.4) <= 1 and multiplier(0.999) < multiplier(0.4)
    for part in ("train", "test"):
        mapper = instantiate(cfg.dataloader[part].mapper)
        assert mapper.is_train == (part == "train")
    name = file.removeprefix("configs/").removesuffix(".py")
    assert cfg.train.output_dir == f"output/{name}" + (f"-{method}" if method else "")


@pytest.mark.parametrize("file, other", OF_OTHER_SETS.items())
def test_config_of_another_set(file, other):
    """It differs in its sets, whose scripts are known, and in the number of their classes."""
    cfg, base, folder = load_config(file), load_config(other), file.split("/")[1]
    makers = {
        entry.folder: entry.maker for entry in (*detection.KNOWN.values(), *segmentation.KNOWN.values())
    }
    for part in ("train", "test"):
        json_file = Path(metadata(cfg.dataloader[part].dataset.names).json_file)
        assert json_file.parts[-3] == folder.lower() and (ROOT / makers[folder.lower()]).is_file()
    heads = [c.model.get("sem_seg_head", c.model) for c in (cfg, base)]
    assert heads[0].num_classes == CLASSES[folder]
    heads[1].num_classes = CLASSES[folder]
    assert cfg.train.pop("output_dir") != base.train.pop("output_dir")
    compared_by = cfg.train.pop("best_metric")
    assert compared_by == ("bbox/MR" if folder in ("KAIST", "CVC14") else base.train.best_metric)
    del base.train.best_metric
    for key in ("model", "optimizer", "train", "lr_multiplier"):
        assert cfg[key] == base[key], key
    assert bool(cfg.dataloader.evaluator.get("miss_rate")) == (CLASSES[folder] == 1)


MODELS = sorted(f"configs/common/models/{p.name}" for p in ROOT.glob("configs/common/models/*rcnn*.py"))


STARTS = {file: str(read_config(str(ROOT / file)).train.init_checkpoint) for file in CONFIGS}
NAMED = [file for file, start in STARTS.items() if start.startswith("timm://") and file in BUILT]


def test_published_recipes_start_from_names():
    quick = ("configs/quick/", "configs/synthetic/", "configs/MSRS/nano")
    converted = {"configs/M3FD/dino_ivtuning_swin_l.py", _CODETR}
    hub = {_EVA, "configs/VT/segformer_ivtuning_eva02_l.py"}
    assert {file for file in BUILT if not file.startswith(quick)} == {*NAMED, *converted, *hub}
    assert {STARTS[file] for file in hub} == {"hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_m38m_p14to16.pt"}


@pytest.mark.parametrize("file", NAMED)
def test_names_stand_for_weights_of_the_configs_trunk(file, tmp_path):
    """timm publishes the file, and its blocks have the trunk's shapes (windows and tables may be resized)."""
    model = STARTS[file].removeprefix("timm://")
    cfg = timm.get_pretrained_cfg(model, allow_unregistered=False)
    assert cfg.hf_hub_id == f"timm/{model}" and f".{cfg.tag}" in model
    with torch.device("meta"):
        trunk = instantiate(load_config(file, own_data(file, tmp_path)).model.backbone.net)
    assert _block_shapes(trunk) == _timms_shapes(model)


@functools.cache
def _timms_shapes(model):
    with torch.device("meta"):
        return _block_shapes(timm.create_model(model, pretrained=False))


def _block_shapes(model):
    tables = (
        "rel_pos_h",
        "rel_pos_w",
        "relative_position_bias_table",
        "relative_position_index",
        "attn_mask",
    )
    shapes = {n: t.shape for n, t in model.state_dict().items() if "blocks." in n and not n.endswith(tables)}
    return {n: shape for n, shape in shapes.items() if n.split(".")[0] not in PLUGINS}


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
