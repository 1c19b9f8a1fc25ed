"""Finds the pairs of a release by the stems of its files, and divides them into training and validation."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import UserError, nearest
from ..images import IMAGE_SUFFIXES

# Suffixes that an entry of a split list may have.
_LISTED_SUFFIXES = IMAGE_SUFFIXES | {".xml", ".txt"}


@dataclass(frozen=True)
class Pair:
    """A visible image, its infrared partner and, if there is one, their label file."""

    stem: str
    visible: Path
    infrared: Path
    label: Path | None


def check_stems(
    visible: Mapping[str, Path], infrared: Mapping[str, Path], partner: Callable[[str, str], str]
) -> None:
    """Raise UserError unless two listings {stem: file} have the same stems.

    Args:
        partner: from a stem and the modality that lacks it to a description of the missing file.
    """
    if alone := sorted(visible.keys() ^ infrared.keys()):
        stem, more = alone[0], f" ({len(alone)} such files)" if len(alone) > 1 else ""
        here, lacking = (visible, "infrared") if stem in visible else (infrared, "visible")
        raise UserError(
            f"{here[stem]} has no partner {partner(stem, lacking)}: copy it there, or move both away{more}"
        )


def _files_by_stem(source: Path, pattern: str) -> dict[str, Path]:
    """Files of `source` that match `pattern`; the stem is what its one ``*`` stands for."""
    pattern = PurePosixPath(pattern).as_posix()
    if pattern.count("*") != 1 or pattern.startswith("/"):
        raise UserError(f"pattern {pattern!r} must be relative to --source and hold exactly one *")
    before, after = pattern.split("*")
    paths = sorted(source.glob(pattern))
    if not paths:
        raise UserError(f"no file matches {source / pattern}: is --source the folder of the release?")
    return {p.relative_to(source).as_posix()[len(before) :].removesuffix(after): p for p in paths}


def find_pairs(source: Path, visible: str, infrared: str, labels: str) -> list[Pair]:
    """The pairs of a release, sorted by file name.

    Args:
        source: the release's folder.
        visible, infrared, labels: patterns relative to it, with one ``*`` each, which stands for the stem.

    Raises:
        UserError: nothing matches a pattern, or an image lacks its partner.
    """
    patterns = {"visible": visible, "infrared": infrared}
    vis, ir, label = (_files_by_stem(source, pattern) for pattern in (visible, infrared, labels))
    check_stems(vis, ir, lambda stem, side: str(source / patterns[side].replace("*", stem)))
    return [Pair(stem, vis[stem], ir[stem], label.get(stem)) for stem in vis]


def _select(pairs: Sequence[Pair], path: Path) -> tuple[set[str], set[str]]:
    """Stems that the list file `path` names, and stems that it excludes from every part.

    An entry per line: a stem, an image's file name, a number (the last digits of a stem), or an inclusive
    range of numbers such as ``111-192``. A ``!`` before an entry excludes it; ``#`` starts a comment.
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
        stem = name.stem if name.suffix.lower() in _LISTED_SUFFIXES else name.name
        if not entry:
            continue
        if stem in stems:
            target.add(stems[stem])
        elif match := re.fullmatch(r"(\d+)-(\d+)", entry):
            for number in range(int(match[1]), int(match[2]) + 1):
                target.update(by_number.get(number, ()))
        elif stem.isdigit() and int(stem) in by_number:
            target.update(by_number[int(stem)])
        elif target is chosen:
            raise UserError(f"{path}: no pair is called {entry!r}{nearest(stem, stems)}")
    return chosen, excluded


def split_pairs(pairs: Sequence[Pair], split: str, seed: int = 0) -> tuple[str, dict[str, list[Pair]]]:
    """Divide `pairs` into training and validation.

    Args:
        split: ``random`` (80/20, seeded), ``NAME=val.txt`` (all other pairs train) or
            ``NAME=train.txt,val.txt`` (pairs in neither list are left out).

    Returns:
        The split's name, and {"train": pairs, "val": pairs}.

    Raises:
        UserError: an unknown split, a list that is missing or names what does not exist, a pair in both
            lists, or an empty part.
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
            raise UserError(f"split {name}: its {part} part has no pair; the set has {len(pairs)} pairs")
    return name, parts
