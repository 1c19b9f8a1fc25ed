"""Learning-rate schedules: what the recipes say, and what stays when a run gets another length."""

from __future__ import annotations

import math

import pytest

from ivtuning.config import build, load_config
from ivtuning.engine.schedule import describe
from ivtuning.errors import UserError

VITDET = "configs/M3FD/vitdet_ivtuning_b.py"
# Iterations of the run and of the warm-up, the warm-up's first factor, and the shape that follows.
RECIPES = {
    VITDET: (184_375, 250, 0.001, (163_889, 177_546)),
    "configs/M3FD/dino_ivtuning_swin_l.py": (10_525, 250, 0.001, (5_684, 6_947)),
    "configs/M3FD/codetr_ivtuning_swin_l.py": (10_525, 250, 0.001, (6_315,)),
    "configs/M3FD/faster_rcnn_ivtuning_swin_b.py": (10_525, 250, 0.001, (6_315,)),
    "configs/COCO/cascade_mask_rcnn_mona_swin_b.py": (263_880, 500, 0.001, (197_910, 241_890)),
    "configs/VOC/retinanet_mona_swin_l.py": (99_308, 0, 0.001, (74_481,)),
    "configs/ADE20K/upernet_mona_swin_l.py": (160_000, 1500, 1e-6, 1.0),
    "configs/MSRS/segformer_ivtuning_swin_l.py": (40_000, 1500, 1e-6, 0.9),
    "configs/MSRS/setr_mla_ivtuning_vit_l.py": (40_000, 1500, 1e-6, 0.9),
    "configs/Flowers102/mona_swin_l.py": (12_750, 2_550.0, 0.001, "cosine"),
    "configs/Pets/mona_swin_l.py": (23_000, 4_600, 0.001, "cosine"),
    "configs/VOC2007/mona_swin_l.py": (31_319, 6_263.8, 0.001, "cosine"),
    "configs/synthetic/ivtuning.py": (250, 25, 0.01, "cosine"),
    "configs/MSRS/nano_ivtuning.py": (400, 40, 0.01, "cosine"),
}


def value(shape, iteration: int, length: int) -> float:
    if isinstance(shape, tuple):
        return 0.1 ** sum(iteration >= milestone for milestone in shape)
    if shape == "cosine":
        return 0.01 + 0.99 * (1 + math.cos(math.pi * iteration / length)) / 2
    return (1 - iteration / length) ** shape


@pytest.mark.parametrize("file", RECIPES)
def test_schedules_are_those_of_the_recipes(file):
    length, warmup, factor, shape = RECIPES[file]
    cfg = load_config(file)
    schedule = build(cfg, "lr_multiplier")
    assert cfg.train.max_iter == length
    edges = [0, 1, *(int(warmup) + d for d in (-1, 0, 1)), int(warmup) // 2, length // 3, length - 1]
    edges += [m + d for m in (shape if isinstance(shape, tuple) else ()) for d in (-1, 0, 1)]
    for i in (i for i in edges if 0 <= i < length):
        expected = value(shape, i, length)
        if i < warmup:
            first, last = factor * value(shape, 0, length), value(shape, warmup, length)
            expected = first + (last - first) * i / warmup
        assert schedule(i / length) == pytest.approx(expected, rel=1e-12), i


def lr(length: int, *overrides: str, file: str = VITDET):
    return build(load_config(file, [f"train.max_iter={length}", *overrides]), "lr_multiplier")


def test_a_shorter_run_keeps_its_warm_up_and_the_shares_of_its_steps():
    schedule = lr(10_525)
    assert [schedule(i / 10_525) for i in (0, 125, 250)] == pytest.approx([0.001, 0.5005, 1.0])
    assert [round(schedule(i / 10_525), 4) for i in (9_355, 9_356, 10_134, 10_135)] == [1.0, 0.1, 0.1, 0.01]
    assert describe(schedule) == (
        "warm-up over 250 iterations from x0.001, then x0.1 at iteration 9,356 and 10,135"
    )


def test_milestones_from_one_on_are_iterations():
    schedule = lr(10_525, "lr_multiplier.scheduler.milestones=[6000,8000]")
    assert [round(schedule(i / 10_525), 4) for i in (5_999, 6_000, 8_000)] == [1.0, 0.1, 0.01]
    again = lr(20_000, "lr_multiplier.scheduler.milestones=[6000,8000]")
    assert [round(again(i / 20_000), 4) for i in (5_999, 6_000, 8_000)] == [1.0, 0.1, 0.01]


@pytest.mark.parametrize("length", [1, 2, 20, 250])
def test_a_run_shorter_than_its_warm_up_ends_within_it(length):
    schedule = lr(length)
    for i in range(length):
        assert schedule(i / length) == pytest.approx(0.001 + 0.999 * i / 250)


@pytest.mark.parametrize(
    "override",
    [
        "scheduler.milestones=[8000,6000]",
        "scheduler.milestones=[6000,6000]",
        "scheduler.milestones=[0.9,0.8]",
        "scheduler.milestones=[0]",
        "scheduler.milestones=[-5]",
        "scheduler.milestones=[nan]",
        "scheduler.milestones=[20000]",
        "scheduler.milestones=[10525]",
        "scheduler.milestones=[late]",
        "scheduler.milestones=6000",
        "length=-1",
        "length=nan",
        "length=long",
        "factor=2",
        "factor=-0.1",
        "scheduler=5",
    ],
)
def test_schedules_that_there_are_not(override):
    with pytest.raises(UserError, match="lr_multiplier"):
        lr(10_525, f"lr_multiplier.{override}")
