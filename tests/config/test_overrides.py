"""Overrides: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import pytest
from helpers.refused import refused

from ivtuning.config import load_config, overrides

CONFIG = """
import functools
from dataclasses import dataclass
import torch
from detectron2.config import LazyCall as L, configurable
from detectron2.solver import LRMultiplier
from omegaconf import OmegaConf

class Base(torch.nn.Module):
    def __init__(self, depth=12, drop_path=0.0):
        super().__init__()

class Net(Base):
    def __init__(self, dim, tuner=None, stem=None, **kwargs):
        super().__init__(**kwargs)

class Bare(torch.nn.Module):
    pass

class Model(torch.nn.Module):
    @configurable
    def __init__(self, *, backbone, pixel_mean=(0.0,)):
        super().__init__()

    @classmethod
    def from_config(cls, cfg):
        return {}

def plain(x, y=1):
    return x

@functools.wraps(plain)
def wrapped(*args, **kwargs):
    return plain(*args, **kwargs)

def forwards(x, **kwargs):
    return plain(x, **kwargs)

@dataclass
class Typed:
    size: int = 3

class Old:
    def __init__(self, hidden_dim=8, keep=1):
        pass

model = L(Model)(backbone=L(Base)(), pixel_mean=[1.0, 2.0])
model.backbone = dict(net=L(Net)(dim=64, tuner=L(Old)(hidden_dim=4, keep=7), stem=L(Old)(keep=7)))
train = dict(max_iter=100, init_checkpoint="", output_dir="./output")
train.update(ddp=dict(broadcast=False), seed=None, must="???")
dataloader = dict(train=L(wrapped)(x=1), test=[L(plain)(x=1), L(plain)(x=2)], evaluator=L(forwards)(x=1))
optimizer = L(torch.optim.AdamW)(lr=1e-4)
bare = L(Bare)()
typed = OmegaConf.structured(Typed)
"""


class Mona:
    def __init__(self, bottleneck_dim: int = 64, hidden_dim: int = 8):
        self.bottleneck_dim = bottleneck_dim


class SumStem:
    pass


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    table = {"tuner": {"Mona": Mona, "Frozen": SumStem}, "stem": {"SumStem": SumStem}}
    monkeypatch.setattr(overrides, "node_table", table.__getitem__)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "experiment.py"
    path.write_text(CONFIG)
    return str(path)


def test_overrides_apply_in_order(file):
    cfg = load_config(
        file, ["train.max_iter=5", "train.max_iter=7", "model.pixel_mean=[1,2,3]", "optimizer.lr=1e-3"]
    )
    assert cfg.train.max_iter == 7
    assert cfg.model.pixel_mean == [1, 2, 3]
    assert cfg.optimizer.lr == 1e-3
    assert load_config(file).train.max_iter == 100


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~/x.pth", "~/x.pth"),
        ("detectron2://a/b.pkl?c=d", "detectron2://a/b.pkl?c=d"),
        ("https://h/f?x=True", "https://h/f?x=True"),
        ("a=b", "a=b"),
        ("C:\\x\\'y'.pth", "C:\\x\\'y'.pth"),
        ("", ""),
        ("null", None),
        ("true", True),
        ("'12'", "12"),
        ("two words", "two words"),
    ],
)
def test_values(file, text, value):
    assert load_config(file, [f"train.init_checkpoint={text}"]).train.init_checkpoint == value


@pytest.mark.parametrize(
    "key",
    [
        "model.backbone.net.drop_path",  # a parameter of the base class, reached through **kwargs
        "dataloader.train.y",  # of the function below functools.wraps
        "dataloader.test.1.y",  # within a list
        "dataloader.evaluator.anything",  # **kwargs of a function lead out of sight
        "optimizer.weight_decay",
        "model.backbone.net.depth",
        "train.must",  # in the config, though without a value
    ],
)
def test_known_keys(file, key):
    from omegaconf import OmegaConf

    assert OmegaConf.select(load_config(file, [f"{key}=3"]), key) == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_itr=7", ["train has no 'max_itr'", "'max_iter'"]),
        ("model.backbone.net.tunr.x=1", ["model.backbone.net (Net) has no 'tunr'", "'tuner'"]),
        ("model.backbone.net.drop_pth=0.1", ["'drop_path'"]),
        ("model.pixel_meen=[1]", ["model (Model)", "'pixel_mean'"]),  # below @configurable
        ("dataloader.train.z=1", ["dataloader.train", "it has x, y"]),
        ("optimizer.lrr=1", ["AdamW", "'lr'"]),
        ("optimzer.lr=1", ["'optimizer'"]),
        ("tuner=Mona", ["did you mean 'model.backbone.net.tuner'?"]),
        ("max_iter=3", ["did you mean 'train.max_iter'?"]),
        ("bare.x=1", ["bare (Bare) has no 'x'"]),
        ("train.ddp.zzz=1", ["it has broadcast"]),
        ("train.max_iter.x=1", ["train.max_iter is 100, not a group"]),
        ("train.seed.x=1", ["train.seed is None, not a group"]),
        ("dataloader.test.2.y=1", ["list of 2"]),
        ("optimizer.betas.first=1", ["optimizer has no 'betas' yet"]),
        ("model.backbone.net.tuner={hiden_dim: 3}", ["'hidden_dim'"]),  # keys within a dict are checked too
        ("optimizer._target_=torch.optim.SDG", ["'torch.optim.SDG'"]),
        ("typed.size=abc", ["typed.size", "abc"]),  # OmegaConf's own complaint
        ("train.output_dir=${nowhere", ["train.output_dir"]),
        ("train.max_iter", ["not key=value", "train.max_iter=100"]),
        ("~train.max_iter=1", ["not key=value"]),
        ("train..max_iter=1", ["not key=value"]),
        ("model.pixel_mean=[1,2", ["close every bracket"]),
        ("train.output_dir='a", ["close every bracket and quote"]),
        ("model.pixel_mean=1,2", ["model.pixel_mean=[a,b]"]),
    ],
)
def test_refused(file, override, words):
    text = refused(file, override)
    assert override in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("line, cause", [("import no_such_library", "no_such_library"), ("1 / 0", "zero")])
def test_module_that_fails_to_import_is_named_with_its_cause(file, tmp_path, monkeypatch, line, cause):
    (tmp_path / "own_tuner_module.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    text = refused(file, "model.backbone.net.tuner._target_=own_tuner_module.Mine")
    assert "'own_tuner_module.Mine' cannot be imported" in text
    assert cause in text


@pytest.mark.parametrize("reverse", [False, True])
def test_tuner_is_replaced_whole_before_the_rest(file, reverse):
    changes = ["model.backbone.net.tuner=Mona", "model.backbone.net.tuner.bottleneck_dim=16"]
    cfg = load_config(file, changes[::-1] if reverse else changes)
    assert dict(cfg.model.backbone.net.tuner) == {"_target_": Mona, "bottleneck_dim": 16}
    from detectron2.config import instantiate

    assert instantiate(cfg.model.backbone.net.tuner).bottleneck_dim == 16


def test_stem_is_replaced_and_keys_of_the_old_one_are_gone(file):
    cfg = load_config(file, ["model.backbone.net.stem=SumStem"])
    assert dict(cfg.model.backbone.net.stem) == {"_target_": SumStem}
    assert "has no 'keep'" in refused(
        file, "model.backbone.net.stem=SumStem", "model.backbone.net.stem.keep=1"
    )


def test_unknown_names(file):
    assert "'Mona'" in refused(file, "model.backbone.net.tuner=mona")
    assert "it has SumStem" in refused(file, "model.backbone.net.stem=Prompt")
    assert "'net'" in refused(file, "model.backbone.nett.tuner=Mona")


def test_changed_target_brings_its_own_keys(file):
    cfg = load_config(file, ["optimizer._target_=torch.optim.SGD", "optimizer.momentum=0.9"])
    assert cfg.optimizer.momentum == 0.9
    assert "'momentum'" in refused(file, "optimizer.momentum=0.9")


@pytest.mark.parametrize("order", [1, -1])
def test_the_options_of_a_method_apply_wherever_they_stand(order):
    changes = ["method=Mona", "methods.Mona.hidden_dim=7"][::order]
    cfg = load_config("configs/FLIR_crops/ivtuning_vit_t.py", changes)
    assert cfg.model.backbone.net.tuner.hidden_dim == 7
