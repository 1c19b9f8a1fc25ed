"""The types and ranges of a run's settings, and what follows from others."""

from __future__ import annotations

import pytest
from detectron2.config import LazyConfig
from helpers.refused import refused
from helpers.sets import own_data
from helpers.tools import ROOT

from ivtuning.config import RUN_GROUPS, load_config

CONFIG = "configs/quick/ivtuning.py"
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*/*.py") if path.parent.name != "common"
)


@pytest.mark.parametrize("file", CONFIGS)
def test_every_config_passes_unchanged(file, tmp_path):
    own = own_data(file, tmp_path)
    plain, full = load_config(file, own, RUN_GROUPS), load_config(file, [*own, "method=Full"])
    assert type(plain.train.max_iter) is type(full.train.max_iter) is int


WRONG = {
    "train.max_iter": ["0", "-1", "1.5", "1e400", "true", "null", "ten", "[5]", "{a: 1}", "'???'"],
    "train.log_period": ["0", "-20", "0.5"],
    "train.eval_period": ["-1", "often"],
    "train.gradient_accumulation": ["0", "-1", "2.5"],
    "train.clip_grad_norm": ["-1", "nan", "inf", "yes"],
    "train.ema_decay": ["1", "2", "-0.5", "nan", "true"],
    "train.checkpointer.period": ["0", "-5", "null"],
    "train.checkpointer.max_to_keep": ["0", "-1", "all"],
    "train.checkpointer": ["null", "5", "[1000,2]"],
    "train.output_dir": ["123", "", "null", "[a]", "true", "' '"],
    "train.init_checkpoint": ["3", "[a.pth]", "false"],
    "train.best_metric": ["5", "[bbox/AP]"],
    "train.seed": ["1.5", "abc", "null", "4294967296", "-1"],
    "train.device": ["gpu", "cuda:x", "0", "null", "CPU"],
    "train.precision": ["fp8", "16", "BF16", "null"],
    "train.parallel": ["fdsp", "none"],
    "train.frozen_dtype": ["bf61", "fp16"],
    "train.residual_dtype": ["half", "fp16", "null"],
    "train.compile": ["yes", "1", "null"],
    "train.channels_last": ["maybe"],
    "train.cudnn_benchmark": ["on"],
    "train.ddp": ["null", "true"],
    "train.ddp.find_unused_parameters": ["1", "auto"],
    "train": ["null"],
    "optimizer.lr": ["0", "-1e-4", "nan", "inf", "high", "null", "[1e-4]"],
    "optimizer.weight_decay": ["-0.1", "nan", "none"],
    "optimizer.betas": ["[0.9]", "[0.9,1.0]", "[-0.1,0.9]", "0.9", "[a,b]", "[0.9,0.99,0.999]"],
    "optimizer.eps": ["0", "tiny"],
    "optimizer.fused": ["maybe"],
    "optimizer.params.layer_decay": ["0", "1.5", "-1"],
    "optimizer.params.trunk_lr_factor": ["0", "-1"],
    "optimizer.params.added_lr_factor": ["-3", "0", "inf"],
    "optimizer.params": ["null"],
    "dataloader.train.num_workers": ["-1", "two", "0.5"],
    "dataloader.train.total_batch_size": ["0", "-8", "1.5", "all"],
    "dataloader.train.on_bad_pair": ["ignore", "true"],
    "dataloader.train.dataset.names": ["[]", "3", "null", "''", "[a,3]", "'???'"],
    "dataloader.test.num_workers": ["-1", "true"],
    "dataloader.test.dataset.names": ["null", "{a: b}"],
    "dataloader.train": ["7", "null"],
}


@pytest.mark.parametrize("key, value", [(key, value) for key, values in WRONG.items() for value in values])
def test_wrong_types_and_ranges_name_the_key(key, value):
    text = refused(CONFIG, f"{key}={value}")
    assert text.startswith((key, f"{CONFIG} has no {key}", f"override '{key}"))


@pytest.mark.parametrize(
    "override, value",
    [
        ("train.max_iter=1e1", 10),
        ("train.max_iter=10.0", 10),
        ("train.max_iter='12'", 12),
        ("train.checkpointer.period=5e0", 5),
        ("optimizer.weight_decay='1e-4'", 1e-4),  # what hand-written YAML makes of 1e-4
        ("optimizer.lr='1e-4'", 1e-4),
        ("train.ema_decay=0", 0),
        ("train.checkpointer.max_to_keep=null", None),
        ("train.device=cuda:1", "cuda:1"),
        ("train.init_checkpoint=null", None),
        ("train.best_metric=", ""),
        ("dataloader.train.dataset.names=[a,b]", ["a", "b"]),
    ],
)
def test_other_spellings_of_good_values_are_read(override, value):
    from omegaconf import OmegaConf

    key = override.partition("=")[0]
    read = OmegaConf.select(load_config(CONFIG, [override]), key)
    assert read == value and (isinstance(value, list) or type(read) is type(value) or value == 0)


def test_text_behind_references_and_in_lists_becomes_numbers(monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.setenv("NUMBER", "7")
    monkeypatch.setenv("DECAY", "0.75")
    betas = "optimizer.betas=['0.5','${oc.env:DECAY}']"
    cfg = load_config(CONFIG, ["train.seed=${oc.env:NUMBER}", betas, "train.max_iter='12'"])
    assert cfg.train.seed == 7 and cfg.optimizer.betas == [0.5, 0.75]
    cfg = load_config(CONFIG, ["train.log_period=${train.max_iter}", "train.max_iter='12'"])
    assert cfg.train.log_period == 12 and OmegaConf.is_interpolation(cfg.train, "log_period")


@pytest.mark.parametrize(
    "value", ["${nothing}", "${train.nothing}/x", "${oc.env:NOT_SET}", "${no_resolver:x}"]
)
def test_a_folder_that_refers_to_nothing(value):
    text = refused(CONFIG, f"train.output_dir={value}")
    assert text.startswith(f"{CONFIG}: train.output_dir refers to what is not there: ")


def test_a_rate_in_text_reaches_the_groups_of_parameters():
    cfg = load_config(CONFIG, ["optimizer.lr='2e-4'"])
    assert cfg.optimizer.params.lr == 2e-4


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["train.parallel=fsdp", "train.precision=fp16"], "no loss scaling for precision=fp16: use bf16"),
        (["train.frozen_dtype=bf16"], "needs precision=bf16, not fp32"),
        (["train.frozen_dtype=bf16", "train.precision=bf16", "train.parallel=fsdp"], "use ddp"),
    ],
)
def test_settings_that_do_not_go_together(overrides, words):
    assert words in refused(CONFIG, *overrides)


@pytest.fixture
def saved(tmp_path):
    """A whole config as YAML, and a function that loads it after a change of its text."""

    def load(old: str, new: str):
        cfg = load_config(CONFIG)
        LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
        text = (tmp_path / "config.yaml").read_text()
        assert old in text
        (tmp_path / "config.yaml").write_text(text.replace(old, new))
        return refused(tmp_path / "config.yaml")

    return load


def test_keys_in_a_file_are_checked_too(saved):
    assert "train.max_itr: unknown; did you mean 'max_iter'" in saved("max_iter: 10", "max_itr: 10")
    assert "train.checkpointer.perod: unknown; did you mean 'period'" in saved("period: 1000", "perod: 1000")
    assert "train.output_dir: field required" in saved("output_dir: output/quick/ivtuning", "")


def test_a_value_that_refers_to_nothing():
    text = refused(CONFIG, "train.max_iter=${nothing}")
    assert text.startswith(f"{CONFIG}: train.max_iter refers to what is not there") and "'nothing'" in text


# ---- what follows from other settings ----


@pytest.mark.parametrize(
    "file, key, count",
    [
        (CONFIG, "model.roi_heads.num_classes", 4),
        ("configs/quick/mask_rcnn.py", "model.roi_heads.num_classes", 4),
        ("configs/synthetic/dino_ivtuning.py", "model.num_classes", 4),
        ("configs/synthetic/codetr_ivtuning.py", "model.num_classes", 4),
        ("configs/synthetic/seg_ivtuning.py", "model.sem_seg_head.num_classes", 5),
    ],
)
def test_the_number_of_classes_can_be_left_to_the_data(pairs, file, key, count):
    from omegaconf import OmegaConf

    cfg = load_config(file, [f"{key}=auto"])
    assert cfg == load_config(file) and OmegaConf.select(cfg, key) == count


def test_modality_dropout_alone_fills_in_what_it_drops():
    dropout = "dataloader.train.mapper.modality_dropout=0.3"
    assert load_config(CONFIG, [dropout]).model.fill_missing == "mean"
    assert load_config(CONFIG, [dropout, "model.fill_missing=zero"]).model.fill_missing == "zero"
    assert "fill_missing" not in load_config(CONFIG).model
    assert "give mean or zero" in refused(CONFIG, dropout, "model.fill_missing=error")


def test_classes_cannot_be_counted_without_a_training_set():
    text = refused(CONFIG, "model.roi_heads.num_classes=auto", "dataloader.train.dataset=null")
    assert "num_classes=auto counts the classes of dataloader.train.dataset.names" in text
