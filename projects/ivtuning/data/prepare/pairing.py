"""Which files of a release belong together, and which pairs train and which validate."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import UserError, nearest

FILE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".xml", ".txt"}


@dataclass(frozen=True)
class Pair:
    """One visible image, its infrared partner and, where there is one, their label file."""

    stem: str
    visible: Path
    infrared: Path
    label: Path | None


def _by_stem(source: Path, pattern: str) -> dict[str, Path]:
    """Files of `source` that match `pattern`, by what its one ``*`` stands for, sorted."""
    pattern = PurePosixPath(pattern).as_posix()
    if pattern.count("*") != 1 or pattern.startswith("/"):
        raise UserError(f"pattern {pattern!r} must be relative to --source and hold exactly one *")
    before, after = pattern.split("*")
    paths = sorted(source.glob(pattern))
    return {p.relative_to(source).as_posix()[len(before) :].removesuffix(after): p for p in paths}


def find_pairs(source: Path, visible: str, infrared: str, labels: str) -> list[Pair]:
    """Pairs of `source`, sorted by stem; the patterns hold one ``*`` each, which stands for the stem.

    Raises UserError where nothing matches or where an image lacks its partner.
    """
    vis, ir, label = (_by_stem(source, pattern) for pattern in (visible, infrared, labels))
    for found, pattern in ((vis, visible), (ir, infrared), (label, labels)):
        if not found:
            raise UserError(f"no file matches {source / pattern}: is --source the folder of the release?")
    if alone := sorted(vis.keys() ^ ir.keys()):
        stem, more = alone[0], f" ({len(alone)} such files)" if len(alone) > 1 else ""
        here, there = (vis, infrared) if stem in vis else (ir, visible)
        partner = source / there.replace("*", stem)
        raise UserError(f"{here[stem]} has no partner {partner}: copy it there, or move both away{more}")
    return [Pair(stem, vis[stem], ir[stem], label.get(stem)) for stem in vis]


def _select(pairs: Sequence[Pair], path: Path) -> tuple[set[str], set[str]]:
    """Stems that the list file `path` names, and those it excludes from every part.

    One entry a line: a stem, an image's file name, a number (the last digits of a stem), an inclusive range
    of numbers ``111-192``, or any of them after ``!`` to exclude; ``#`` starts a comment.
    """
    if not path.is_file():
        raise UserError(f"split list {path} is missing")
    by_number: dict[int, list[str]] = {}
    for pair in pairs:
        if match := re.search(r"(\d+)\D*$", pair.stem):
            by_number.setdefault(int(match[1]), []).append(pair.stem)
    stems = {alias: p.stem for p in pairs for alias in (p.stem, p.visible.stem, p.infrared.stem)}
    chosen: set[str] = set()
    excluded: set[str] = set()
    for line in path.read_text().splitlines():
        entry = line.split("#")[0].strip()
        target, entry = (excluded, entry[1:].strip()) if entry.startswith("!") else (chosen, entry)
        name = PurePosixPath(entry)
        stem = name.stem if name.suffix.lower() in FILE_SUFFIXES else name.name
        if not entry:
            continue
        if stem in stems:
            target.add(stems[stem])
        elif match := re.fullmatch(r"(\d+)-(\d+)", entry):
            found = (by_number.get(n, ()) for n in range(int(match[1]), int(match[2]) + 1))
            target.update(s for group in found for s in group)
        elif stem.isdigit() and int(stem) in by_number:
            target.update(by_number[int(stem)])
        elif target is chosen:
            raise UserError(f"{path}: no pair is called {entry!r}{nearest(stem, stems)}")
    return chosen, excluded


def split_pairs(pairs: Sequence[Pair], split: str, seed: int = 0) -> tuple[str, dict[str, list[Pair]]]:
    """Divide `pairs` into ``{"train", "val"}`` and return the split's name with them.

    Args:
        split: ``random`` (80/20, seeded), ``NAME=val.txt`` (all others train) or
            ``NAME=train.txt,val.txt`` (pairs in neither list are left out).
    """
    if split == "random":
        stems = [pair.stem for pair in pairs]
        random.Random(seed).shuffle(stems)
        name, val = split, set(stems[: round(len(stems) / 5)])
        train = {pair.stem for pair in pairs} - val
    else:
        name, _, files = split.partition("=")
        lists = [Path(file) for file in files.split(",")]
        if not re.fullmatch(r"\w[\w-]*", name) or not files or len(lists) > 2:
            raise UserError(f"split {split!r} is neither known nor NAME=val.txt nor NAME=train.txt,val.txt")
        val, excluded = _select(pairs, lists[-1])
        train = {pair.stem for pair in pairs} - val
        if len(lists) == 2:
            train, more = _select(pairs, lists[0])
            excluded |= more
        train, val = train - excluded, val - excluded
        if both := sorted(train & val):
            raise UserError(
                f"split {name}: {both[0]!r} is in both lists ({len(both)} such): remove it from one"
            )
    parts = {"train": [p for p in pairs if p.stem in train], "val": [p for p in pairs if p.stem in val]}
    for part, chosen in parts.items():
        if not chosen:
            raise UserError(f"split {name}: no pair is in its {part} part; the set has {len(pairs)} pairs")
    return name, parts
