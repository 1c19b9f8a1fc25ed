"""Finds the pairs of two folders, whatever their files are called, and the label file of each pair."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...errors import UserError, nearest
from ..image_files import walk
from .pairing import PARTS, Folders, Pair, check_stems, split_pairs, unambiguous


def fixed_folder(place: str) -> Path:
    """The folder that all files of a place (a folder or a pattern) are in."""
    parts = Path(place).parts
    first = next((i for i, part in enumerate(parts) if "*" in part or "{part}" in part), len(parts))
    return Path(*parts[:first])


def images_root(places: Sequence[str], source: Path | None) -> Path:
    """The images' root, which holds all of `places`: `source`, or else their common folder."""
    folders = [str(fixed_folder(place)) for place in places]
    if source is None:
        return Path(os.path.commonpath(folders))
    root = Path(os.path.abspath(source))
    for place, folder in zip(places, folders, strict=True):
        if not Path(folder).is_relative_to(root):
            raise UserError(f"{place} is outside --source {source}: name a --source that holds all images")
    return root


def find_files(place: str, suffixes: Collection[str], option: str) -> dict[str, Path]:
    """The files of a place by their stems, sorted. Hidden files are none.

    Args:
        place: the absolute path of a folder, whose files at any depth are meant, or a pattern. The stem is
            the path in the folder without suffix or, of a pattern, what its ``*`` and ``{part}`` stand for,
            with slashes between. ``{part}`` is a folder such as train, val or test.
        suffixes: those of the files that are meant, in lower case; a pattern has its own, in either case.
        option: the name of the option that gave `place`, for messages.

    Raises:
        UserError: there is no such folder, nothing matches, or two files have one stem.
    """
    folder = fixed_folder(place)
    pattern = _expression(place) if str(folder) != place else None
    if not folder.is_dir():
        raise UserError(f"{option}: there is no folder {folder}: correct its path")
    found: dict[str, Path] = {}
    for path in walk(folder):
        if pattern is not None:
            match = pattern.fullmatch(path.as_posix())
            stem = "/".join(match.groups()) if match else None
        else:
            is_meant = path.suffix.lower() in suffixes
            stem = path.relative_to(folder).with_suffix("").as_posix() if is_meant else None
        if stem is None:
            continue
        if stem in found:
            raise UserError(f"{option}: {found[stem]} and {path} are both called {stem!r}: keep one of them")
        found[stem] = path
    if not found:
        kinds = "" if pattern is not None else f" of the kinds {', '.join(sorted(suffixes))}"
        raise UserError(f"{option}: no file matches {place}{kinds}: correct the path or the pattern")
    return found


def _expression(place: str) -> re.Pattern[str]:
    """The regular expression of a pattern, whose groups are what its wildcards stand for."""
    if "**" in place or "*" not in place:
        raise UserError(f"pattern {place!r} needs a * for the name that the files of a pair share")
    body, suffix = os.path.splitext(place)
    if "*" in suffix:
        body, suffix = place, ""
    pieces = re.split(r"(\*|\{part\})", body)
    wild = {"*": "([^/]*)", "{part}": f"({'|'.join(PARTS)})"}
    return re.compile("".join(wild.get(p, re.escape(p)) for p in pieces) + f"(?i:{re.escape(suffix)})")


def without_common(stems: Collection[str]) -> dict[str, str]:
    """{what is left: stem} after removing the words with which all names begin and end.

    ``FLIR_0007_RGB`` among such names becomes ``0007``. Folders stay, and numbers are never cut.
    """
    names = {stem: PurePosixPath(stem).name for stem in stems}
    first = _common(list(names.values()))
    last = _common([name[::-1] for name in names.values()])[::-1]
    if len(names) < 2 or any(len(name) <= len(first) + len(last) for name in names.values()):
        return {stem: stem for stem in stems}
    cut = {stem: name[len(first) : len(name) - len(last)] for stem, name in names.items()}
    return {PurePosixPath(stem).with_name(name).as_posix(): stem for stem, name in cut.items()}


def _common(names: Sequence[str]) -> str:
    """The beginning of all names, without digits at its end and up to the end of a word."""
    common = os.path.commonprefix(names).rstrip("0123456789")
    if any(name[len(common) : len(common) + 1].isalpha() for name in names):
        common = re.sub(r"[^\W_]*$", "", common)
    return common


def pair_files(
    visible: Mapping[str, Path], infrared: Mapping[str, Path], places: Sequence[str]
) -> list[Pair]:
    """The pairs of two listings, which have equal stems, or equal ones but for words that all files share.

    Args:
        places: where the visible and the infrared images are, for messages.

    Raises:
        UserError: an image has no partner.
    """
    v, i = ({stem: stem for stem in files} for files in (visible, infrared))
    shorter = [without_common(files) for files in (visible, infrared)]
    if len(shorter[0].keys() ^ shorter[1].keys()) < len(v.keys() ^ i.keys()):
        v, i = shorter
    check_stems(
        {stem: visible[v[stem]] for stem in v},
        {stem: infrared[i[stem]] for stem in i},
        lambda stem, lacking: f"for {stem!r} in {places[lacking == 'infrared']}",
    )
    return [Pair(stem, visible[v[stem]], infrared[i[stem]], None) for stem in sorted(v)]


class Names:
    """What a pair may be called by labels and lists: its stem, and the names of its two files.

    Args:
        pairs: the pairs of all parts.
    """

    def __init__(self, pairs: Sequence[Pair]):
        self._stems = unambiguous((alias, pair.stem) for pair in pairs for alias in _aliases(pair))
        self._stems |= {pair.stem: pair.stem for pair in pairs}
        self._folders = Folders(pairs)

    def find(self, *names: str) -> str | None:
        """The stem of the pair that the first known one of `names`, or else their last parts, stand for.

        A last part alone is not enough where its folders are those of other pairs: ``val/0001`` is not the
        pair ``train/0001``.
        """
        if known := next((self._stems[name] for name in names if name in self._stems), None):
            return known
        for path in map(PurePosixPath, names):
            stem = self._stems.get(path.name)
            if stem is not None and self._folders.allow(path, stem):
                return stem
        return None


def _aliases(pair: Pair) -> Iterator[str]:
    yield PurePosixPath(pair.stem).name
    for path in (pair.visible, pair.infrared):
        parts = path.with_suffix("").parts
        # Labels may be in folders like those of the images, with or without the modality's: train/0001 of
        # visible/train/0001.jpg and of train/visible/0001.jpg.
        for names in (parts, (*parts[:-2], parts[-1])):
            yield from ("/".join(names[-depth:]) for depth in range(1, min(5, len(names))))


def label_pairs(pairs: Sequence[Pair], labels: Mapping[str, Path], place: str) -> tuple[list[Pair], int]:
    """The pairs with their label files, where they have one, and the number of label files of no pair.

    Raises:
        UserError: two label files belong to one pair, or none belongs to any.
    """
    names = Names(pairs)
    shorter = {stem: short for short, stem in without_common(labels).items()}
    found: dict[str, Path] = {}
    for stem, path in labels.items():
        pair = names.find(stem, shorter[stem])
        if pair is None:
            continue
        if pair in found:
            raise UserError(f"{found[pair]} and {path} both belong to the pair {pair!r}: give a pattern")
        found[pair] = path
    if not found:
        stem = next(iter(labels))
        raise UserError(
            f"--labels: no file of {place} belongs to a pair: {labels[stem].name} is called like none"
            f"{nearest(stem, (pair.stem for pair in pairs))}; the first pair is {pairs[0].stem!r}"
        )
    labeled = [replace(pair, label=found.get(pair.stem)) for pair in pairs]
    return labeled, len(labels) - len(found)


def part_of(folders: Sequence[str]) -> str | None:
    """The part that the first folder with a part's name belongs to; None where there is none."""
    return next((PARTS[folder.lower()] for folder in folders if folder.lower() in PARTS), None)


def _part_of_pair(pair: Pair) -> str | None:
    return part_of(pair.stem.split("/")[:-1])


def divide(
    pairs: Sequence[Pair],
    split: str | None,
    source: Path,
    part: Callable[[Pair], str | None] = _part_of_pair,
) -> tuple[str, dict[str, list[Pair]]]:
    """Divide pairs into parts.

    Args:
        split: ``folders`` (train, val and test, in which the pairs are; without val, test is called val);
            ``random`` or the share that validates, such as ``0.3``; ``NAME=val.txt`` or
            ``NAME=train.txt,val.txt``. None: by folders if all pairs are in such ones, else random.
        source: the folder in which lists are looked for first.
        part: the part of a pair by its folders.

    Returns:
        The split's name, and the pairs of each part.

    Raises:
        UserError: see :func:`.pairing.split_pairs`; pairs outside the folders of parts.
    """
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(part(pair) or "", []).append(pair)
    outside = parts[""][0] if "" in parts else None
    if split is None:
        split = "folders" if outside is None and len(parts) > 1 else "random"
    if split == "folders":
        if outside is not None:
            raise UserError(
                f"--split folders: {outside.visible} is in no folder train, val or test: divide otherwise"
            )
        if "val" not in parts and "test" in parts:
            parts["val"] = parts.pop("test")
        if lacking := [name for name in ("train", "val") if name not in parts]:
            raise UserError(
                f"--split folders: there is no folder for the {lacking[0]} part: divide otherwise"
            )
        return "default", {name: parts[name] for name in ("train", "val", "test") if name in parts}
    if re.fullmatch(r"0?\.[0-9]+", split) and float(split) > 0:
        return split_pairs(pairs, "random", source, share=float(split))
    return split_pairs(pairs, split, source)
