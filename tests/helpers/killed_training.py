"""tools/train_net.py, which sends itself a signal at a chosen one of the moments that matter.

The variables: KILL_AT is the moment's number, from 1 (0: none), KILL_BY the signal's name, KILL_LOG a file
that gets the name of every moment.
"""

from __future__ import annotations

import functools
import os
import runpy
import signal
import sys
from pathlib import Path

import torch
from detectron2.utils.events import JSONWriter

from ivtuning.data.datasets.detection import register_known
from ivtuning.engine import run
from ivtuning.engine.trainer import Trainer

AT = int(os.environ.get("KILL_AT", "0"))
BY = signal.Signals[os.environ.get("KILL_BY", "SIGKILL")]
LOG = os.environ.get("KILL_LOG")
passed: list[str] = []


def moment(name: str) -> None:
    passed.append(name)
    if LOG:
        with open(LOG, "a") as log:
            log.write(f"{name}\n")
    if len(passed) == AT:
        os.kill(os.getpid(), BY)


def watch(owner, name: str) -> None:
    """Have a moment before and after every call of `owner.name`."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def watched(*args, **kwargs):
        moment(f"before {name}")
        result = function(*args, **kwargs)
        moment(f"after {name}")
        return result

    setattr(owner, name, watched)


for owner, name in (
    (os, "replace"),
    (os, "unlink"),
    (torch, "save"),
    (JSONWriter, "write"),
    (run, "evaluate"),
    (Trainer, "run_step"),
):
    watch(owner, name)
register_known()  # again: the server may have done so for another data folder
script = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name="__main__")
