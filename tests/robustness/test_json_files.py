"""Faults of JSON files."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.isolation import Case, refuse


def _broken(folder: Path) -> list[str]:
    (folder / "annotations").mkdir()
    (folder / "annotations" / "train.json").write_text('{"images": [],\n "annotations": [}')
    return ["annotations/train.json"]


CASES = [
    Case("syntax error", "datasets/check_pairs.py", _broken, ["annotations/train.json:2", "not valid JSON"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_faults_of_a_json_are_refused(case, tmp_path):
    refuse(case, tmp_path)
