"""The command line that all tools share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivtuning.config import load_config, tool_parser
from ivtuning.errors import run_tool


def test_parser_takes_flags_between_overrides():
    parser = tool_parser("Train.", "train_net.py --config-file x.py train.max_iter=5")
    parser.add_argument("--resume", action="store_true")
    for argv in (
        ["--config-file", "x.py", "a.b=1", "--resume", "c.d=~/e"],
        ["a.b=1", "c.d=~/e", "--resume", "--config-file", "x.py"],
    ):
        args = parser.parse_args(argv)
        assert (args.config_file, args.resume, args.overrides) == ("x.py", True, ["a.b=1", "c.d=~/e"])
    assert parser.parse_args(["--config-file", "x.py"]).overrides == []
    assert tool_parser("Draw.", "x", config_required=False).parse_args(["a.b=1"]).config_file is None
    assert "example:\n  train_net.py --config-file x.py" in parser.format_help()


def test_an_output_in_the_users_home(monkeypatch, tmp_path):
    """A shell does not expand ~ behind an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = tool_parser("Train.", "x", config_required=False)
    parser.add_argument("--output")
    parser.add_argument("--source", type=Path)
    args = parser.parse_args(["--output=~/a", "--source=~/b"])
    assert (args.output, args.source) == (f"{tmp_path}/a", tmp_path / "b")
    cfg = load_config("configs/synthetic/ivtuning.py", ["train.output_dir=~/run"])
    assert cfg.train.output_dir == f"{tmp_path}/run"


@pytest.mark.parametrize("argv", [[], ["--config-file", "x.py", "--resum"]])
def test_wrong_command_line_is_one_line(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        run_tool(tool_parser("Train.", "x").parse_args, argv)
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert lines[0].endswith("--help")
