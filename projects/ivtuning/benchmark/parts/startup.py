"""Time of a tool's ``--help``, against the import of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ...errors import UserError
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Result, Row

PACKAGES = Path(__file__).resolve().parents[3]
TOOL = PACKAGES.parent / "tools" / "train_net.py"


def measure(options: Options) -> Result:
    """Row startup_ratio: seconds from the start of Python to its end."""
    if not TOOL.is_file():
        raise UserError(f"no file {TOOL}: start-up is measured in a checkout of the repository")
    runs = {"tool": _run(str(TOOL), "--help"), "torch": _run("-c", "import torch")}
    times = interleaved(runs, options.repeats, "start-up")
    result = Result("tools/train_net.py --help against python -c 'import torch'")
    result.raw["seconds"] = summary(times)
    result.rows["startup_ratio"] = Row.of(ratio(times, "tool", "torch"))
    return result


def _run(*arguments: str) -> Callable[[], None]:
    paths = [str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def run() -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=env)

    return run
