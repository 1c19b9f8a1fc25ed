"""The parameter table."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate

from ivtuning.config import load_config
from ivtuning.engine.parameters import count_parameters, parameter_table


def counts(*overrides: str, config: str = "configs/M3FD/vitdet_ivtuning_b.py") -> dict:
    with torch.device("meta"):
        return count_parameters(instantiate(load_config(config, overrides).model))


def test_published_ratio_of_vitdet_b():
    found = counts("model.backbone.net.tuner.preset=vitdet_v1")
    assert (found["backbone_trainable"], found["backbone_base"]) == (3_658_372, 85_889_024)
    assert round(found["ratio_of_total"], 5) == 0.04085 and round(found["ratio_of_base"], 4) == 0.0426
    assert found["groups"]["trunk"]["trained"] == 0
    assert found["model_total"] == sum(g["total"] for g in found["groups"].values())


@pytest.mark.parametrize("row, trainable", [("full", 86_479_616), ("visible", 0), ("infrared", 0)])
def test_baselines(row, trainable):
    found = counts(config=f"configs/M3FD/vitdet_{row}_b.py")
    assert found["backbone_trainable"] == trainable
    neck, heads = found["groups"]["neck"], found["groups"]["heads"]
    assert found["model_trainable"] == trainable + neck["total"] + heads["total"]


def test_table_shows_groups_and_both_ratios():
    text = parameter_table(counts())
    for part in ("trunk", "stem", "tuner", "neck", "heads", "85,889,024", "3,695,236", "4.30%", "4.12%"):
        assert part in text
