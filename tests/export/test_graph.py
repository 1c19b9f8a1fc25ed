"""Graphs in PyTorch: they compute what the models themselves do."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny
from helpers.exportable import MODELS, SHALLOW, filled, images, plain_vit, samples, segmentor

from ivtuning.errors import UserError
from ivtuning.export.graph import ExportedModel
from ivtuning.export.options import Options
from ivtuning.export.prepare import prepared
from ivtuning.heads.segmentation.inference import MultiScaleFlip, SlidingWindow
from ivtuning.tuning import IVTuning, LoRA
from ivtuning.tuning.iv_tuning.constant import ConstantAdapters
from ivtuning.tuning.stems import SumStem


def outputs(graph, *inputs):
    with torch.inference_mode():
        return dict(zip(graph.names, graph(*inputs), strict=True))


def own_outputs(model, batch):
    with torch.inference_mode():
        return model(batch)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "classifier"])
def test_segmentors_compute_what_the_model_does(name):
    model = MODELS[name]()
    visible, infrared = images(2, 37, 53)
    graph = ExportedModel(prepared(model), Options((37, 53), batch=2))
    found = outputs(graph, visible, infrared)
    expected = own_outputs(model, samples(visible, infrared))
    scores = torch.stack([x["sem_seg"] for x in expected])
    torch.testing.assert_close(found["probabilities"], scores.softmax(1), rtol=1e-4, atol=1e-5)
    assert found["label_map"].dtype == torch.uint8
    assert (found["label_map"] == scores.argmax(1)).float().mean() > 0.999
    assert len(found["label_map"].unique()) > 1


def test_a_classifier_computes_what_the_model_does():
    model = MODELS["classifier"]()
    visible, _ = images(3, 40, 40)
    graph = ExportedModel(prepared(model), Options((40, 40), batch=3))
    assert graph.inputs == ["visible"]
    expected = torch.stack([x["scores"] for x in own_outputs(model, samples(visible, None))])
    torch.testing.assert_close(outputs(graph, visible)["scores"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", ["raw", "backbone"])
def test_stages_end_before_the_predictions(stage):
    model = plain_vit()
    visible, infrared = images(1, 37, 53)
    found = outputs(ExportedModel(prepared(model), Options((37, 53), stage=stage)), visible, infrared)
    batch = samples(visible, infrared)
    if stage == "raw":
        expected = {"logits": torch.stack([x["sem_seg"] for x in own_outputs(model, batch)])}
    else:
        with torch.inference_mode():
            expected = model.backbone(model.preprocess_image(batch).tensor)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_missing_images_are_filled_as_the_model_does(fill):
    model = plain_vit(fill_missing=fill)
    visible, infrared = images(2, 40, 56)
    graph = ExportedModel(prepared(model), Options((40, 56), batch=2, stage="raw"))
    inputs = [visible, infrared.clone()]
    inputs[1][1] = 200 if fill == "mean" else 0  # the pixels of a missing image do not count
    if fill == "mean":
        assert graph.inputs == ["visible", "infrared", "missing"]
        inputs.append(torch.tensor([[False, False], [False, True]]))
    expected = own_outputs(model, samples(visible, infrared, missing=1))
    found = outputs(graph, *inputs)["logits"]
    torch.testing.assert_close(found, torch.stack([x["sem_seg"] for x in expected]), rtol=1e-4, atol=1e-4)


def test_windows_run_as_one_batch():
    model = plain_vit(inference=SlidingWindow(24, 16))
    visible, infrared = images(2, 37, 53)
    graph = ExportedModel(prepared(model), Options((37, 53), batch=2, stage="raw"))
    expected = own_outputs(model, samples(visible, infrared))
    found = outputs(graph, visible, infrared)["logits"]
    torch.testing.assert_close(found, torch.stack([x["sem_seg"] for x in expected]), rtol=1e-4, atol=1e-4)


def test_squares_take_any_size_up_to_theirs():
    model = plain_vit(square_pad=64)
    graph = ExportedModel(prepared(model), Options((64, 64), dynamic=("size",), stage="raw"))
    for size in (37, 53), (64, 64):
        visible, infrared = images(1, *size)
        expected = own_outputs(model, samples(visible, infrared))[0]["sem_seg"]
        torch.testing.assert_close(
            outputs(graph, visible, infrared)["logits"][0], expected, rtol=1e-4, atol=1e-4
        )


def test_a_square_bounds_dynamic_sizes():
    with pytest.raises(UserError, match="square_pad=64 is the largest side"):
        ExportedModel(plain_vit(square_pad=64), Options((64, 80), dynamic=("size",)))


@pytest.mark.parametrize(
    "options",
    [{}, {"share_sites": True}, {"legacy_hw_swap": True}, {"post_affine": False}, {"norm": "GN"}],
    ids=lambda o: " ".join(o) or "default",
)
def test_iv_tuning_is_folded(options):
    trunk = tiny.plain_vit(tuner=IVTuning(hidden_dim=8, **options), **SHALLOW)
    model = segmentor(trunk)
    ready = prepared(model)
    folded = [isinstance(m, ConstantAdapters) for m in ready.backbone.net.tuner.blocks]
    assert all(folded) if options.get("norm") != "GN" else not any(folded)
    visible, infrared = images(1, 40, 56)
    some = Options((40, 56), stage="raw")
    found = outputs(ExportedModel(ready, some), visible, infrared)["logits"]
    expected = outputs(ExportedModel(model, some), visible, infrared)["logits"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_lora_is_merged_into_a_copy():
    model = segmentor(tiny.plain_vit(SumStem(), LoRA(rank=2, alpha=8.0), **SHALLOW))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ready = prepared(model)
    qkv = "backbone.net.blocks.0.attn.qkv.weight"
    assert not torch.equal(ready.state_dict()[qkv], before[qkv])
    assert not ready.backbone.net.blocks[0].attn.qkv._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    visible, infrared = images(1, 40, 56)
    some = Options((40, 56), stage="raw")
    found = outputs(ExportedModel(ready, some), visible, infrared)["logits"]
    torch.testing.assert_close(
        found, outputs(ExportedModel(model, some), visible, infrared)["logits"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["plain_vit", "swin", "vitdet", "eva"])
def test_half_precision_is_close_and_gives_full_precision(name):
    model = MODELS[name]()
    visible, infrared = images(1, 40, 56)
    some = Options((40, 56), precision="fp16", stage="raw")
    found = outputs(ExportedModel(prepared(model, "fp16"), some), visible, infrared)["logits"]
    expected = outputs(ExportedModel(model, some), visible, infrared)["logits"]
    assert found.dtype == torch.float32
    error = float((found - expected).abs().max() / expected.abs().max())
    assert 0 < error < 2e-2


def test_refusals():
    with pytest.raises(UserError, match="--dynamic size: the trunk's maps have strides up to 8.* of 1:"):
        ExportedModel(MODELS["classifier"](), Options((40, 56), dynamic=("size",)))
    with pytest.raises(UserError, match="model.inference=MultiScaleFlip cannot be exported"):
        ExportedModel(plain_vit(inference=MultiScaleFlip()), Options((40, 56)))
    with pytest.raises(UserError, match="SlidingWindow.*leave out --dynamic size"):
        ExportedModel(plain_vit(inference=SlidingWindow(24, 16)), Options((40, 56), dynamic=("size",)))
    with pytest.raises(UserError, match="--dynamic size: UPerNet pools"):
        ExportedModel(MODELS["upernet"](), Options((40, 56), dynamic=("size",)))
    with pytest.raises(UserError, match="detects nothing"):
        ExportedModel(filled(plain_vit()), Options((40, 56), stage="detections"))
