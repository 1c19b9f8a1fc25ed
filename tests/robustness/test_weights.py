"""Faults of files of weights and of adapters, in the tools that read them."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.isolation import Case, refuse
from helpers.runs import TINY
from safetensors.torch import save_file

SMALL = [*TINY, "model.backbone.net.depth=2", "model.backbone.net.global_blocks=[1]"]
CONFIG = ["--config-file", "configs/synthetic/ivtuning.py", *SMALL]


def export(file: str, output: str = "out.safetensors") -> list[str]:
    return [*CONFIG, "--weights", file, "--output", output]


def merge(base: str, adapter: str, output: str) -> list[str]:
    paths = ["--weights", base, "--adapter", adapter, "--output", output]
    return [*CONFIG, *paths, "model.backbone.net.tuner=LoRA", "model.backbone.net.stem=VisibleOnly"]


def _compressed(folder: Path) -> list[str]:
    """A file of 16 kB that would take 16 MB in memory."""
    with zipfile.ZipFile(folder / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/data/0", bytes(1 << 24))
    return export("w.pth")


class _Call:
    def __reduce__(self):
        return subprocess.getoutput, ("touch ran",)


def _code(folder: Path) -> list[str]:
    torch.save({"model": {"w": torch.ones(1)}, "hook": _Call()}, folder / "w.pth")
    return export("w.pth")


def _average(folder: Path) -> list[str]:
    torch.save({part: {"w": torch.ones(1)} for part in ("teacher", "student")}, folder / "w.pth")
    return export("w.pth")


def _page(folder: Path) -> list[str]:
    (folder / "w.pth").write_text("<!DOCTYPE html><title>Sign in</title>")
    return export("w.pth")


def _nan(folder: Path) -> list[str]:
    from detectron2.config import instantiate

    from ivtuning.config import load_config

    state = instantiate(load_config(CONFIG[1], SMALL).model).state_dict()
    state["backbone.net.blocks.1.norm1.bias"][2] = torch.nan
    torch.save({"model": state}, folder / "w.pth")
    return export("w.pth")


def _unreadable(folder: Path) -> list[str]:
    os.mkfifo(folder / "w.pth")
    return export("w.pth")


def _header(folder: Path) -> list[str]:
    torch.save({"w": torch.ones(1)}, folder / "base.pth")
    facts = {"format": 1, "stem": "VisibleOnly"}
    save_file({"backbone/w": torch.ones(1)}, folder / "a.safetensors", {"ivtuning": json.dumps(facts)})
    return merge("base.pth", "a.safetensors", "merged.pth")


def _onto_base(folder: Path) -> list[str]:
    torch.save({"w": torch.ones(1)}, folder / "base.pth")
    (folder / "link.pth").symlink_to("base.pth")
    return merge("base.pth", "a.safetensors", "./link.pth")


def _folder(folder: Path) -> list[str]:
    torch.save({"w": torch.ones(1)}, folder / "base.pth")
    (folder / "merged.pth").mkdir()
    return merge("base.pth", "a.safetensors", "merged.pth")


def _convert(folder: Path) -> list[str]:
    torch.save({f"model.{i}.w": torch.ones(1) for i in range(3)}, folder / "w.pth")
    return ["--from", "dino", "w.pth", "out.pth", "--config-file", "configs/synthetic/dino_ivtuning.py"]


EXPORT, MERGE = "tools/export_adapter.py", "tools/merge_adapter.py"
CASES = [
    Case("compressed", EXPORT, _compressed, ["w.pth: has compressed parts", "save it again"]),
    Case("code", EXPORT, _code, ["w.pth: pickles a subprocess.getoutput", "save model.state_dict() alone"]),
    Case("averages", EXPORT, _average, ["several state dicts (teacher, student)", "w.pth#teacher"]),
    Case("web page", EXPORT, _page, ["w.pth: is a web page", "download the file"]),
    Case("nan", EXPORT, _nan, ["w.pth: backbone.net.blocks.1.norm1.bias holds NaN", "earlier checkpoint"]),
    Case("pipe", EXPORT, _unreadable, ["w.pth is a device or a pipe"]),
    Case("header", MERGE, _header, ["a.safetensors: its header has stem", "export it again"]),
    Case("output is the input", MERGE, _onto_base, ["link.pth: is the file to read", "name another"]),
    Case("output is a folder", MERGE, _folder, ["merged.pth: is a folder", "name the file"]),
    Case("no detector", "tools/convert_checkpoint.py", _convert, ["w.pth: is no checkpoint", "model.0.w"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_faults_of_weights_are_refused(case, tmp_path):
    refuse(case, tmp_path)
