"""Reads the file of figures that a run writes while it trains, metrics.json."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UserError
from ..utils.text import read_text


def read_metrics(file: Path) -> dict[int, dict]:
    """The lines of the file, by iteration. Of a figure that an iteration has twice, the later one counts.

    A last line that is no line of metrics is left out: the run is still writing it, or was killed.

    Raises:
        UserError: the file is missing or no text, or another line is damaged.
    """
    lines = read_text(file).splitlines()
    entries: dict[int, dict] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            iteration = int(entry["iteration"])
            if not 0 <= iteration < 1 << 53:
                raise ValueError(iteration)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(f"{file}:{number}: not a line of metrics: remove that line") from error
        entries[iteration] = entries.get(iteration, {}) | entry
    return entries
