#!/usr/bin/env python
"""Check every command that README and the pages show: targets, flags, configs, overrides, names of sets.

With --run, also run those that take seconds, made short, in a copy of the repository, and compare what they
print with what the page shows.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

from ivtuning.config.command_line import ToolParser
from ivtuning.errors import UserError, run_tool

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = "tools/check_docs.py --run"
# Code blocks of these languages hold commands, among pictures of folders and equations.
LANGUAGES = ("", "sh", "bash", "console")
START = re.compile(r"(make|python3?|\.venv/bin/python|(tools|datasets)/\w+\.py)\b")
CONFIGURED = ("train", "eval", "convert", "predict", "visualize", "export")  # targets that need CONFIG
# Stands in for a config that the reader is told to write.
ANY_CONFIG = "configs/synthetic/ivtuning.py"
PRINT_ARGV = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"

_SMALL = (
    "model.backbone.net.embed_dim=24 model.backbone.net.num_heads=2 model.backbone.out_channels=16 "
    "model.roi_heads.box_head.conv_dims=[16] model.roi_heads.box_head.fc_dims=[32] train.init_checkpoint= "
    "dataloader.train.total_batch_size=2 dataloader.train.num_workers=0 dataloader.test.num_workers=0"
)
_CONFIG = f"CONFIG={ANY_CONFIG}"
_WEIGHTS = f"{_CONFIG} WEIGHTS=output/synthetic/ivtuning/model_final.pth"
# Commands that run in order with --run, and what makes them short.
SHORT = {
    "make help": "",
    f"make train {_CONFIG} train.max_iter=100": f"train.max_iter=1 {_SMALL}",
    f"make eval {_WEIGHTS}": _SMALL,
    f'make visualize {_WEIGHTS} OUTPUT=output/pictures ARGS="--dataset synthetic_val"': _SMALL,
}


class Command(NamedTuple):
    """One command of a page.

    Attributes:
        where: the page and the line it starts on.
        text: the command, on one line and without comment.
        page: the page's text.
        inline: it stands in a sentence, which may leave out arguments.
        output: what the page shows that it prints.
    """

    where: str
    text: str
    page: str
    inline: bool = False
    output: str = ""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def pages() -> list[Path]:
    """The pages with commands."""
    top = [ROOT / name for name in ("README.md", "RECIPES.md", "CONTRIBUTING.md", "datasets/README.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def commands(path: Path) -> Iterator[Command]:
    """All commands of the page at `path`, those in tables of RECIPES.md included."""
    page = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT))
    prose = page
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", page, re.MULTILINE | re.DOTALL):
        prose = prose.replace(block[0], "\n" * block[0].count("\n"))
        if block[2] in LANGUAGES:
            yield from _of_block(block[3], page.count("\n", 0, block.start(3)) + 1, name, page)
    for span in re.finditer(r"`([^`]+)`", prose):
        text = " ".join(span[1].split())
        if START.match(text) and " " in text:
            yield Command(f"{name}:{prose.count(chr(10), 0, span.start()) + 1}", text, page, inline=True)
    yield from _of_tables(prose, name, page)


def _of_block(block: str, first: int, name: str, page: str) -> Iterator[Command]:
    shown = re.match(r"\$ (.*)\n", block)
    if shown:
        yield Command(f"{name}:{first}", shown[1], page, output=block[shown.end() :])
        return
    loop: tuple[str, list[str]] | None = None
    number, lines = first, iter(block.split("\n"))
    for line in lines:
        at, text = number, line.strip()
        while text.endswith("\\"):
            text, number = text[:-1] + next(lines).strip(), number + 1
        number += 1
        text = re.sub(r"(^|\s+)# .*", "", text)
        if begins := re.match(r"for (\w+) in (.*); do", text):
            loop = begins[1], begins[2].split()
        elif text == "done":
            loop = None
        elif START.match(text):
            for value in loop[1] if loop else [""]:
                yield Command(f"{name}:{at}", text.replace(f"${loop[0]}", value) if loop else text, page)


def _of_tables(prose: str, name: str, page: str) -> Iterator[Command]:
    """Cells such as `method=Full` below one with ``CONFIG=``: the command is `make train` with both."""
    config = ""
    for number, line in enumerate(prose.split("\n"), 1):
        cells = re.findall(r"`([^`]+)`", line) if line.startswith("|") else []
        config = "" if not line.startswith("|") else config
        for cell in cells:
            if cell.startswith("CONFIG="):
                config = cell
                yield Command(f"{name}:{number}", f"make train {config}", page)
            elif config and re.match(r"[a-z][\w.]*=", cell):
                yield Command(f"{name}:{number}", f"make train {config} {cell}", page)


def fault(command: Command) -> str | None:
    """What is wrong with a command, without running it; None if nothing is."""
    examples = re.findall(r"such as\s+`(configs/[^`]+)`", command.page)
    words = command.words
    for example in examples:
        words = [word.replace(example, ANY_CONFIG) for word in words]
    # A class that the page tells the reader to write is not there yet.
    written = set(re.findall(r"^class (\w+)\(", command.page, re.MULTILINE))
    unknown = bool(written & set(re.split(r"[\s=]", command.text))) or any(
        e in command.text for e in examples
    )
    try:
        if words[0] == "make":
            words = _behind_make(words, command.inline)
        elif Path(words[0]).name.startswith("python"):
            words = words[1:]
        if words and re.fullmatch(r"(tools|datasets)/\w+\.py", words[0]):
            _check_script(words[0], words[1:], command, unknown)
    except UserError as error:
        return str(error)
    return None


def _behind_make(words: list[str], inline: bool) -> list[str]:
    """The script and arguments that a make target calls; [] where it calls none of ours."""
    targets = re.findall(r"^([a-z]+):.* ## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    target = words[1]
    if target not in targets:
        raise UserError(f"make has no target {target}")
    if target in ("help", "setup", "test", "lint", "pins", "clean"):
        return []
    if inline and target in CONFIGURED and not any(word.startswith("CONFIG=") for word in words):
        return []
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "python")
        python.write_text(PRINT_ARGV)
        python.chmod(0o755)
        done = _run([*words, f"PY={python}", "READY=", "--no-print-directory"], ROOT)
    if done.returncode:
        raise UserError(" ".join(done.stderr.split()))
    argv = json.loads(done.stdout)
    script = next(word for word in argv if word.startswith("tools/"))  # behind a launcher
    return argv[argv.index(script) :]


def _check_script(script: str, argv: list[str], command: Command, unknown: bool) -> None:
    if not (ROOT / script).is_file():
        raise UserError(f"there is no {script}")
    parser = _parser(script)
    for flag in (word for word in argv if word.startswith("--")):
        if flag.partition("=")[0] not in parser._option_string_actions:
            raise UserError(f"{script} has no flag {flag}")
    if command.inline and "--config-file" not in argv:
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parser.parse_intermixed_args(argv)
    except SystemExit:
        raise UserError(" ".join(said.getvalue().split())) from None
    if getattr(args, "config_file", None) and not unknown:
        from ivtuning.config import load_config

        # Files that the page tells the reader to make are not there yet.
        own = any(word.startswith("data.") or word.endswith(".json") for word in args.overrides)
        with mock.patch("ivtuning.config.derive") if own else contextlib.nullcontext():
            load_config(ROOT / args.config_file, args.overrides)
    for name in (*getattr(args, "sets", ()), *filter(None, [getattr(args, "dataset", None)])):
        _check_set(name, command.page)


def _check_set(name: str, page: str) -> None:
    """Raise UserError unless `name` is a JSON, a registered set, or one that the page prepares."""
    from ivtuning.data.catalog import metadata
    from ivtuning.data.datasets import classification, detection, segmentation  # noqa: F401

    prepared = re.findall(r"--set (\w+)", page)
    if not name.endswith(".json") and not any(name.startswith(f"{known}_") for known in prepared):
        metadata(name)


class _Stopped(BaseException):
    """Carries the parser that a script wanted to use."""


def _parser(script: str) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Stopped(parser)

    with contextlib.ExitStack() as patches:
        for method in ("parse_args", "parse_known_args", "parse_intermixed_args"):
            patches.enter_context(mock.patch.object(argparse.ArgumentParser, method, stop))
        try:
            _load(script).main([])
        except _Stopped as stopped:
            parser = stopped.args[0]
            parser.allow_abbrev = False  # a flag that is not spelled out is one that does not exist
            return parser
    raise UserError(f"{script} reads no command line")


def _load(script: str) -> ModuleType:
    path = ROOT / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{script} is no Python file")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(module)
    return module


def run_short(found: Sequence[Command], only: Sequence[str] = ()) -> Iterator[str]:
    """Run the commands of SHORT and those whose output a page shows; yields what is wrong.

    Args:
        only: run these alone.
    """
    from ivtuning.data.synthetic.generate import generate

    known = {command.text for command in found}
    yield from (f"SHORT: no page has the command {text!r} any more" for text in SHORT.keys() - known)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("configs", "projects", "tools"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Makefile", copy)
        generate(copy / "datasets/synthetic", train=8, val=4)
        for text, changes in SHORT.items():
            if only and text not in only:
                continue
            print(f"$ {text}", flush=True)
            words = [*shlex.split(text), *shlex.split(changes), f"PY={sys.executable}", "READY="]
            done = _run(words, copy)
            if done.returncode:
                yield f"{text}: {done.stderr.strip().splitlines()[-1]}"
        for command in found:
            if command.output and (not only or command.text in only):
                print(f"$ {command.text}", flush=True)
                done = _run([sys.executable, *command.words], copy)
                if done.stdout.split() != command.output.split():
                    yield f"{command.where}: `{command.text}` prints something else:\n{done.stdout}"


def _run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # Where make runs this tool, its own flags and variables, such as ARGS, stand in the environment as well.
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PYTHONPATH"] = str(folder / "projects")
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def main(argv: Sequence[str]) -> int:
    parser = ToolParser(__doc__, EXAMPLE)
    parser.add_argument("--run", action="store_true", help="also run the short commands")
    args = parser.parse_args(argv)
    found = [command for page in pages() for command in commands(page)]
    faults = [f"{c.where}: `{c.text}`: {line}" for c in found if (line := fault(c))]
    if args.run:
        faults += run_short(found)
    for line in faults:
        print(f"error: {line}", file=sys.stderr)
    print(f"{len(found)} commands checked, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    run_tool(main)
