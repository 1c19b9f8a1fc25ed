"""Config files and values that the tools refuse, whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.isolation import Case, refuse
from helpers.tools import ROOT

from ivtuning.config import load_config
from ivtuning.errors import UserError

TRAIN = "tools/train_net.py"
QUICK = str(ROOT / "configs/quick/ivtuning.py")


def _config(name: str, content: str | bytes, *arguments: str):
    """Fills a folder with a config file, and names it."""

    def prepare(folder: Path) -> list[str]:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["--config-file", name, *arguments]

    return prepare


def _quick(*arguments: str):
    return lambda folder: ["--config-file", QUICK, *arguments]


FILES = [
    ("name.py", "train = dict(\n    a=foo)\n", "name.py:2: NameError: name 'foo' is not defined"),
    ("module.py", "\nimport nomodule\n", "module.py:2: ModuleNotFoundError"),
    ("zero.py", "train = dict(a=1 / 0)\n", "zero.py:1: ZeroDivisionError"),
    ("exit.py", "raise SystemExit(0)\n", "exit.py:1: SystemExit"),
    ("own.py", "from .own import train\n", "own.py: it imports itself"),
    ("other.py", "from .missing import train\n", "other.py:1: ImportError"),
    ("open.py", "train = dict(\n    a=1,\n", "open.py:1: syntax error"),
    ("lazy.py", "from detectron2.config import LazyCall as L\nm = L(3)()\n", "lazy.py:2: TypeError"),
    ("latin.py", b"a = 1\nx = '\xe9'\n", "latin.py:2: not UTF-8"),
    ("bom.py", b"\xef\xbb\xbftrain = dict(a=1)\n", "bom.py: it starts with a byte-order mark"),
    ("wide.py", "train = dict(a=1)\n".encode("utf-16"), "not in UTF-8"),
    ("zero_byte.py", b"x = 1\n\0", "zero_byte.py:2: a zero byte"),
    ("tab.yaml", "a:\n\tb: 1\n", "tab.yaml:2: no valid YAML"),
    ("bracket.yaml", "a: [1\nb: 2\n", "bracket.yaml:2: no valid YAML"),
    ("tag.yaml", "a: !!foo bar\n", "tag.yaml:1: no valid YAML"),
    ("list.yaml", "- a\n- b\n", "is a list"),
    ("empty.yaml", "", "without content"),
    ("reference.yaml", "a: ${b\n", "reference.yaml: GrammarParseError"),
]


@pytest.mark.parametrize("name, content, words", FILES, ids=[name for name, _, _ in FILES])
def test_faults_of_config_files_name_the_line(name, content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _config(name, content)(tmp_path)
    with pytest.raises(UserError) as caught:
        load_config(name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_fault_in_an_imported_file_is_named_there(tmp_path):
    (tmp_path / "base.py").write_text("a = 1\nb = c\n")
    (tmp_path / "top.py").write_text("from .base import b\n")
    with pytest.raises(UserError, match=r"base\.py:2: NameError"):
        load_config(tmp_path / "top.py")
    assert load_config("configs/quick/ivtuning.py")  # Python's import is as it was


CASES = [
    Case("a config with a wrong name", TRAIN, _config("a.py", "x = y\n"), ["a.py:1", "NameError"]),
    Case("text as YAML", TRAIN, _config("a.yaml", "hello\n"), ["a.yaml has no dataloader"]),
    Case("an empty file", TRAIN, _config("a.py", "", "--weights", "x.pth"), ["a.py has no dataloader"]),
    Case("a group too few", "tools/analyze_model.py", _config("a.py", "train = dict(a=1)\n"), ["no model"]),
    Case("a folder", TRAIN, lambda folder: ["--config-file", str(ROOT / "configs/quick")], ["is a folder"]),
    Case(
        "a misspelled file", TRAIN, lambda folder: ["--config-file", "quick/ivtunin"], ["quick/ivtuning.py"]
    ),
    Case("no iterations", TRAIN, _quick("train.max_iter=0"), ["train.max_iter", "equal to 1"]),
    Case("no method", TRAIN, _quick("method=ful"), ["no method 'ful'; did you mean 'Full'?"]),
    Case("no such set", TRAIN, _quick("dataloader.test.dataset.names=m3fd_val"), ["no data set is called"]),
    Case("no weights", TRAIN, _quick("--eval-only"), ["nothing to evaluate"]),
    Case("a size of nothing", TRAIN, _quick("model.backbone.net.patch_size=0"), ["model.backbone.net"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tools_refuse(case, tmp_path, synthetic):
    environment = (("DETECTRON2_DATASETS", str(synthetic)),)
    refuse(Case(case.name, case.tool, case.prepare, case.says, environment), tmp_path)
