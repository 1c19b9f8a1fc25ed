"""Makes the JSON files of classified pairs from two trees of folders, one folder of images per class."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tabulate import tabulate

from ...errors import UserError
from ...utils.files import StagedFiles
from ...utils.progress import track
from ..annotations import check_classes
from ..datasets.classified_pairs import FOLDER
from ..image_files import IMAGE_SUFFIXES
from ..images import inspect_pair
from ..modalities import FILE_KEYS, TIMES
from .coco import ADVICE, stage_json
from .folders import divide, find_files, images_root, pair_files, part_of
from .pairing import Pair, check_not_swapped

RANDOM = "random"


@dataclass(frozen=True)
class Shares:
    """A random split: the shares of the pairs that validate and that are kept for a test, 0..1."""

    val: float = 0.2
    test: float = 0.0


def prepare_pair_folders(
    visible: str,
    infrared: str,
    output: Path,
    *,
    name: str,
    source: Path | None = None,
    classes: str | None = None,
    split: str | None = None,
    group_by: str | None = None,
    gray_visible: bool = False,
    dry_run: bool = False,
) -> list[Path]:
    """Write ``classification/<split>_<part>.json``; all files or none.

    The class of a pair is the folder that its images are in. Its ``time`` is the one of the folders above it
    that is called day or night, if there is one.

    Args:
        visible, infrared: folders or patterns, see :func:`.folders.find_files`.
        name: of the set, for its description.
        source: the folder that these are relative to, and the images' root. None: the current folder, and the
            common folder of the images.
        classes: names of classes with commas between, in the order of their labels; pairs of others are left
            out. None: all folders, sorted.
        split: see :func:`divide_pairs`.
        group_by: what ends a group in the names of files: with ``_``, 00012_0 and 00012_3 are of the group
            00012, the frame that both were cut from. None: every pair stands for itself.
        gray_visible: accept visible images of one channel.

    Returns:
        The JSON files, by part.

    Raises:
        UserError: bad options, images without partner, outside class folders, or of unequal sizes, swapped
            folders, fewer than two classes, or a part without pairs.
    """
    if visible == infrared:
        raise UserError(f"--vis and --ir are both {visible!r}: give the place of each kind of image")
    places = [os.path.abspath(os.path.join(source or "", os.path.expanduser(p))) for p in (visible, infrared)]
    root = images_root(places, source)
    pairs = pair_files(
        find_files(places[0], IMAGE_SUFFIXES, "--vis"), find_files(places[1], IMAGE_SUFFIXES, "--ir"), places
    )
    wanted = _classes(pairs, classes)
    chosen = [pair for pair in pairs if class_of(pair) in wanted]
    if not gray_visible:
        check_not_swapped(chosen)
    split, parts = divide_pairs(chosen, split, root, group_by)
    info = {"description": f"{name} pairs with classes", "split": split}
    if root.resolve() != output.resolve():
        info["image_root"] = str(root)
    contents = {}
    for part, members in parts.items():
        with ThreadPoolExecutor() as pool:
            inspected = pool.map(partial(_inspect, gray_visible=gray_visible), members)
            sizes = list(track(inspected, part, total=len(members)))
        entries = zip(members, sizes, strict=True)
        images = [
            {"id": i} | _entry(pair, size, wanted, root, group_by)
            for i, (pair, size) in enumerate(entries, 1)
        ]
        categories = [{"id": i, "name": c} for i, c in enumerate(wanted, 1)]
        contents[part] = {"info": info, "images": images, "categories": categories}
    print(_table(contents))
    if len(chosen) < len(pairs):
        print(f"pairs of other classes, left out: {len(pairs) - len(chosen)}")
    for line in _remarks(contents):
        print(line)
    files = {output / FOLDER / f"{split}_{part}.json": content for part, content in contents.items()}
    with StagedFiles(dry_run, ADVICE) as staged:
        lines = stage_json(files, staged)
        staged.commit()
    print(*lines, sep="\n")
    return list(files)


def class_of(pair: Pair) -> str:
    """The name of the folder that a pair's images are in."""
    return pair.visible.parent.name


def group_of(pair: Pair, group_by: str) -> str:
    """The name of a pair's visible image up to the last `group_by`; the whole name where it has none.

    Words behind what the pair's images share, such as ``_RGB``, do not count.
    """
    stem, shared = pair.visible.stem, PurePosixPath(pair.stem).name
    if (start := stem.rfind(shared)) >= 0:
        stem = stem[: start + len(shared)]
    return stem.rpartition(group_by)[0] or stem


def divide_pairs(
    pairs: Sequence[Pair], split: str | None, root: Path, group_by: str | None = None
) -> tuple[str, dict[str, list[Pair]]]:
    """Divide pairs into parts.

    Args:
        split: ``folders`` (train, val and test, above those of the classes; without val, test is called val);
            ``random``, the share that validates, such as ``0.2``, or that and the share of a test,
            ``0.1,0.2``; ``NAME=val.txt`` or ``NAME=train.txt,val.txt``, see :func:`.pairing.split_pairs`.
            None: by folders if all pairs are in such ones, else random.
        root: the folder in which lists are looked for first.
        group_by: see :func:`prepare_pair_folders`. A random split keeps the pairs of a group together.

    Returns:
        The split's name, and the pairs of each part.
    """
    above = {pair.visible: part_of(_folders(pair)[:-1]) for pair in pairs}  # not the folder of its class
    if split is None:
        split = "folders" if all(above.values()) and len(set(above.values())) > 1 else RANDOM
    if (shares := _shares(split)) is not None:
        return RANDOM, split_stratified(pairs, shares, group_by)
    if split != "folders":
        return divide(pairs, split, root)
    return divide(pairs, split, root, lambda pair: above[pair.visible])


def _folders(pair: Pair) -> tuple[str, ...]:
    """The folders of a pair in its tree; the last one is its class."""
    return PurePosixPath(pair.stem).parts[:-1]


def _shares(split: str) -> Shares | None:
    """The shares that `split` states; None where it is no random one."""
    if split == RANDOM:
        return Shares()
    try:
        shares = Shares(*map(float, split.split(",")))
    except (TypeError, ValueError):  # more than two, or no numbers
        return None
    if not (shares.val > 0 and shares.test >= 0 and shares.val + shares.test < 1):
        raise UserError(
            f"--split {split}: give a share above 0 and below 1 that validates, such as 0.2, or two, such as "
            "0.1,0.2, of which the second is for a test"
        )
    return shares


def split_stratified(
    pairs: Sequence[Pair], shares: Shares, group_by: str | None = None, seed: int = 0
) -> dict[str, list[Pair]]:
    """A random split that keeps groups together, with the same shares of every class, by day and by night.

    Groups are drawn one after the other. Each goes to the validation or test part if that brings the numbers
    of its classes closer to their shares, else it trains. A class of two groups or more has one of them in
    each of these parts where its share rounds to less.

    Returns:
        The pairs by part, in their order; "test" only where it has a share.

    Raises:
        UserError: a part or the training pairs of a class are empty.
    """
    strata = sorted({_stratum(pair) for pair in pairs})
    members: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        members.setdefault(group_of(pair, group_by) if group_by else str(i), []).append(i)
    numbers = {
        group: np.bincount([strata.index(_stratum(pairs[i])) for i in indices], minlength=len(strata))
        for group, indices in members.items()
    }
    totals = sum(numbers.values())
    left = sorted(numbers)
    random.Random(seed).shuffle(left)
    part_of = {}
    for part, share in (("val", shares.val), ("test", shares.test)):
        target = share * totals
        if share:
            spread = sum(numbers[group] > 0 for group in left)  # how many groups have the stratum
            target = np.where(spread > 1, target.clip(1), target)
        held = np.zeros(len(strata))
        for group in left:
            number = numbers[group]
            gain = (held - target) ** 2 - (held + number - target) ** 2
            if (gain / totals**2).sum() > 0:
                held += number
                part_of[group] = part
        left = [group for group in left if group not in part_of]
    parts: dict[str, list[int]] = {"train": [], "val": [], **({"test": []} if shares.test else {})}
    for group, indices in members.items():
        parts[part_of.get(group, "train")] += indices
    for part, indices in parts.items():
        if not indices:
            raise UserError(f"a random split leaves its {part} part without any of the {len(pairs)} pairs")
    trained = {class_of(pairs[i]) for i in parts["train"]}
    if lost := sorted({class_of(pair) for pair in pairs} - trained):
        raise UserError(
            f"a random split leaves class {lost[0]!r} without a pair to train on: add pairs of it"
        )
    return {part: [pairs[i] for i in sorted(indices)] for part, indices in parts.items()}


def _stratum(pair: Pair) -> tuple[str, str]:
    return class_of(pair), _time(pair) or ""


def _time(pair: Pair) -> str | None:
    return next((f.lower() for f in _folders(pair)[:-1] if f.lower() in TIMES), None)


def _classes(pairs: Sequence[Pair], given: str | None) -> list[str]:
    """The classes that count, in the order of their labels."""
    for pair in pairs:
        if not _folders(pair):
            raise UserError(f"{pair.visible} is in no folder of a class: put it into one that has its name")
    found = sorted({class_of(pair) for pair in pairs})
    if given is None:
        wanted = found
    else:
        wanted = check_classes(given.split(","), "--classes")
        if unknown := [c for c in wanted if c not in found]:
            raise UserError(
                f"--classes: no folder is called {unknown[0]!r}: there are {', '.join(found[:8])}"
            )
    if len(wanted) < 2:
        raise UserError(
            f"there is one class alone, {wanted[0]!r}: let --vis and --ir name the folders above "
            "those of the classes"
        )
    return wanted


def _inspect(pair: Pair, gray_visible: bool) -> tuple[int, int]:
    return inspect_pair(pair.visible, pair.infrared, gray_visible)


def _entry(
    pair: Pair, size: tuple[int, int], classes: Sequence[str], root: Path, group_by: str | None
) -> dict:
    files = dict(zip(FILE_KEYS, (pair.visible, pair.infrared), strict=True))
    entry: dict[str, Any] = {key: path.relative_to(root).as_posix() for key, path in files.items()}
    entry |= {"width": size[0], "height": size[1], "category_id": classes.index(class_of(pair)) + 1}
    if time := _time(pair):
        entry["time"] = time
    if group_by:
        entry["group"] = group_of(pair, group_by)
    return entry


def _table(contents: Mapping[str, dict]) -> str:
    columns = []
    for content in contents.values():
        images = content["images"]
        counts = Counter(image["category_id"] for image in images)
        column = {"pairs": len(images)} | {c["name"]: counts[c["id"]] for c in content["categories"]}
        column |= {time: number for time in TIMES if (number := sum(i.get("time") == time for i in images))}
        groups = {image["group"] for image in images if "group" in image}
        columns.append(column | ({"groups": len(groups)} if groups else {}))
    rows = dict.fromkeys(key for column in columns for key in column)
    return tabulate([[key, *(c.get(key, 0) for c in columns)] for key in rows], ["", *contents])


def _remarks(contents: Mapping[str, dict]) -> list[str]:
    """Lines on groups that stand in two parts, and on classes that a part lacks."""
    lines, seen = [], {}
    for part, content in contents.items():
        groups = {image["group"] for image in content["images"] if "group" in image}
        for other, known in seen.items():
            if both := groups & known:
                lines.append(
                    f"warning: {len(both)} groups are in {other} and in {part}, such as {min(both)}: figures "
                    "will be too good; --split random keeps them apart"
                )
        seen[part] = groups
        shown = {image["category_id"] for image in content["images"]}
        if absent := [c["name"] for c in content["categories"] if c["id"] not in shown]:
            lines.append(f"note: {part} has no pair of {', '.join(absent[:5])}")
    return lines
