"""Compares the folders of two runs: everything but the clocks must be equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ivtuning.engine.metrics import CLOCKS


def differences(folder: Path, other: Path) -> list[str]:
    """What differs between two folders, but for times, logs and TensorBoard's files; [] if nothing does."""
    a, b = ({p.name: p for p in root.iterdir() if not _is_log(p)} for root in (folder, other))
    found = [f"only in one: {name}" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        found += [f"{name}: {where}" for where in _unequal(_content(a[name]), _content(b[name]))]
    return found


def _is_log(path: Path) -> bool:
    return path.name.startswith(("log.txt", "events.out.tfevents"))


def _content(path: Path) -> Any:
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    text = path.read_text()
    if path.name == "config.yaml":
        return [line for line in text.splitlines() if "output_dir" not in line]
    if path.name != "metrics.json":
        return text
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in text.splitlines()]


def _unequal(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        odd = [f"{where}.{k} is only in one" for k in a.keys() ^ b.keys()]
        return odd + [x for k in a.keys() & b.keys() for x in _unequal(a[k], b[k], f"{where}.{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [x for i, (p, q) in enumerate(zip(a, b, strict=True)) for x in _unequal(p, q, f"{where}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [f"{where} differs"]
    same = a == b or (a != a and b != b)  # two NaN
    return [] if same else [f"{where}: {str(a)[:200]} != {str(b)[:200]}"]
