"""DINO and Co-DINO under the names of IDEA-Research, detrex, mmdetection and Sense-X."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from helpers import foreign
from helpers.conversion import CODINO, DINO, NO_PLUGS, build, converted, plain
from helpers.weights import same
from torch import Tensor

from ivtuning.checkpoint.conversion import FAMILIES, convert
from ivtuning.config import load_config

UNSHARED = "model.transformer.share_heads=False"


def full_size_idea() -> dict[str, Tensor]:
    """Names and sizes of IDEA-Research/DINO's Swin-L with five scales and 91 classes, nothing in memory."""
    with torch.device("meta"):
        model = instantiate(load_config(DINO, ["model.num_classes=91", *NO_PLUGS]).model)
        return foreign.idea(plain(model), layers=6)


def test_full_size_names_of_dino():
    state = full_size_idea()
    assert len(state) == 722 and sum("_index" in n for n in state) == 24
    assert state["class_embed.5.weight"].shape == (91, 256) and state["label_enc.weight"].shape == (92, 256)
    with torch.device("meta"):
        model = instantiate(load_config(DINO).model)
    classes = {"label_enc.weight"} | {
        f"transformer.{part}.{tensor}"
        for part in ("decoder.class_embed.0", "enc_out_class_embed")
        for tensor in ("weight", "bias")
    }
    new, report = convert(state, FAMILIES["dino"], FAMILIES, model, classes)
    assert new.keys() | classes == plain(model).keys() and not new.keys() & classes
    assert {line.split(":")[0] for line in report.class_layers} == classes
    assert report.misfits == report.missing == report.zero == []
    assert len(report.unused) == 24 and report.plugins


def test_heads_that_differ_are_reported(tmp_path):
    state = foreign.idea(plain(build(DINO)), 2)
    for place in ("", "transformer.decoder."):
        state[f"{place}bbox_embed.1.layers.0.bias"] = torch.ones(32)
    new, report = converted("dino", state, DINO)
    assert torch.equal(
        new["transformer.decoder.bbox_embed.0.layers.0.bias"], state["bbox_embed.0.layers.0.bias"]
    )
    assert len(report.notes) == 1 and "its own bbox_embed" in report.notes[0]
    new, report = converted("dino", state, DINO, "model.transformer.share_heads=False")
    assert new["transformer.decoder.bbox_embed.1.layers.0.bias"].eq(1).all() and not report.notes


def test_file_of_fewer_scales_is_reported():
    state = foreign.idea(plain(build(DINO)), 2)
    _, report = converted("dino", state, DINO, "model.transformer.num_levels=4")
    assert any(line.startswith("transformer.level_embed: 3x32 in the file, 4x32") for line in report.misfits)
    assert "neck.3.0.weight" in report.missing and "of another kind, as initialized" in str(report)


@pytest.mark.parametrize(
    ("kind", "config", "names"),
    [
        ("detrex-dino", DINO, foreign.detrex),
        ("codino", DINO, foreign.mmdet_dino),
        ("codino", CODINO, foreign.sense_x),
    ],
)
def test_queries_of_other_projects(kind, config, names):
    source = build(config, UNSHARED)
    expected = plain(source)
    if names is foreign.mmdet_dino:
        expected |= {
            n: torch.zeros_like(t)
            for n, t in expected.items()
            if n.startswith("neck.") and n.endswith("0.bias")
        }
    if config == DINO:
        # The row that nobody uses; these files have none.
        expected["label_enc.weight"] = torch.cat([expected["label_enc.weight"][:-1], torch.zeros(1, 32)])
    new, report = converted(
        kind, names(plain(source), layers=2, maps=2 if config == DINO else 4), config, UNSHARED
    )
    assert same(new, expected)
    assert report.missing == report.misfits == report.class_layers == [] and len(report.unused) == 5
    assert len(report.zero) == (3 if names is foreign.mmdet_dino else 0)


def test_labels_of_one_class_more_are_not_taken_for_ours():
    """7 rows are those of 7 classes in mmdetection and of 6 in IDEA-Research's code."""
    state = foreign.mmdet_dino(plain(build(DINO, UNSHARED, "model.num_classes=7")), layers=2, maps=2)
    assert len(state["dn_query_generator.label_embedding.weight"]) == 7
    new, report = converted("codino", state, DINO, UNSHARED)
    assert "label_enc.weight" not in new
    assert "label_enc.weight: 7 classes in the file, 6 in the model" in report.class_layers
