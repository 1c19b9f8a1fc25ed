"""Finds the pairs of a release by the stems of its files, and divides them into training and validation."""

from __future__ import annotations

import glob
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ...errors import UserError, nearest
from ...utils.text import read_lines
from ..image_files import IMAGE_SUFFIXES, decode, is_hidden

# What the folders of published parts are called.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
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


def files_by_stem(source: Path, pattern: str) -> dict[str, Path]:
    """Files of `source` that match `pattern`; the stem is what its one ``*`` stands for. Hidden files do not.

    Raises:
        UserError: a pattern of another form, or nothing matches it.
    """
    pattern = PurePosixPath(pattern).as_posix()
    if pattern.count("*") != 1 or pattern.startswith("/") or ".." in pattern.split("/"):
        raise UserError(f"pattern {pattern!r} must lead to files in --source and hold exactly one *")
    before, after = pattern.split("*")
    matches = source.glob(f"{glob.escape(before)}*{glob.escape(after)}")
    paths = sorted(path for path in matches if not is_hidden(path))
    if not paths:
        raise UserError(f"no file matches {source / pattern}: is --source the folder of the release?")
    return {p.relative_to(source).as_posix()[len(before) :].removesuffix(after): p for p in paths}


def check_not_swapped(pairs: Sequence[Pair]) -> None:
    """Raise UserError if, in a sample, every visible image is gray and the infrared images have colors."""
    sample = pairs[:: max(1, len(pairs) // 8)]
    # JPEG gives gray up to one level of color, and visible images of a night may have few.
    gray = all(_color(pair.visible) < 2 for pair in sample)
    if gray and sum(_color(pair.infrared) for pair in sample) > 4 * len(sample):
        visible, infrared = sample[0].visible, sample[0].infrared
        raise UserError(
            f"visible images such as {visible} are gray, and infrared ones such as {infrared} have colors: "
            "swap the two folders"
        )


def _color(path: Path) -> float:
    """How far the channels of an image differ, in levels of 0..255 on average."""
    pixels = np.asarray(decode(path, "image")[0].convert("RGB"))
    return float(np.ptp(pixels, axis=2).mean())


def find_pairs(source: Path, visible: str, infrared: str, labels: str) -> list[Pair]:
    """The pairs of a release, sorted by file name.

    Args:
        source: the release's folder.
        visible, infrared, labels: patterns relative to it, with one ``*`` each, which stands for the stem.

    Raises:
        UserError: nothing matches a pattern, or an image lacks its partner.
    """
    patterns = {"visible": visible, "infrared": infrared}
    vis, ir, label = (files_by_stem(source, pattern) for pattern in (visible, infrared, labels))
    check_stems(vis, ir, lambda stem, side: str(source / patterns[side].replace("*", stem)))
    return [Pair(stem, vis[stem], ir[stem], label.get(stem)) for stem in vis]


class Folders:
    """The folders that pairs are in, which tell whether a name means a pair of another folder.

    Args:
        pairs: the pairs of all parts.
    """

    def __init__(self, pairs: Sequence[Pair]):
        self._of = {pair.stem: _folders_of(pair) for pair in pairs}
        self._all = set().union(*self._of.values())

    def allow(self, name: PurePosixPath, stem: str) -> bool:
        """Whether the pair `stem` is in all folders of `name` that pairs are in at all.

        Where pairs are in folders of parts, the part that a name states must be the pair's.
        """
        parts = set(PARTS.values())
        stated = {_folder(folder) for folder in name.parts[:-1]}
        return all(
            folder in self._of[stem]
            for folder in stated
            if folder in self._all or (folder in parts and self._all & parts)
        )


def _folders_of(pair: Pair) -> set[str]:
    paths = (pair.visible.parts, pair.infrared.parts, PurePosixPath(pair.stem).parts)
    return {_folder(folder) for parts in paths for folder in parts[-4:-1]}


def _folder(name: str) -> str:
    return PARTS.get(name.lower(), name)


def _select(pairs: Sequence[Pair], path: Path) -> tuple[set[str], set[str]]:
    """Stems that the list file `path` names, and stems that it excludes from every part.

    An entry per line: a stem, an image's file name, a number (the last digits of a stem), or an inclusive
    range of numbers such as ``111-192``. A ``!`` before an entry excludes it; ``#`` starts a comment.
    """
    by_number: dict[int, list[str]] = {}
    for pair in pairs:
        if match := re.search(r"([0-9]{1,18})[^0-9]*$", pair.stem):
            by_number.setdefault(int(match[1]), []).append(pair.stem)
    stems = unambiguous((alias, p.stem) for p in pairs for alias in (p.visible.stem, p.infrared.stem))
    stems |= {p.stem: p.stem for p in pairs}
    folders = Folders(pairs)
    chosen: set[str] = set()
    excluded: set[str] = set()
    for where, line in read_lines(path):
        entry = line.split("#")[0].strip()
        target, entry = (excluded, entry[1:].strip()) if entry.startswith("!") else (chosen, entry)
        name = PurePosixPath(entry.replace("\\", "/"))
        stem = name.stem if name.suffix.lower() in _LISTED_SUFFIXES else name.name
        if not entry and target is excluded:
            raise UserError(f"{where}: nothing follows the `!`; write what it excludes")
        if not entry:
            continue
        whole = name.with_name(stem).as_posix() if name.name else stem
        if whole in stems or (stem in stems and folders.allow(name, stems[stem])):
            target.add(stems.get(whole) or stems[stem])
        elif match := re.fullmatch(r"([0-9]{1,18})\s*-\s*([0-9]{1,18})", entry):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise UserError(f"{where}: the range {entry} is empty; write {last}-{first}")
            target.update(*(names for number, names in by_number.items() if first <= number <= last))
        elif len(name.parts) == 1 and re.fullmatch("[0-9]{1,18}", stem) and int(stem) in by_number:
            found = by_number[int(stem)]
            if name.suffix and len(found) > 1:
                raise UserError(f"{where}: {entry} may be {found[0]} or {found[1]}: write its folder as well")
            target.update(found)
        elif target is chosen:
            raise UserError(f"{where}: no pair is called {entry!r}{nearest(stem, stems)}")
        else:  # no error: a list for a whole release excludes what a part of it may not have
            print(f"{where}: excludes nothing, no pair is called {entry!r}{nearest(stem, stems)}")
    return chosen, excluded


def unambiguous(entries: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{alias: stem} of the aliases that stand for one stem alone."""
    meanings: dict[str, set[str]] = {}
    for alias, stem in entries:
        meanings.setdefault(alias, set()).add(stem)
    return {alias: stems.pop() for alias, stems in meanings.items() if len(stems) == 1}


def _list_file(name: str, source: Path) -> Path:
    """The split list `name`, relative to the folder `source` like the patterns, else to the current one."""
    here = Path(name.strip())
    path = source / here
    if not path.is_file():
        path = here
    if not path.is_file():
        raise UserError(f"split list {here} is missing: it is neither in {source} nor in {Path.cwd()}")
    return path


def split_pairs(
    pairs: Sequence[Pair], split: str, source: Path, seed: int = 0, share: float = 0.2
) -> tuple[str, dict[str, list[Pair]]]:
    """Divide `pairs` into training and validation.

    Args:
        split: ``random`` (seeded), ``NAME=val.txt`` (all other pairs train) or
            ``NAME=train.txt,val.txt`` (pairs in neither list are left out).
        source: the folder that lists are looked for in; then in the current one.
        share: of the pairs that validate in a random split, 0..1.

    Returns:
        The split's name, and {"train": pairs, "val": pairs}.

    Raises:
        UserError: an unknown split, a list that is missing or names what does not exist, a pair in both
            lists, or an empty part.
    """
    if split == "random":
        stems = [pair.stem for pair in pairs]
        random.Random(seed).shuffle(stems)
        name, val = split, set(stems[: round(len(stems) * share)])
        train = {pair.stem for pair in pairs} - val
    else:
        name, _, files = split.partition("=")
        names = files.split(",")
        if not re.fullmatch(r"\w[\w-]*", name) or not all(map(str.strip, names)) or len(names) > 2:
            raise UserError(
                f"split {split!r} is neither known nor a share such as 0.3 nor NAME=val.txt nor "
                "NAME=train.txt,val.txt"
            )
        lists = [_list_file(file, source) for file in names]
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
            raise UserError(f"split {split}: its {part} part has no pair; the set has {len(pairs)} pairs")
    return name, parts
