"""The Makefile: what a tool receives from make's command line, and how the environment is made.

Nothing is downloaded. A script stands in for Python and prints or logs its arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers.tools import ROOT

from ivtuning.config import load_config, tool_parser

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make")

PRINT_ARGV = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"

# Stands in for the base Python, the one in .venv, and uv; it logs its arguments to $LOG.
FAKE_PYTHON = """#!/usr/bin/env bash
set -eu
if [ "$1" = -c ]; then exit ${TOO_OLD:-0}; fi
if [ "$1" = --version ]; then echo Python ${VERSION:-3.11.9}; exit; fi
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip install "*) cp "$0" "$(dirname "$0")/uv" ;;
  *"${FAIL_AT:-nothing fails}"*) exit 1 ;;
esac
"""

CONFIG = """
train = dict(max_iter=1, init_checkpoint="", output_dir="", note="")
model = dict(pixel_mean=[0])
"""


def make(*arguments, **env):
    """Run make in the repository root as from a clean shell."""
    kept = {k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ}
    command = ["make", "-C", str(ROOT), "--no-print-directory", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=kept | env)


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def argv(tmp_path):
    """A function ``argv(target, *make_arguments)`` that returns the arguments the target's tool would get."""
    fake = script(tmp_path / "python", PRINT_ARGV)

    def run(*arguments):
        done = make(*arguments, f"PY={fake}", "READY=")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG)
    return str(path)


def test_overrides_reach_the_config(argv, config):
    got = argv(
        "train",
        f"CONFIG={config}",
        "model.pixel_mean=[1,2,3]",
        "train.max_iter=7",
        "train.output_dir=~/out.1",
        "train.init_checkpoint=https://host/f?x=True",
        "train.note=it's $HOME (a) b.c=d",
    )
    assert got[0] == "tools/train_net.py"
    args = tool_parser("Train.", "x").parse_args(got[1:])
    assert args.config_file == config
    assert args.overrides[:2] == ["model.pixel_mean=[1,2,3]", "train.max_iter=7"]  # in the order typed
    cfg = load_config(args.config_file, args.overrides)
    assert cfg.model.pixel_mean == [1, 2, 3]
    assert dict(cfg.train) == {
        "max_iter": 7,
        "output_dir": os.path.expanduser("~/out.1"),
        "init_checkpoint": "https://host/f?x=True",
        "note": "it's $HOME (a) b.c=d",
    }


def test_a_misspelled_config_is_left_to_the_tool(argv):
    """It knows the nearest names, and takes names without the folder or the suffix."""
    assert argv("train", "CONFIG=quick/ivtunin")[1:] == ["--config-file", "quick/ivtunin"]


def test_opts_are_shell_words(argv, config):
    got = argv(
        "train",
        f"CONFIG={config}",
        "train.max_iter=3",
        "OPTS=--resume 'train.note=a $b \"c\"' train.max_iter=4",
    )
    assert got[3:] == ["train.max_iter=3", "--resume", 'train.note=a $b "c"', "train.max_iter=4"]


def test_key_without_a_dot_is_not_lost(argv, config):
    """A misspelled override must meet load_config's complaint, not vanish as a make variable."""
    assert argv("train", f"CONFIG={config}", "max_iter=3")[-1] == "max_iter=3"


@pytest.mark.parametrize("gpus", [None, 1, 2])
def test_gpus(argv, config, gpus):
    got = argv("train", f"CONFIG={config}", *([] if gpus is None else [f"GPUS={gpus}"]), "train.max_iter=3")
    launcher = ["-m", "ivtuning.engine.launch", "--standalone", "--nproc_per_node=2"] if gpus == 2 else []
    assert got == [*launcher, "tools/train_net.py", "--config-file", config, "train.max_iter=3"]


def test_train_starts_from_the_weights_that_it_is_given(argv, config):
    got = argv("train", f"CONFIG={config}", "WEIGHTS=~/my w.pth", "train.max_iter=3")
    assert got[1:] == ["--config-file", config, "--weights", "~/my w.pth", "train.max_iter=3"]


def test_eval(argv, config):
    weights = ["--eval-only", "--weights", "~/w.pth"]
    start = ["tools/train_net.py", "--config-file", config, *weights]
    assert argv("eval", f"CONFIG={config}", "WEIGHTS=~/w.pth") == start
    adapter = argv("eval", f"CONFIG={config}", "WEIGHTS=~/w.pth", "ADAPTER=a.safetensors", "train.note=x")
    assert adapter == [*start, "--adapter", "a.safetensors", "train.note=x"]
    assert argv("eval", "ONNX=a.onnx") == ["tools/train_net.py", "--eval-only", "--onnx", "a.onnx"]
    assert argv("predict", "ONNX=a.onnx", "OUTPUT=o") == [
        "tools/predict.py",
        "--onnx",
        "a.onnx",
        "--output",
        "o",
    ]


def test_visualize(argv, config):
    onnx = ["--onnx", "a.onnx", "--output", "o"]
    assert argv("visualize", "ONNX=a.onnx", "OUTPUT=o") == ["tools/visualize.py", *onnx]
    start = ["tools/visualize.py", "--config-file", config]
    assert argv("visualize", f"CONFIG={config}", "WEIGHTS=w.pth", "OUTPUT=o") == [
        *start,
        "--weights",
        "w.pth",
        "--output",
        "o",
    ]
    assert argv("visualize", f"ARGS=--config-file {config}") == start


def test_report(argv):
    given = ["RUN=my output/run", "ARGS=other --pairs 3", "train.device=cpu"]
    assert argv("report", *given) == [
        *("tools/report.py", "my output/run", "other", "--pairs", "3", "train.device=cpu"),
    ]


def test_predict(argv, config):
    given = [
        f"CONFIG={config}",
        "WEIGHTS=w.pth",
        "ADAPTER=a",
        "OUTPUT=o",
        "ARGS=--vis v --ir i",
        "train.seed=1",
    ]
    flags = [
        "--weights",
        "w.pth",
        "--adapter",
        "a",
        "--output",
        "o",
        "--vis",
        "v",
        "--ir",
        "i",
        "train.seed=1",
    ]
    assert argv("predict", *given) == ["tools/predict.py", "--config-file", config, *flags]


def test_export(argv, config):
    given = [f"CONFIG={config}", "WEIGHTS=w.pth", "OUTPUT=m.onnx", "ARGS=--size 64x48", "model.square_pad=0"]
    start = ["tools/export_model.py", "--config-file", config, "--weights", "w.pth", "--output", "m.onnx"]
    assert argv("export", *given) == [*start, "--size", "64x48", "model.square_pad=0"]


def test_convert(argv, config):
    given = [f"CONFIG={config}", "FROM=dino", "WEIGHTS=my in.pth", "OUTPUT=~/out.pth", "model.num_classes=3"]
    start = ["tools/convert_checkpoint.py", "--config-file", config, "--from", "dino"]
    assert argv("convert", *given) == [*start, "my in.pth", "~/out.pth", "model.num_classes=3"]


def test_demo_and_test(argv):
    assert argv("demo") == ["tools/demo.py"]
    assert argv("test")[:4] == ["-m", "pytest", "-n", "auto"]
    assert argv("test", "ARGS=-k 'a or b' -n 0")[-4:] == ["-k", "a or b", "-n", "0"]


def test_lint_checks_style_imports_and_types():
    done = make("-n", "lint", "READY=")
    for words in ("ruff check .", "ruff format --check .", "lint-imports", "mypy"):
        assert words in done.stdout
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "name a config: make train CONFIG="),
        (["train", "CONFIG=pyproject.toml", "ADAPTER=a"], "train takes no ADAPTER: give the weights"),
        (["train", "CONFIG=pyproject.toml", "ARGS=--resume"], "train takes no ARGS: give flags"),
        (["eval"], "name a config: make eval CONFIG="),
        (["eval", "CONFIG=pyproject.toml"], "name the weights: make eval CONFIG=pyproject.toml WEIGHTS="),
        (["predict"], "name a config: make predict CONFIG="),
        (["visualize"], "name a config: make visualize CONFIG="),
        (["report"], "name a run: make report RUN="),
        (["export"], "name a config: make export CONFIG="),
        (
            ["convert", "CONFIG=pyproject.toml"],
            "name the weights: make convert CONFIG=pyproject.toml WEIGHTS=",
        ),
    ],
)
def test_missing_arguments_end_in_one_line_before_any_set_up(tmp_path, arguments, words):
    done = make(*arguments, f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "venv").exists()


def test_help_explains_every_target():
    text = make().stdout
    rules = (line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY: help"))
    targets = next(rules).split()[1:]
    assert len(targets) >= 10
    for target in targets:
        assert f"\n  {target} " in text
        assert target == "help" or f" make {target}" in text


@pytest.fixture
def set_up(tmp_path):
    """``set_up(*make_arguments, **env)`` with the stand-in Python; returns (process, log of this run)."""
    base, log = script(tmp_path / "base-python", FAKE_PYTHON), tmp_path / "log"

    def run(*arguments, **env):
        log.write_text("")
        done = make("setup", f"VENV={tmp_path}/venv", f"PYTHON={base}", *arguments, LOG=str(log), **env)
        return done, log.read_text()

    return run


def detectron2_installs(log):
    return [line.split()[-1] for line in log.splitlines() if "--skip-build" in line]


def test_set_up_runs_once(set_up, tmp_path):
    done, log = set_up()
    assert done.returncode == 0, done.stderr
    assert detectron2_installs(log) == ["pb1-detectron2==0.6"]
    assert "uv pip install -r " in log
    assert log.rstrip().endswith("-e .")
    assert len(list(tmp_path.glob("venv/.ready-*"))) == 1
    assert not (tmp_path / "venv" / ".unfinished").exists()
    assert set_up()[1] == ""


def test_chosen_detectron2_is_remembered(set_up):
    assert detectron2_installs(set_up("DETECTRON2=some-fork==1.2")[1]) == ["some-fork==1.2"]
    done, log = set_up()
    assert log == ""
    assert "some-fork==1.2" in done.stdout
    assert detectron2_installs(set_up("DETECTRON2=pb1-detectron2==0.6")[1]) == ["pb1-detectron2==0.6"]


def test_interrupted_set_up_starts_over(set_up, tmp_path):
    assert set_up(FAIL_AT="install -r", DETECTRON2="some-fork==1.2")[0].returncode != 0
    (tmp_path / "venv" / "half-installed").touch()
    done, log = set_up()
    assert done.returncode == 0, done.stderr
    assert "base-python -m venv" in log
    assert not (tmp_path / "venv" / "half-installed").exists()


def test_detectron2_that_does_not_install(set_up):
    done, _ = set_up("DETECTRON2=some-fork==1.2", FAIL_AT="some-fork")
    assert done.returncode != 0
    assert "error: cannot install detectron2 from 'some-fork==1.2'; make setup DETECTRON2=" in done.stderr
    assert set_up("DETECTRON2=pb1-detectron2==0.6")[0].returncode == 0


def test_old_python_is_one_line(set_up, tmp_path):
    done, log = set_up(TOO_OLD="1", VERSION="3.8.18")
    assert done.returncode != 0
    assert "no Python 3.11 or newer" in done.stderr
    assert "is Python 3.8.18" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert log == ""
    assert not (tmp_path / "venv").exists()


def test_pins_hold_everything_and_no_place():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert all("==" in line for line in pins)
    assert any(line == "pb1-detectron2==0.6" for line in pins)
    assert not any("/" in line or "@" in line for line in lines)
