"""Parts of a training set: nested subsets of several sizes, and a part that is held back for validation.

Each is a JSON file beside the runs, so that a run on it is an ordinary run with ``data.train=<file>``.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path

import numpy as np

from ..data.catalog import image_root_of, metadata
from ..errors import UserError
from ..utils.files import atomic_write
from ..utils.text import read_json


class TrainingSet:
    """A set that has a JSON file, and from which images can be taken.

    Args:
        name: a registered set, or several.
        trained: ids of the images that training uses; it may leave out those without boxes. None: all.

    Raises:
        UserError: there are several, or it has no JSON file of its own, or leaves out some of its classes.
    """

    def __init__(self, name: str | Sequence[str], trained: Collection[int] | None = None):
        if not isinstance(name, str):
            if len(name) != 1:
                raise UserError(f"{', '.join(name)}: parts can be taken of one training set, not of several")
            name = name[0]
        facts = metadata(name)
        if facts.get("json_file") is None or facts.get("protocol", "all") != "all":
            raise UserError(
                f"{name} has no JSON file of all its classes: parts can be taken of sets with one, give it "
                "as data.train=FILE"
            )
        self.name = name
        self.content = read_json(facts.json_file)
        root = image_root_of(self.content, facts.json_file, facts.image_root)
        self.content["info"] = (self.content.get("info") or {}) | {"image_root": os.path.abspath(root)}
        self.images = sorted(self.content["images"], key=lambda image: image["id"])
        self._trained = trained

    def order(self, images: Sequence[dict], seed: int) -> list[dict]:
        """Those of `images` that training uses, in a random order.

        Each beginning of it has every class and time in its share.
        """
        images = [image for image in images if self._trained is None or image["id"] in self._trained]
        strata = [(image.get("category_id"), image.get("time")) for image in images]
        return [images[i] for i in spread(strata, seed)]

    def hold_out(self, part: float) -> tuple[list[dict], list[dict]]:
        """Divide the set into what remains for training, and what is held back.

        Images with one ``group`` stay together. Groups are drawn in the shares of their rarest class and of
        times.

        Args:
            part: a share of the images if below 1, else their number. Groups may bring a few more.

        Raises:
            UserError: one of the two parts would be empty.
        """
        count = round(part * len(self.images)) if part < 1 else int(part)
        numbers = Counter(image.get("category_id") for image in self.images)
        groups: dict[Hashable, list[dict]] = defaultdict(list)
        for image in self.images:
            group = image.get("group")
            groups[("image", image["id"]) if group is None else ("group", group)].append(image)
        units = list(groups.values())
        first = [min(unit, key=lambda image: numbers[image.get("category_id")]) for unit in units]
        held: list[dict] = []
        for i in spread([(image.get("category_id"), image.get("time")) for image in first], 0):
            if len(held) >= count:
                break
            held += units[i]
        ids = {image["id"] for image in held}
        rest = [image for image in self.images if image["id"] not in ids]
        if not held or not rest:
            raise UserError(
                f"--hold-out {part:g} of the {len(self.images)} pairs of {self.name} leaves {len(held)} "
                f"pairs for validation and {len(rest)} for training: give another share, or a number of pairs"
            )
        return rest, held

    def write(self, images: Sequence[dict], path: Path) -> None:
        """Write a JSON of some of the set's images, with their annotations; an equal file stays as it is."""
        ids = {image["id"] for image in images}
        kept = dict(self.content, images=sorted(images, key=lambda image: image["id"]))
        if "annotations" in kept:
            kept["annotations"] = [a for a in kept["annotations"] if a.get("image_id") in ids]
        text = json.dumps(kept)
        if not (path.is_file() and path.read_text(encoding="utf-8") == text):
            with atomic_write(path) as temp:
                temp.write_text(text, encoding="utf-8")


def spread(strata: Sequence[Hashable], seed: int) -> list[int]:
    """A random order of positions in which each beginning has its share of the strata.

    The next position is always one of the stratum that lacks most to its share, so rare strata have theirs
    also together.
    """
    generator = random.Random(seed)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for i, stratum in enumerate(strata):
        members[stratum].append(i)
    for own in members.values():
        generator.shuffle(own)
    kinds = list(members)
    generator.shuffle(kinds)
    share = np.array([len(members[kind]) / len(strata) for kind in kinds])
    taken = np.zeros(len(kinds), np.int64)
    order = []
    for number in range(1, len(strata) + 1):
        k = int(np.argmax(share * number - taken))
        order.append(members[kinds[k]][taken[k]])
        taken[k] += 1
    return order
