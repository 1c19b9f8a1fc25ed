"""The script that measures everything on a GPU, without one: its commands."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import shutil
import subprocess

import pytest
from helpers.tools import ROOT, load_tool

from ivtuning.benchmark.subjects.trunks import MAKERS
from ivtuning.config import load_config
from ivtuning.methods import find_method

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
SCRIPT = ROOT / "tools/benchmark_gpu.sh"


def run(*arguments, cwd=None, **env):
    return subprocess.run(
        ["bash", SCRIPT, *arguments], capture_output=True, text=True, env={**os.environ, **env}, cwd=cwd
    )


def test_every_command_is_one_that_the_tool_accepts(monkeypatch):
    monkeypatch.setattr(argparse.ArgumentParser, "_get_option_tuples", lambda *_: [])  # no abbreviations
    done = run("--dry-run")
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not done.stderr and all(c[0] == "tools/benchmark.py" for c in commands)
    calls = [load_tool("benchmark").parse(command[1:]) for command in commands]
    for call in calls:
        if call.part == "model":
            assert load_config(call.config_file, call.overrides).train.precision == "bf16"
        else:
            assert call.trunk in MAKERS and call.dtype == "bf16" and all(map(find_method, call.method))
    trunks = ("vitdet_b", "vitdet_l", "swin_l_w12")
    steps = {(call.trunk, call.batch) for call in calls if call.part == "step"}
    assert steps == set(itertools.product(trunks, (1, 4, 16)))
    for part in ("infer", "profile", "budget"):
        assert sorted(call.trunk for call in calls if call.part == part) == sorted(trunks)
    assert sum(call.part == "model" for call in calls) == 4


def test_failures_are_named_and_the_others_go_on(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit\necho "$@"\n[ "$2" != infer ]\n')
    python.chmod(0o755)
    done = run("out", PY=str(python), cwd=tmp_path)  # a folder is where the user is, not in the repository
    assert done.returncode == 1
    assert done.stderr.startswith("error: failed: infer-vitdet_b infer-swin_l_w12 infer-vitdet_l; see")
    files = {path.stem: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert len(files) == 22 and files["step-vitdet_b-16"].startswith(
        "tools/benchmark.py step --trunk vitdet_b"
    )


def test_a_machine_without_cuda_is_refused(tmp_path):
    done = run(tmp_path / "out", PY="false")
    assert done.returncode == 1 and done.stderr == "error: false finds no CUDA device\n"
    assert not (tmp_path / "out").exists()
