"""Objects from nodes of a config, and the errors of their constructors."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import DictConfig

from ivtuning.config import build, load_config
from ivtuning.errors import UserError


def half(number, parts=()):
    assert number % 2 == 0, f"{number} is odd\nand that is that"
    return number // 2, list(parts)


def refuse(**_):
    raise UserError("give something else")


def config(**nodes):
    return DictConfig(nodes, flags={"allow_objects": True})


def test_nodes_are_built_as_detectron2_does():
    cfg = config(a=dict(b=L(half)(number=8, parts=[L(half)(number=2), 5])), n=4, c=L(half)(number="${n}"))
    assert build(cfg, "a.b") == instantiate(cfg.a.b) == (4, [(1, []), 5])
    assert build(cfg, "c") == (2, [])
    assert build(cfg, "c", number=6, parts=[1]) == (3, [1])
    assert build(cfg.a, "b")[0] == build(cfg.a.b, "")[0] == 4


@pytest.mark.parametrize(
    "node, words",
    [
        (L(half)(number=3), "a.b (half) cannot be built: 3 is odd; it was given number=3"),
        (L(half)(number="x"), "a.b (half) cannot be built"),
        (L(half)(size=3), "unexpected keyword argument 'size'"),
        (L(half)(number=2, parts=[L(half)(number=2), L(half)(number=5)]), "a.b.parts.1 (half)"),
        (L(half)(number=2, parts=4), "'int' object is not iterable"),
        (L(half)(number="???"), "a.b.number: "),
        (L(half)(number="${nothing}"), "nothing"),
        (L(refuse)(), "give something else"),
        (L(torch.nn.Linear)(in_features=-1, out_features=2), "a.b (Linear) cannot be built"),
        (dict(_target_="no.such.thing"), "no.such.thing"),
        (None, "the config has no a.b"),
    ],
)
def test_errors_name_the_key(node, words):
    with pytest.raises(UserError) as caught:
        build(config(a=dict(b=node)), "a.b")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_group_is_named():
    with pytest.raises(UserError, match=r"the config has no dataloader\.test\.mapper"):
        build(config(model=1), "dataloader.test.mapper")


WRONG = [
    "model.backbone.net.depth=0",
    "model.backbone.net.embed_dim=25",
    "model.backbone.net.img_size=big",
    "model.backbone.net.num_heads=0",
    "model.backbone.net.patch_size=0",
    "model.backbone.net.drop_path_rate=2",
    "model.backbone.net.drop_path_rate=-0.1",
    "model.backbone.net.global_blocks=[7]",
    "model.backbone.net.tuner.hidden_dim=-4",
    "model.backbone.net.tuner.hidden_dim=many",
    "model.backbone.net.tuner=5",
    "model.pixel_mean=[1,2]",
    "model.pixel_mean=abc",
    "model.pixel_mean=[1,2,3,4,5,x]",
    "model.pixel_mean=[1,2,3]",
    "model.pixel_std=[0,0,0,0,0,0]",
    "model.pixel_std=[1,1,1,1,1,nan]",
    "model.square_pad=-1",
    "model.fill_missing=median",
    "model.roi_heads.box_head.conv_dims=[-3]",
]


@pytest.mark.parametrize("override", WRONG)
def test_models_refuse_options_in_one_line(override):
    cfg = load_config("configs/quick/ivtuning.py", [override])
    with pytest.raises(UserError) as caught, torch.device("meta"):
        build(cfg, "model")
    assert "\n" not in str(caught.value)
