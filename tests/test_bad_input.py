"""What a user gets wrong ends with one clear line and exit code 1, and nothing is lost."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.runs import TINY
from helpers.tools import line_of, load_tool

from ivtuning.errors import UserError, nearest, run_tool


def argv(output, *overrides: str) -> list[str]:
    return [
        "--config-file",
        "configs/synthetic/ivtuning.py",
        *TINY,
        f"train.output_dir={output}",
        "train.max_iter=4",
        *overrides,
    ]


@pytest.fixture
def own_pairs(pairs, tmp_path, monkeypatch) -> Path:
    """A copy of the small set that a test may damage."""
    from ivtuning.data.datasets.detection import register_known

    shutil.copytree(pairs, tmp_path / "data" / "synthetic")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    register_known()
    return tmp_path / "data" / "synthetic"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_image_in_the_middle_of_training_is_named(own_pairs, tmp_path, capsys):
    for file in (own_pairs / "train" / "ir").iterdir():
        truncate(file)
    line = line_of(capsys, argv(tmp_path / "out"))
    assert "train/ir/" in line and ".png" in line


def test_bad_pairs_are_skipped_counted_and_reported_when_asked(own_pairs, tmp_path, capsys, caplog):
    from detectron2.config import instantiate

    from ivtuning.config import load_config

    broken = sorted((own_pairs / "train" / "ir").iterdir())[:3]
    for file in broken:
        truncate(file)
    cfg = load_config("configs/synthetic/ivtuning.py", [*TINY, "data.on_bad_pair=skip"])
    loader = instantiate(cfg.dataloader.train)
    seen = iter(loader)
    for _ in range(10):
        next(seen)
    assert set(loader.skipped) == {str(file) for file in broken}
    load_tool("train_net").main(argv(tmp_path / "out", "data.on_bad_pair=skip"))
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_missing_partner_and_unequal_pair_are_named(own_pairs, tmp_path, capsys):
    from PIL import Image

    for file in (own_pairs / "train" / "ir").iterdir():
        file.unlink()
    assert "train/ir/" in line_of(capsys, argv(tmp_path / "out"))
    for file in (own_pairs / "train" / "vis").iterdir():
        Image.new("L", (40, 40)).save(own_pairs / "train" / "ir" / file.name)
    line = line_of(capsys, argv(tmp_path / "out2"))
    assert "40x40" in line and "96x72" in line


def test_set_without_boxes_and_unknown_class_are_named(own_pairs, tmp_path, capsys):
    file = own_pairs / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 9
    file.write_text(json.dumps(content))
    assert "unknown category id 9" in line_of(capsys, argv(tmp_path / "out"))
    file.write_text(json.dumps({**content, "annotations": []}))
    assert "no box to train on" in line_of(capsys, argv(tmp_path / "out"))


@pytest.mark.parametrize(
    "override, words",
    [
        ("model.backbone.net.tunr.x=1", "did you mean 'tuner'"),
        ("train.max_itr=7", "did you mean 'max_iter'"),
        ("model.backbone.net.tuner=IVTunig", "did you mean 'IVTuning'"),
        ("model.backbone.net.tuner=Lora", "did you mean 'LoRA'"),
        ("train.precision=half", "train.precision: input should be 'fp32', 'bf16' or 'fp16'"),
    ],
)
def test_misspelled_keys_and_names_suggest_the_nearest(pairs, tmp_path, capsys, override, words):
    assert words in line_of(capsys, argv(tmp_path / "out", override))


def test_config_that_does_not_exist_lists_near_ones(capsys):
    line = line_of(capsys, ["--config-file", "configs/M3FD/vitdet_ivtunning_b.py"])
    assert "configs/M3FD/vitdet_ivtuning_b.py" in line


def test_missing_weights_say_where_to_get_them(pairs, tmp_path, capsys):
    line = line_of(
        capsys, argv(tmp_path / "out", f"train.init_checkpoint={tmp_path}/mae_pretrain_vit_base.pth")
    )
    assert "mae_pretrain_vit_base.pth" in line and "give its address instead, https://" in line
    assert "`make demo`" in line_of(
        capsys, argv(tmp_path / "out", f"train.init_checkpoint={tmp_path}/trunk.pth")
    )


def test_nothing_to_evaluate_and_a_trunk_alone_are_reported(pairs, tmp_path, capsys):
    from helpers.runs import config

    from ivtuning.backbones.trunk import find_trunk
    from ivtuning.engine import run

    assert "nothing to evaluate" in line_of(capsys, [*argv(tmp_path / "out"), "--eval-only"])
    trunk = find_trunk(run.build_model(config(tmp_path))).trunk
    torch.save({"model": dict(trunk.named_base_parameters())}, tmp_path / "trunk.pth")
    line = line_of(capsys, [*argv(tmp_path / "out"), "--eval-only", "--weights", f"{tmp_path}/trunk.pth"])
    assert "trunk.pth" in line and "only" in line


def test_adapter_for_another_base_names_both(pairs, tmp_path, capsys):
    from helpers.runs import config

    from ivtuning.backbones.trunk import find_trunk
    from ivtuning.checkpoint import save_adapter
    from ivtuning.checkpoint.adapter import fingerprint
    from ivtuning.engine import run

    prints = []
    for name in ("a", "b"):
        model = run.build_model(config(tmp_path))
        torch.save({"model": model.state_dict()}, tmp_path / f"{name}.pth")
        save_adapter(model, tmp_path / f"{name}.safetensors", metadata={})
        prints.append(fingerprint(find_trunk(model).trunk)[:12])
    evaluation = [*argv(tmp_path / "out"), "--eval-only", "--weights", f"{tmp_path}/a.pth"]
    line = line_of(capsys, [*evaluation, "--adapter", f"{tmp_path}/b.safetensors"])
    assert all(p in line for p in prints)


def test_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(pairs, tmp_path, capsys):
    load_tool("train_net").main(argv(tmp_path / "out", "train.max_iter=2"))
    before = (tmp_path / "out" / "model_final.pth").read_bytes()
    # So small a standard deviation makes every pixel infinite.
    line = line_of(capsys, [*argv(tmp_path / "out", f"model.pixel_std={[1e-44] * 6}"), "--resume"])
    assert "not finite" in line and "train/vis/" in line
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
    assert (tmp_path / "out" / "model_final.pth").read_bytes() == before


def test_full_disk_keeps_the_last_good_checkpoint(pairs, tmp_path, capsys, monkeypatch):
    load_tool("train_net").main(argv(tmp_path / "out", "train.max_iter=2"))
    files = sorted(p.name for p in (tmp_path / "out").glob("model*"))
    before = (tmp_path / "out" / "model_final.pth").read_bytes()

    def full(data, file, *args, **kwargs):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    line = line_of(capsys, [*argv(tmp_path / "out"), "--resume"])
    assert "disk is full" in line and "model_final.pth" in line
    assert (tmp_path / "out" / "model_final.pth").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "out").glob("model*")) == files


def test_traceback_flag_shows_the_stack():
    def main(argv):
        assert argv == []
        raise UserError("wrong")

    with pytest.raises(UserError, match="wrong"):
        run_tool(main, ["--traceback"])


def test_other_errors_keep_their_traceback_and_nearest_is_quiet_when_nothing_is_near():
    def main(argv):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run_tool(main, [])
    assert nearest("zzz", ["alpha"]) == ""


def test_nearest_names_come_first_whatever_their_case():
    assert nearest("Lora", ["Mona", "LoRA", "Adapter"]).startswith("; did you mean 'LoRA'")
    assert nearest("FULL", ["Full", "Partial"]) == "; did you mean 'Full'?"
