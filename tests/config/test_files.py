"""Config files: where they are found, what they may hold, and where their runs write."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from helpers.refused import refused
from helpers.runs import TINY
from helpers.tools import ROOT

from ivtuning.config import files, find_config, load_config
from ivtuning.engine import run


def test_missing_file_names_its_neighbors(tmp_path, monkeypatch):
    root = tmp_path / "configs"
    for name in (
        "M3FD/vitdet_ivtuning_b.py",
        "MSRS/vitdet_ivtuning_b.py",
        "common/models.py",
        "M3FD/full_b.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).with_suffix(".py").write_text("")
    monkeypatch.setattr(files, "HOMES", (tmp_path,))
    text = refused("configs/M3FD/vitdet_ivtunning_b.py")
    assert "nearest are configs/M3FD/vitdet_ivtuning_b.py, configs/MSRS/vitdet_ivtuning_b.py" in text
    assert "nearest are configs/M3FD/full_b.py" in refused("full_b.py")
    monkeypatch.setattr(files, "HOMES", (tmp_path / "nowhere",))
    assert refused("x.py") == "no config file 'x.py'"


def test_bad_files(tmp_path):
    (tmp_path / "bad.py").write_text("train = dict(\n    a=1,\n    b=)\n")
    assert "bad.py:3: syntax error" in refused(str(tmp_path / "bad.py"))
    (tmp_path / "bad.py").write_text("train = {}\n", encoding="utf-8-sig")
    assert "bad.py: it starts with a byte-order mark" in refused(str(tmp_path / "bad.py"))
    (tmp_path / "bad.txt").write_text("")
    assert "neither .py nor .yaml" in refused(str(tmp_path / "bad.txt"))


@pytest.mark.parametrize("name", ["configs/quick/ivtuning.py", "configs/quick/ivtuning", "quick/ivtuning"])
def test_configs_are_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)).samefile(ROOT / "configs/quick/ivtuning.py")
    cfg = load_config(name)
    assert cfg.train.max_iter == 10 and cfg.train.output_dir == "output/quick/ivtuning"


def test_the_working_directory_comes_first(tmp_path, monkeypatch):
    (tmp_path / "configs/quick").mkdir(parents=True)
    (tmp_path / "configs/quick/ivtuning.py").write_text("train = dict(max_iter=3)\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("quick/ivtuning").train == {"max_iter": 3}


def test_an_installed_package_brings_its_configs(tmp_path, monkeypatch):
    (tmp_path / "ivtuning/configs/sets").mkdir(parents=True)
    (tmp_path / "ivtuning/configs/sets/small.py").write_text("train = dict(output_dir='auto')\n")
    monkeypatch.setattr(files, "HOMES", (tmp_path, tmp_path / "ivtuning"))
    assert load_config("configs/sets/small.py").train.output_dir == "output/sets/small"
    assert "nearest are configs/sets/small.py" in refused("configs/sets/smal.py")


@pytest.mark.parametrize(
    "changes, folder",
    [
        ([], "output/quick/ivtuning"),
        (["method=full"], "output/quick/ivtuning-Full"),
        (["train.output_dir=elsewhere", "method=Full"], "elsewhere"),
    ],
)
def test_output_folder_follows_from_path_and_method(changes, folder):
    assert load_config("configs/quick/ivtuning.py", changes).train.output_dir == folder


def test_output_folder_of_a_file_outside_of_configs(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "test.py").write_text("train = dict(output_dir='auto')\n")
    assert load_config(tmp_path / "mine" / "test.py").train.output_dir == "output/mine/test"


ALIASES = """
from {root}.synthetic.ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

rpn = model.proposal_generator
net = model.backbone.net
mapper = dataloader.train.mapper
heads = model.roi_heads.box_predictor
heads.test_score_thresh = 0.1
sizes = dict(batch=2)
dataloader.train.total_batch_size = "${{sizes.batch}}"
"""


@pytest.fixture
def aliased(tmp_path):
    """A config beside the repository's that gives parts of others a name of their own."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "aliases.py"
    file.write_text(ALIASES.format(root="..configs"))
    return file


def test_aliases_are_dropped_and_what_the_config_needs_stays(aliased):
    cfg = load_config(aliased)
    assert set(cfg) == {*files.RUN_KEYS, "sizes"}
    assert cfg.model.roi_heads.box_predictor.test_score_thresh == 0.1
    assert cfg.dataloader.train.total_batch_size == 2
    assert "the config has no 'rpn'" in refused(aliased, "rpn.nms_thresh=0.5")


def test_a_config_with_aliases_trains(pairs, aliased, tmp_path):
    changes = [o for o in TINY if "batch_size" not in o]
    cfg = load_config(aliased, [*changes, f"train.output_dir={tmp_path / 'out'}", "train.max_iter=1"])
    run.train(cfg)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert load_config(tmp_path / "config.yaml").model.proposal_generator.nms_thresh == 0.7


def test_an_alias_that_cannot_be_resolved_is_dropped(tmp_path):
    (tmp_path / "x.py").write_text(
        "model = dict(width=8, head=dict(size='${..width}'))\n"
        "old = dict(size='${..width}', more=1)\n"
        "own = dict(a=1, b='${.a}')\n"
    )
    assert set(load_config(tmp_path / "x.py")) == {"model", "own"}


def test_a_config_that_lacks_what_its_loader_refers_to(aliased):
    aliased.write_text("from ..configs.synthetic.ivtuning import dataloader, model, train\n")
    text = refused(aliased)
    assert "${data.gray_visible} in 'dataloader'" in text and "import 'data'" in text
