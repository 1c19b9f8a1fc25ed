"""What importing the package costs, and what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

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


def test_tuning_needs_torch_alone():
    code = """
        import sys
        sys.modules["detectron2"] = None  # any import of it fails
        import ivtuning, ivtuning.tuning
        print(ivtuning.__version__, len(ivtuning.tuning.TUNERS) > 0)
    """
    assert output(code) == [ivtuning.__version__, "True"]


def test_public_names_are_loaded_when_they_are_used():
    from ivtuning.checkpoint import load_adapter, save_adapter
    from ivtuning.config import load_config
    from ivtuning.engine.run import load_model

    names = dict(load_adapter=load_adapter, save_adapter=save_adapter, load_config=load_config)
    names |= dict(load_model=load_model)
    assert {name: getattr(ivtuning, name) for name in names} == names
    assert {*names, "__version__"} <= set(dir(ivtuning)) & set(ivtuning.__all__)
    with pytest.raises(AttributeError, match="'ivtuning' has no attribute 'nothing'"):
        ivtuning.nothing  # noqa: B018


@pytest.mark.parametrize(
    "module", ["backbones.trunk", "checkpoint", "data.catalog", "engine.run", "evaluation", "meta_arch"]
)
def test_rooms_prepare_detectron2_themselves(module):
    assert output(f"import ivtuning.{module}; print('fine')") == ["fine"]
