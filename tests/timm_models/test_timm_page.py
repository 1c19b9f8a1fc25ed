"""The page and the notebook about timm models keep their word."""

from __future__ import annotations

import pytest
from helpers.pages import code_blocks, run_notebook
from helpers.tools import ROOT


@pytest.mark.slow
def test_the_page_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in code_blocks("timm.md"):
        exec(compile(block, "timm.md", "exec"), names)
    assert capsys.readouterr().out.strip() in (ROOT / "docs/timm.md").read_text()
    assert (tmp_path / "adapter.safetensors").is_file()


@pytest.mark.slow
def test_the_notebook_learns_what_only_infrared_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_notebook("timm.ipynb")
    assert names["accuracy"] > 0.95
    assert names["without"] < 0.75
