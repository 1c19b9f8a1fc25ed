"""Examples of the documentation."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from .tools import ROOT


def code_blocks(page: str, language: str = "python") -> list[str]:
    """The fenced blocks of `language` in docs/`page`, without the indentation that a list gives them."""
    pattern = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    blocks = pattern.findall((ROOT / "docs" / page).read_text())
    return [textwrap.dedent(code) for _, kind, code in blocks if kind == language]


def run_notebook(name: str) -> dict:
    """Run the code of the notebook docs/`name`, cell by cell; returns its variables."""
    variables: dict = {}
    for cell in json.loads((ROOT / "docs" / name).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), variables)
    return variables


@contextlib.contextmanager
def installed(code: str, module: str) -> Iterator[ModuleType]:
    """Inside, `module` can be imported and consists of `code`, as if its file had been written."""
    made = ModuleType(module)
    made.__package__ = module.rpartition(".")[0]
    exec(compile(code, module, "exec"), made.__dict__)
    sys.modules[module] = made
    try:
        yield made
    finally:
        del sys.modules[module]


def configs_with(tmp_path: Path, name: str, code: str) -> Path:
    """A copy of the repository's configs with one more, configs/`name`; returns the new file's path."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "configs" / name
    path.write_text(code)
    return path
