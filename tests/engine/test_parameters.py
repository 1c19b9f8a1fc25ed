"""The parameter table, and the line about the input below it."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate

from ivtuning.config import load_config
from ivtuning.engine.parameters import count_parameters, describe_input, parameter_table


def built(*overrides: str, config: str = "configs/M3FD/vitdet_ivtuning_b.py") -> torch.nn.Module:
    with torch.device("meta"):
        return instantiate(load_config(config, overrides).model)


def counts(*overrides: str) -> dict:
    return count_parameters(built(*overrides))


def test_published_ratio_of_vitdet_b():
    row = counts("model.backbone.net.tuner.preset=vitdet_v1")
    assert (row["backbone_trainable"], row["backbone_base"]) == (3_658_372, 85_889_024)
    assert round(row["ratio_of_total"], 5) == 0.04085 and round(row["ratio_of_base"], 4) == 0.0426
    assert row["groups"]["trunk"]["trained"] == 0
    assert row["model_total"] == sum(g["total"] for g in row["groups"].values())


@pytest.mark.parametrize("method, trainable", [("Full", 86_479_616), ("visible", 0), ("infrared", 0)])
def test_baselines(method, trainable):
    row = counts(f"method={method}")
    assert row["backbone_trainable"] == trainable
    neck, heads = row["groups"]["neck"], row["groups"]["heads"]
    assert row["model_trainable"] == trainable + neck["total"] + heads["total"]


def test_table_shows_groups_and_both_ratios():
    text = parameter_table(counts())
    for part in ("trunk", "stem", "tuner", "neck", "heads", "85,889,024", "3,695,236", "4.30%", "4.12%"):
        assert part in text


@pytest.mark.parametrize(
    "method, line",
    [
        ("IVTuning", "input: visible and infrared"),
        ("Full", "input: visible and infrared"),
        ("visible", "input: visible only, infrared is ignored"),
        ("infrared", "input: infrared only, visible is ignored"),
    ],
)
def test_input_names_the_image_that_is_ignored(method, line):
    config = "configs/synthetic/ivtuning.py"
    assert describe_input(built(f"method={method}", config=config)) == line
    # The tuner alone says nothing about the images.
    if method == "visible":
        changes = ["model.backbone.net.tuner=Mona", "model.backbone.net.stem=VisibleOnly"]
        assert describe_input(built(*changes, config=config)) == line


def test_input_of_three_channels():
    assert describe_input(built(config="configs/Pets/mona_swin_l.py")) == "input: visible"
