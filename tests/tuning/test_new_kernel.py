"""The kernel of docs/new_kernel.md agrees with its plain definition, by the test that the page gives."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from helpers.pages import code_blocks

pytest.importorskip("triton")


def test_the_page_keeps_its_word(tmp_path, monkeypatch):
    kernel, check = code_blocks("new_kernel.md")
    path = tmp_path / "scale_shift_of_the_page.py"  # Triton reads the kernel's source from its file
    path.write_text(kernel)
    spec = importlib.util.spec_from_file_location("ivtuning.tuning.triton_scale_shift", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, spec.name, module)
    names: dict = {}
    exec(compile(check, "new_kernel.md", "exec"), names)
    names["test_agrees_with_the_plain_definition"]()
