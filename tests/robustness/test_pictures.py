"""Curves, pictures, costs and benchmarks of bad input: one line, exit code 1, and no file left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers.isolation import Case, refuse

VISUALIZE, BENCHMARK = "tools/visualize.py", "tools/benchmark.py"
LINE = '{"iteration": 1, "total_loss": 2.0}\n'


def given(*argv: str) -> Callable[[Path], Sequence[str]]:
    return lambda folder: argv


def metrics(text: str) -> Callable[[Path], Sequence[str]]:
    """A run whose metrics.json holds `text`, and the arguments that draw its curves."""

    def prepare(folder: Path) -> Sequence[str]:
        (folder / "run").mkdir()
        (folder / "run/metrics.json").write_text(text)
        return ["--curves", "run", "--output", "out"]

    return prepare


CASES = [
    Case("empty metrics", VISUALIZE, metrics(""), ["run/metrics.json", "let the run go on"]),
    Case("a line of text", VISUALIZE, metrics(f"hello\n{LINE}"), ["run/metrics.json:1", "remove that line"]),
    Case("a nested list", VISUALIZE, metrics("[" * 100_000 + f"\n{LINE}"), ["metrics.json:1"]),
    Case("no run", VISUALIZE, given("--curves", "gone", "--output", "out"), ["gone/metrics.json"]),
    Case("two sets", VISUALIZE, given("--dataset", "a,b", "--output", "out"), ["a,b", "one set after"]),
    Case(
        "labels of a kind that is none",
        VISUALIZE,
        given("--dataset", "a", "--output", "out", "--labels", "names"),
        ["--labels", "names", "class"],
    ),
    Case("an unknown flag", VISUALIZE, given("--outptu", "x"), ["--help"]),
    Case("an unknown part", BENCHMARK, given("setp"), ["setp", "step"]),
    Case("a size of text", BENCHMARK, given("step", "--size", "big"), ["--size big", "in pixels"]),
    Case("a batch of 0", BENCHMARK, given("step", "--batch", "0"), ["--batch", "whole number from 1"]),
    Case("a flag of the demo", "tools/demo.py", given("--outptu", "x"), ["--outptu", "--help"]),
    Case("a row that is none", "tools/compare.py", given("--only", "Monna"), ["Monna", "'Mona'"]),
    Case(
        "a trunk that is none", "tools/analyze_model.py", given("--trunk", "swin", "--all-tuners"), ["swin_"]
    ),
    Case("a flag of the checks", "tools/check_docs.py", given("--now"), ["--now", "--help"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_refused(case, tmp_path):
    refuse(case, tmp_path)
