"""Thread settings: in place before torch is loaded, and never against the user's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.tools import ROOT

from ivtuning.errors import run_tool
from ivtuning.threads import SETTINGS, set_thread_defaults


@pytest.fixture
def clean(monkeypatch):
    for name in (*SETTINGS, "OMP_WAIT_POLICY", "KMP_LIBRARY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def test_settings_fill_an_empty_environment(clean):
    set_thread_defaults()
    assert {name: os.environ[name] for name in SETTINGS} == SETTINGS


@pytest.mark.parametrize(
    ("name", "value", "unset"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME"]),
        ("KMP_LIBRARY", "turnaround", ["KMP_BLOCKTIME"]),
        ("GOMP_SPINCOUNT", "infinity", []),
    ],
)
def test_the_users_choice_stays(clean, monkeypatch, name, value, unset):
    monkeypatch.setenv(name, value)
    set_thread_defaults()
    assert os.environ[name] == value
    assert [key for key in SETTINGS if key not in os.environ] == unset


def test_every_tool_sets_them(clean):
    seen = []
    with pytest.raises(SystemExit):
        run_tool(lambda argv: seen.append(os.environ["GOMP_SPINCOUNT"]), [])
    assert seen == [SETTINGS["GOMP_SPINCOUNT"]]


@pytest.mark.slow
def test_they_come_before_torch(clean):
    """GNU's OpenMP and OpenCV read them once, when they are loaded."""
    code = (
        "import sys; from ivtuning.errors import run_tool; assert 'torch' not in sys.modules\n"
        "def main(argv):\n    import cv2, torch\n    print(cv2.getNumThreads())\n"
        "run_tool(main)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "projects"), "OMP_DISPLAY_ENV": "verbose"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1"
    if "libgomp" in run.stderr or "GOMP_SPINCOUNT" in run.stderr:
        assert f"GOMP_SPINCOUNT = '{SETTINGS['GOMP_SPINCOUNT']}'" in run.stderr
