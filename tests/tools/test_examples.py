"""The examples that tools show with --help are command lines that they accept."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest
from helpers.tools import ROOT, load_tool

TOOLS = sorted(path.stem for path in ROOT.glob("tools/*.py"))


class Stopped(Exception):
    """Carries the parser that a tool wanted to use."""


def parser_of(name: str, monkeypatch) -> argparse.ArgumentParser:
    def stop(parser, *args, **kwargs):
        raise Stopped(parser)

    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        for method in ("parse_args", "parse_known_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, method, stop)
        load_tool(name).main([])
    return stopped.value.args[0]


def examples(text: str, name: str) -> list[list[str]]:
    """The arguments of every call of the tool in `text`; long ones go on after a backslash."""
    lines = text.replace("\\\n", " ").splitlines()
    calls = [re.split(rf"\b{name}\.py ", line, maxsplit=1)[1] for line in lines if f"{name}.py " in line]
    return [shlex.split(call) for call in calls]


@pytest.mark.parametrize("name", TOOLS)
def test_examples_are_accepted(name, monkeypatch):
    parser = parser_of(name, monkeypatch)
    parser.allow_abbrev = False  # a flag that is not spelled out is one that does not exist
    calls = examples(f"{parser.description}\n{parser.epilog}", name)
    assert calls, "a tool shows an example"
    for call in calls:
        parser.parse_intermixed_args(call)
