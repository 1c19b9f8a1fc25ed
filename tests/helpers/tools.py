"""The repository's folder and its command-line tools."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ivtuning.errors import run_tool

ROOT = Path(__file__).resolve().parents[2]
# Real pairs, if they lie beside the repository; tests that need them are skipped otherwise.
REAL = ROOT.parent / "shared" / "data"
MSRS = REAL / "MSRS"


def load_tool(name: str, folder: str = "tools") -> ModuleType:
    """The script `name` of `folder`, as a freshly imported module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def help_without_packages(name: str, folder: str, cwd: Path) -> str:
    """What a script's --help prints where neither ivtuning nor any other package can be imported."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-S", str(ROOT / folder / f"{name}.py"), "--help"]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


def package_environment() -> dict[str, str]:
    """The environment in which a new Python process imports the same packages as this one."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def line_of(capsys, argv: list[str], tool: str = "train_net") -> str:
    """Run a tool that must fail; returns its one line on stderr."""
    with pytest.raises(SystemExit) as exit:
        run_tool(load_tool(tool).main, argv)
    assert exit.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]
