"""The commands of the documentation: all are found, none is wrong, and faults of every kind are seen."""

from __future__ import annotations

import shutil

import pytest
from helpers.tools import ROOT, load_tool

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make")


@pytest.fixture(scope="module")
def tool():
    return load_tool("check_docs")


@pytest.fixture(scope="module")
def found(tool):
    return [command for page in tool.pages() for command in tool.commands(page)]


def test_commands_of_all_forms_are_found(found):
    texts = {command.text for command in found}
    assert {
        "make demo",
        # over two lines, with quotes
        "make visualize CONFIG=configs/synthetic/ivtuning.py "
        "WEIGHTS=output/synthetic/ivtuning/model_final.pth OUTPUT=output/pictures "
        'ARGS="--dataset synthetic_val"',
        # with a comment behind
        "python datasets/prepare_m3fd.py --source /data/M3FD_Detection",
        # in a loop
        "make train CONFIG=configs/MSRS/nano_ivtuning.py method=infrared train.eval_period=100",
        # in a sentence
        "tools/visualize.py --queries 8",
        # in a table
        "make train CONFIG=configs/M3FD/vitdet_ivtuning_b.py method=parity",
        "tools/analyze_model.py --trunk swin_l --all-tuners",
    } <= texts
    shown = {command.text for command in found if command.output}
    assert len(shown) == 2 and all(text.startswith("tools/analyze_model.py") for text in shown)
    assert len({command.where.split(":")[0] for command in found}) > 10


def test_lines_are_those_of_the_page(tool):
    page = (ROOT / "README.md").read_text(encoding="utf-8").split("\n")
    for command in tool.commands(ROOT / "README.md"):
        line = page[int(command.where.split(":")[1]) - 1]
        assert command.words[0] in line


@pytest.mark.slow
def test_every_documented_command_is_right(tool, found):
    assert [f"{c.where}: {c.text}: {line}" for c in found if (line := tool.fault(c))] == []


def test_variables_of_the_make_that_runs_the_tool_do_not_count(tool, monkeypatch):
    monkeypatch.setenv("ARGS", "--no-such-flag")
    monkeypatch.setenv("MAKEFLAGS", " -- ARGS=--no-such-flag")
    assert not tool.fault(tool.Command("page:1", "make demo", ""))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("make trian CONFIG=configs/synthetic/ivtuning.py", "no target trian"),
        ("make train CONFIG=configs/synthetic/ivtunign.py", "no config file"),
        ("make train CONFIG=configs/synthetic/ivtuning.py train.max_itre=1", "max_iter"),
        ("make train CONFIG=configs/synthetic/ivtuning.py method=Monna", "Mona"),
        ("make eval CONFIG=configs/synthetic/ivtuning.py", "name the weights"),
        ('make bench ARGS="model --config-flie x.py"', "no flag --config-flie"),
        ('make visualize CONFIG=configs/synthetic/ivtuning.py OUTPUT=o ARGS="--dataset m3fd_vall"', "m3fd_"),
        ("tools/visulize.py --curves a", "no tools/visulize.py"),
        ("tools/visualize.py --curves a", "--output"),
        ("tools/visualize.py --querys 8", "no flag --querys"),
        ("tools/export_adapter.py --config-file configs/M3FD/vitdet_b.py --weights w --output o", "vitdet_"),
        ("python datasets/prepare_m3fd.py --sauce /data", "no flag --sauce"),
        ("python datasets/prepare_segmentation.py --source /data", "--set"),
        ("python datasets/check_pairs.py m3fd_scene_trian", "m3fd_scene_train"),
    ],
)
def test_faults_are_seen(tool, text, words):
    assert words in tool.fault(tool.Command("page:1", text, page=""))


def test_what_a_page_lets_the_reader_write_is_no_fault(tool):
    page = "into one of your own, such as `configs/street/mine.py`\nclass SSF(Tuner):\n--set street"
    for text in (
        "make train CONFIG=configs/street/mine.py model.no_such=1",
        "make train CONFIG=configs/synthetic/ivtuning.py model.backbone.net.tuner=SSF",
        "python datasets/check_pairs.py street_random_train my.json",
    ):
        assert tool.fault(tool.Command("page:1", text, page)) is None


@pytest.mark.slow
def test_short_commands_run(tool, found):
    """The quickest of them; all take a minute, and other tests call the same tools."""
    train, visualize = (
        next(t for t in tool.SHORT if t.startswith(f"make {n} ")) for n in ("train", "visualize")
    )
    assert list(tool.run_short(found, only=["make help", train, visualize])) == []
    gone = [command for command in found if command.text != train]
    assert any("no page has" in line for line in tool.run_short(gone, only=["make help"]))
