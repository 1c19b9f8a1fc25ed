"""What importing the package costs, and what it needs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers.tools import ROOT

import ivtuning


def output(code: str) -> list[str]:
    """The words that `code` prints in a new process."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split()


@pytest.mark.parametrize("module", ["ivtuning", "ivtuning.config", "ivtuning.errors"])
def test_import_is_cheap(module):
    heavy = ("torch", "numpy", "PIL", "omegaconf", "hydra", "detectron2")
    assert output(f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])") == []


@pytest.mark.slow
def test_tuning_and_models_of_timm_need_no_detectron2():
    code = """
        import sys
        sys.modules["detectron2"] = None  # any import of it fails
        import ivtuning, ivtuning.tuning, ivtuning.timm_models
        from ivtuning.hub.names import local_path
        print(ivtuning.__version__, len(ivtuning.tuning.TUNERS) > 0)
    """
    assert output(code) == [ivtuning.__version__, "True"]


def test_public_names_are_loaded_when_they_are_used():
    from ivtuning.checkpoint import load_adapter, save_adapter
    from ivtuning.config import load_config
    from ivtuning.engine.run import load_model
    from ivtuning.predictor import Predictor

    names = dict(load_adapter=load_adapter, save_adapter=save_adapter, load_config=load_config)
    names |= dict(load_model=load_model, Predictor=Predictor)
    assert {name: getattr(ivtuning, name) for name in names} == names
    assert {*names, "__version__"} <= set(dir(ivtuning)) & set(ivtuning.__all__)
    with pytest.raises(AttributeError, match="'ivtuning' has no attribute 'nothing'"):
        ivtuning.nothing  # noqa: B018


FIRST = (
    "import detectron2.data",
    "from detectron2.config import LazyConfig; LazyConfig.load('configs/quick/ivtuning.py')",
)


@pytest.mark.slow
@pytest.mark.parametrize("first", FIRST)
def test_detectron2_may_come_first_where_make_has_set_up(first, tmp_path, monkeypatch):
    makefile = (ROOT / "Makefile").read_text()
    start = makefile.partition("define START\n")[2].partition("endef")[0]
    (tmp_path / "sitecustomize.py").write_text(start)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert output(f"{first}; import ivtuning.engine.run; print('fine')")[-1] == "fine"


def imports_detectron2(file: Path) -> bool:
    """Whether the module imports it at its top."""
    names = []
    for node in ast.parse(file.read_text()).body:
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
    return any(name.split(".")[0] == "detectron2" for name in names)


def test_every_room_that_imports_detectron2_prepares_it():
    package = ROOT / "projects" / "ivtuning"
    files = [file for file in package.rglob("*.py") if imports_detectron2(file)]
    assert len(files) > 30
    for file in files:
        # Python runs the packages that a module is in before the module itself.
        parents = [folder / "__init__.py" for folder in file.parents if package in folder.parents]
        assert any("\ncompat.prepare()\n" in first.read_text() for first in [*parents, file]), file
