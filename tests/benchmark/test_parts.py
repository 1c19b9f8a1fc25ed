"""Parts of the benchmark by themselves. Nothing here is timed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from ivtuning import compat
from ivtuning.benchmark.options import Options
from ivtuning.benchmark.parts import alternatives, export, growth, oriented, predict, relpos, step
from ivtuning.benchmark.parts import eval as evaluation
from ivtuning.benchmark.report import ROWS
from ivtuning.errors import UserError


def test_activation_checkpointing_and_the_large_size_itself(monkeypatch):
    monkeypatch.setattr(step, "LARGE", (48, 48))
    result = step.measure(Options(trunk="vitdet_nano", depth=2, repeats=1, methods=("mona", "IVTuning")))
    assert [line[0] for line in result.listings[0].lines][-2:] == ["reference", "Mona"]
    assert result.rows["step_over_reference_1024"] == result.rows["step_over_reference"]
    saved = result.raw["saved_bytes"]
    assert saved["iv_block"] < saved["iv_mlp"] < saved["iv"] < saved["reference"]
    assert saved["frozen"] < saved["full"]
    seconds = result.raw["step_seconds"]
    assert result.rows["step_frozen_over_full"].value == pytest.approx(
        seconds["frozen"]["median"] / seconds["full"]["median"]
    )
    for key in ("iv", "full"):
        ideal = result.raw["flops"][key] / (result.facts["rate_tflops"] * 1e12)
        assert result.rows[f"utilization_{key}"].value == pytest.approx(ideal / seconds[key]["median"])
    for mode in ("mlp", "block"):
        assert result.rows[f"saved_over_full_{mode}"].value == saved[f"iv_{mode}"] / saved["full"]
        assert result.rows[f"step_over_full_{mode}"].value > 0


def test_alternatives(monkeypatch):
    monkeypatch.setattr(alternatives, "PLAIN_SIZE", (32, 32))
    result = alternatives.measure(Options(trunk="vitdet_t", depth=3, size=(64, 64), repeats=1))
    assert {key for key in ROWS if key.startswith("alternatives")} == set(result.rows)
    missing = {
        "alternatives_full": ("detectron2's main branch", compat.has_vit()),
        "alternatives_lora": ("peft", find_spec("peft")),
    }
    for key, (what, there) in missing.items():
        for row in (result.rows[key], result.rows[f"{key}_saved"]):
            assert row.value > 0 if there else row.note == f"needs {what}"
    assert result.rows["alternatives_plain"].value > 0
    assert result.rows["alternatives_plain_saved"].value < 1


def test_nms_of_oriented_boxes(monkeypatch):
    monkeypatch.setattr(oriented, "BOXES", 200)
    result = oriented.measure(Options(repeats=1))
    seconds = result.raw["seconds"]
    expected = seconds["oriented"]["median"] / seconds["upright"]["median"]
    assert result.rows["oriented_nms_over_upright"].value == pytest.approx(expected)
    boxes, scores = oriented.random_boxes(200)
    assert boxes.shape == (200, 5) and (boxes[:, 2:4] >= 10).all() and scores.unique().numel() == 200


def test_alternatives_of_another_trunk():
    with pytest.raises(UserError, match="--trunk swin_t: alternatives has a ViTDet"):
        alternatives.measure(Options(trunk="swin_t"))


@pytest.mark.slow
def test_large_size_has_its_own_row(monkeypatch):
    monkeypatch.setattr(step, "LARGE", (64, 64))
    result = step.measure(Options(trunk="vitdet_nano", depth=2, size=(48, 64), repeats=1))
    row = result.rows["step_over_reference_1024"]
    seconds = result.raw["step_seconds_1024"]
    assert row.value == seconds["iv"]["median"] / seconds["reference"]["median"]


def test_both_evaluations_agree():
    result = evaluation.measure(Options(images=6, repeats=1))
    assert result.facts["coco_eval_difference"] < 1e-12
    truth, detections = evaluation.random_records(6)
    assert (len(truth), len(detections)) == (6 * evaluation.OBJECTS, 6 * evaluation.DETECTIONS)
    # They would also agree on nothing at all.
    boxes = {tuple(d["bbox"][2:]) for d in detections}
    assert all(tuple(t["bbox"][2:]) in boxes for t in truth)


def test_relpos_in_reduced_precision():
    result = relpos.measure(Options(tokens=6, repeats=1, dtype="bf16"))
    assert result.rows["relpos_saved_ratio"].value > 0
    assert result.facts["relpos_time_ratio"] > 0


def test_exponents_are_slopes():
    assert growth.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert growth.exponent([5, 50], [7, 7]) == pytest.approx(0)


def test_growth_of_one_depth_alone():
    result = growth.measure(Options(trunk="vitdet_nano", depth=2, repeats=1))
    assert result.rows["growth_step_depth"].note == "the trunk has one depth only"


def test_exported_files_beside_their_models(monkeypatch):
    """Without the export, which takes long and is tested elsewhere."""
    made = {}

    def export_model(model, path, options, check):
        made[str(path)] = model, options

    def opened(path, device):
        assert device == "cpu"
        return made[str(path)][0]

    monkeypatch.setattr(export, "_device", lambda: "cpu")
    monkeypatch.setattr(export, "export_model", export_model)
    monkeypatch.setattr(export, "OnnxMetaArch", opened)
    config = "configs/synthetic/seg_ivtuning.py"
    result = export.measure(Options(config=config, size=(48, 64), batch=2, repeats=1))
    assert [options.size for _, options in made.values()] == [(48, 64)]
    seconds = result.raw["seconds"]["export_config"]
    onnx, torch_ = (seconds[f"export_config, {name}"]["median"] for name in ("onnxruntime", "PyTorch"))
    assert result.rows["export_config"].value == onnx / torch_
    assert set(export.CONFIGS) | {"export_config"} == {key for key in ROWS if key.startswith("export_")}


@pytest.mark.parametrize("config", ["ivtuning", "seg_ivtuning"])
def test_the_predictor_beside_its_model(config):
    options = Options(config=f"configs/synthetic/{config}.py", size=(48, 64), batch=2, repeats=1)
    result = predict.measure(options)
    seconds = {name: times["median"] for name, times in result.raw["seconds"].items()}
    assert list(seconds) == ["predictor", "mapper and model", "model"]
    assert result.rows["predict_over_model"].value == seconds["predictor"] / seconds["model"]
    assert result.rows["predict_over_parts"].value == seconds["predictor"] / seconds["mapper and model"]
    assert "seg_ivtuning.py, 48 x 64 px, batch 2" in result.conditions or config == "ivtuning"
