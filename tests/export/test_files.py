"""Files: onnxruntime gives what PyTorch gives, and the metadata says what they are."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from helpers.exportable import CASES, MODELS, export, images, plain_vit, samples

from ivtuning import __version__
from ivtuning.backbones.trunk import find_trunk
from ivtuning.checkpoint.adapter import fingerprint
from ivtuning.errors import UserError
from ivtuning.export import check, comparison, writing
from ivtuning.export.options import Options
from ivtuning.export.runner import OnnxModel

pytestmark = pytest.mark.slow


def expected(model, visible, infrared, missing=None):
    with torch.inference_mode():
        found = model(samples(visible, infrared, missing))
    return torch.stack([x.get("sem_seg", x.get("scores")) for x in found]).numpy()


def assert_close(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def softmax(logits):
    return torch.from_numpy(logits).softmax(1).numpy()


@pytest.mark.parametrize("name", list(CASES))
def test_files_compute_what_the_model_does(exported, name):
    model, options, path, comparison = exported(name)
    assert comparison.pairs >= 4
    assert all(error <= 1e-4 for error in comparison.errors.values())
    session = OnnxModel(path)
    pair = name != "classifier"
    sizes = [options.size] + ([(48, 24), (41, 70)] if "size" in options.dynamic else [])
    for size in sizes:
        for count in (1, 3):
            visible, infrared = images(count, *size, seed=count)
            arguments = [visible, infrared] if pair else [visible]
            found = session(*(x.numpy() for x in arguments))
            wanted = expected(model, visible, infrared if pair else None)
            if name == "swin":
                assert_close(found["logits"], wanted)
            elif name == "classifier":
                assert_close(found["scores"], wanted)
            else:
                assert_close(found["probabilities"], softmax(wanted))
                assert (found["label_map"] == wanted.argmax(1)).mean() > 0.999


@pytest.mark.parametrize("name", ["plain_vit", "eva"])
def test_the_runner_fills_missing_images(exported, name):
    model, options, path, _ = exported(name)
    visible, infrared = images(3, *options.size)
    columns = [list(visible.numpy()), list(infrared.numpy())]
    columns[1][1] = None
    found = OnnxModel(path)(*columns)["probabilities"]
    assert_close(found, softmax(expected(model, visible, infrared, missing=1)))


@pytest.mark.parametrize("name", list(CASES))
def test_files_hold_standard_operators_alone(exported, name):
    file = onnx.load(exported(name)[2])
    onnx.checker.check_model(file, full_check=True)
    assert [(x.domain, x.version) for x in file.opset_import] == [("", writing.OPSET)]
    assert {node.domain for node in file.graph.node} == {""} and not file.functions


def test_files_say_what_they_are(exported):
    model, _, path, _ = exported("plain_vit")
    session = OnnxModel(path)
    assert session.inputs == ["visible", "infrared", "missing"]
    assert session.outputs == ["label_map", "probabilities"]
    assert session.size == (37, 53) and session.batch is None
    assert session.classes == ["a", "b", "c"]
    facts = session.metadata
    assert facts["task"] == "segmentation" and facts["size"] == "53x37" and facts["dynamic"] == ["batch"]
    assert facts["base_fingerprint"] == fingerprint(find_trunk(model).trunk)
    assert facts["fill_missing"] == "mean" and facts["ivtuning"] == __version__
    assert facts["pixel_mean"] == [120.0, 110.0, 100.0, 90.0, 80.0, 70.0]
    assert facts["config"] == "configs/some/model.py"


def test_the_runner_refuses_what_the_file_does_not_take(exported, tmp_path):
    visible, infrared = (x.numpy() for x in images(1, 40, 56))
    with pytest.raises(UserError, match="infrared image is missing.*fill_missing=error"):
        OnnxModel(exported("vitdet")[2])(visible, None)
    session = OnnxModel(exported("eva")[2])
    with pytest.raises(UserError, match="the images are 40x24, the file takes 53x37"):
        session(visible[..., :24, :40], infrared[..., :24, :40])
    with pytest.raises(UserError, match="float32.*give uint8 arrays"):
        session(visible.astype(np.float32), infrared)
    with pytest.raises(UserError, match="different numbers of images"):
        session(visible, np.concatenate([infrared, infrared]))
    with pytest.raises(UserError, match="device='tpu': give cpu, cuda"):
        OnnxModel(exported("eva")[2], device="tpu")
    with pytest.raises(UserError, match="no file"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match="onnxruntime cannot load it"):
        OnnxModel(tmp_path / "text.onnx")


def test_weights_beyond_the_limit_get_a_file_of_their_own(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "EXTERNAL", 1000)
    model, path = MODELS["classifier"](), tmp_path / "new" / "big.onnx"
    options = Options((40, 40), stage="backbone")
    assert export(model, path, options, check=1).errors["features"] <= 1e-4
    assert sorted(x.name for x in path.parent.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert path.with_name("big.onnx.data").stat().st_size > 4 * model.backbone.net.pos_embed.numel()


def test_a_file_that_fails_its_check_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "old.pt2"
    path.write_bytes(b"old")
    monkeypatch.setattr(check, "LIMITS", {"fp16": comparison.Limits(-1.0, 1.0, 0.0, 0.0, 1.0)})
    words = "the file does not compute what the model does: features differs.*: export with --precision fp32"
    with pytest.raises(UserError, match=words):
        export(MODELS["classifier"](), path, Options((40, 40), precision="fp16", stage="backbone"), check=1)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_half_precision(tmp_path):
    model, path = plain_vit(), tmp_path / "half.onnx"
    comparison = export(model, path, Options((40, 56), precision="fp16", stage="raw"))
    assert 0 < comparison.errors["logits"] < 2e-2
    kinds = {x.data_type for x in onnx.load(path).graph.initializer if len(x.dims) == 2}
    assert onnx.TensorProto.FLOAT16 in kinds
    visible, infrared = (x.numpy() for x in images(1, 40, 56))
    assert OnnxModel(path)(visible, infrared)["logits"].dtype == np.float32


def test_programs_of_torch_export(tmp_path):
    model, path = MODELS["classifier"](), tmp_path / "program.pt2"
    assert export(model, path, Options((40, 56), batch=2)).errors["scores"] <= 1e-4
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["task"] == "classification"
    visible, _ = images(2, 40, 56)
    with torch.inference_mode():
        (found,) = program(visible)
    assert_close(found.numpy(), expected(model, visible, None))
