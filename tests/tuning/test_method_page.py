"""docs/method.md: its counts are those of the modules, and what refers to it names sections that exist."""

from __future__ import annotations

import ast
import re

import pytest
import torch
from helpers.tools import ROOT
from torch import nn

from ivtuning.backbones.presets import TRUNKS
from ivtuning.tuning import TUNERS
from ivtuning.tuning.iv_tuning.modules import HybridAdapter, PromptAdapter, PromptGenerator
from ivtuning.tuning.stems import PromptStem, VisibleOnly

PAGE = (ROOT / "docs/method.md").read_text(encoding="utf-8")


def rows(first: str) -> list[dict[str, str]]:
    """The rows of all tables whose first column is called `first`, by column."""
    result = []
    for table in re.findall(rf"^(\| {first} \|.*\n(?:\|.*\n)+)", PAGE, re.MULTILINE):
        header, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        result += [dict(zip(header, line, strict=True)) for line in lines]
    return result


def value(formula: str, width: int) -> int:
    """A formula in C, such as ``133 C + 8672``, at C = `width`."""
    factor, constant = re.fullmatch(r"`(\d+) C(?: \+ (\d+))?`", formula).groups(default="0")
    return int(factor) * width + int(constant)


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def whole_counts() -> list[tuple[str, str, int]]:
    return [
        (row["trunk"], column, int(cell.replace(",", "")))
        for row in rows("trunk")
        for column, cell in row.items()
        if column != "trunk"
    ]


@pytest.mark.parametrize("trunk, column, expected", whole_counts())
def test_counts_of_whole_trunks(trunk, column, expected):
    name, *options = ["Frozen"] if column == "base" else column.split()
    options = {key: ast.literal_eval(text) for key, _, text in (option.partition("=") for option in options)}
    stem = PromptStem if name == "IVTuning" else VisibleOnly
    with torch.device("meta"):
        net = TRUNKS[trunk](stem(), TUNERS[name](**options))
    parameters = (
        net.base_parameters() if column == "base" else (p for p in net.parameters() if p.requires_grad)
    )
    assert count(parameters) == expected


def test_all_tables_are_read():
    assert len(whole_counts()) == 11 * 4 + 3 * 8


@pytest.mark.parametrize("row", rows("method")[-5:], ids=lambda row: row["method"])
def test_counts_per_block(row):
    for width in (96, 768):
        tuner = TUNERS[row["method"].strip("`")]()
        with torch.device("meta"):
            tuner.attach([width])
        assert count(tuner.parameters()) == value(row["parameters per block"], width)


@pytest.mark.parametrize(
    "part, build",
    [
        ("HA", lambda width: HybridAdapter(width, 64, 0.1, "BN")),
        ("IPA", lambda width: PromptAdapter(width, 8)),
        ("EMPG", lambda width: PromptGenerator(width)),
        ("g", nn.LayerNorm),
    ],
)
def test_counts_of_parts(part, build):
    (formula,) = (list(row.values())[-1] for row in rows("part") if row["part"] == part)
    for width in (96, 768):
        assert count(build(width).parameters()) == value(formula, width)


def test_sections_that_docstrings_name_exist():
    named = set()
    for file in (ROOT / "projects").rglob("*.py"):
        named |= set(re.findall(r"docs/method\.md (\d(?:\.\d)?)", file.read_text(encoding="utf-8")))
    sections = set(re.findall(r"^#+ (\d(?:\.\d)?) ", PAGE, re.MULTILINE))
    assert {"1.4", "1.5", "2"} <= named <= sections
