"""Runs a tool on bad input in a process of its own, and checks what the user is left with.

A fork server imports the packages once; each case then costs no more than its own work.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.tools import ROOT

_PRELOADED = [
    "helpers.isolation",
    "ivtuning.engine.run",
    "ivtuning.config",
    "ivtuning.data.verify.verification",
    "ivtuning.predictor.folder",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)


@dataclass(frozen=True)
class Case:
    """A bad input and the line that it must get.

    Attributes:
        name: what is wrong, in a few words; the test's name.
        tool: the script that is run, from the repository's root.
        prepare: fills an empty folder with the input, and returns the tool's arguments. The tool runs in
            that folder.
        says: what the line must contain: the place, and the remedy.
        environment: variables set for the tool.
    """

    name: str
    tool: str
    prepare: Callable[[Path], Sequence[str]]
    says: Sequence[str]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """How a tool ended: its exit code (negative: the signal that killed it) and all that it printed."""

    code: int
    out: str
    err: str


def run(
    tool: str,
    argv: Sequence[str],
    folder: Path,
    environment: dict[str, str] | None = None,
    seconds: float = 120,
) -> Outcome:
    """Run the script `tool` with `argv` in `folder`. A run that takes longer than `seconds` is killed."""
    logs = folder.with_name(f"{folder.name}.logs")
    logs.mkdir(exist_ok=True)
    process = _CONTEXT.Process(
        target=_child, args=(tool, list(argv), str(folder), str(logs), environment or {})
    )
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    out, err = ((logs / name).read_text(errors="replace") for name in ("out", "err"))
    return Outcome(process.exitcode, out, err)


def refuse(case: Case, tmp_path: Path) -> None:
    """Assert that the tool of `case` ends as promised: one line, exit code 1, and nothing left behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    argv = case.prepare(folder)
    before = _contents(folder)
    outcome = run(case.tool, argv, folder, dict(case.environment))
    everything = outcome.out + outcome.err
    assert "Traceback" not in everything, everything
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, everything
    assert outcome.code == 1, f"exit code {outcome.code}"
    assert len(lines[0]) < 700, lines[0]
    for words in case.says:
        assert re.search(re.escape(words), lines[0], re.IGNORECASE), f"{words!r} is not in: {lines[0]}"
    assert _contents(folder) == before, "the refused run changed files"


def _contents(folder: Path) -> dict[str, str]:
    """A digest of every file below `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest() for path in files}


def _child(tool: str, argv: list[str], folder: str, logs: str, environment: dict[str, str]) -> None:
    import torch

    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(os.path.join(logs, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ |= environment
    # The server has registered the sets of its own data root.
    for kind in ("detection", "classification", "classified_pairs"):
        if module := sys.modules.get(f"ivtuning.data.datasets.{kind}"):
            module.register_known()
    os.chdir(folder)
    torch.set_num_threads(1)
    script = ROOT / tool
    sys.argv = [str(script), *argv]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
