"""What stands in each synthetic scene, and where: decks for the mix, placement with mild overlap."""

from __future__ import annotations

import numpy as np

from .drawing import CLASSES, Sprite, background, make_sprite, render

SINGLE_SHARE = 0.36  # of all objects, those that show in one modality only
MAX_OBJECTS = 6
MAX_OCCLUDED = 0.3  # of an object's pixels
GAP = 6  # px kept clear between things that do not show in the same modalities
SIZES = {"person": 60.0, "engine": 60.0, "lamp": 44.0, "sign": 42.0}  # px, longest in 192 x 144
SMALLEST = 12.0  # px, longer side at any image size


def _deck(values, count: int, rng: np.random.Generator) -> list:
    """`count` cards: `values` repeated as evenly as goes, shuffled."""
    cards = [values[i % len(values)] for i in range(count)]
    return [cards[i] for i in rng.permutation(count)]


def deal(count: int, rng: np.random.Generator) -> list[tuple[str, list, list]]:
    """Plan `count` images: each a time and the (class, modality) of its objects and of its decoys."""
    times = _deck(("day", "night"), count, rng)
    slots = []  # [image, class, modality]
    for time in ("day", "night"):
        those = [i for i in range(count) if times[i] == time]
        numbers = _deck(range(1, MAX_OBJECTS + 1), len(those), rng)
        owners = [i for i, number in zip(those, numbers, strict=True) for _ in range(number)]
        slots += [[i, kind, "both"] for i, kind in zip(owners, _deck(CLASSES, len(owners), rng), strict=True)]
    total = 0  # of objects seen class by class: rounding the running total keeps the whole exact
    for kind in CLASSES:
        mine, lost = [slot for slot in slots if slot[1] == kind], "visible"
        done, total = round(SINGLE_SHARE * total), total + len(mine)
        if kind in ("person", "engine"):
            mine, lost = [slot for slot in mine if times[slot[0]] == "night"], "infrared"
        for i in rng.permutation(len(mine))[: round(SINGLE_SHARE * total) - done]:
            mine[i][2] = lost
    ghosts = [("lamp", "infrared"), ("sign", "infrared")]
    frauds = [(kind, modality) for kind in ("person", "engine") for modality in ("visible", "infrared")]
    kinds = {
        "day": _deck([*frauds, *frauds, *ghosts], 2 * count, rng),
        "night": _deck(ghosts, 2 * count, rng),
    }
    decoys = [
        [kinds[time].pop() for _ in range(n)]
        for time, n in zip(times, _deck((0, 1, 1, 2), count, rng), strict=True)
    ]
    objects = [[] for _ in range(count)]
    for i, kind, modality in slots:
        objects[i].append((kind, modality))
    return list(zip(times, objects, decoys, strict=True))


def draw_pair(
    shape: tuple[int, int], time: str, objects: list, decoys: list, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[Sprite]]:
    """Draw one pair: visible (H, W, 3) RGB uint8, infrared (H, W) uint8, and the objects back to front.

    `objects` and `decoys` list (class, modality). Every object is drawn, smaller where room is short, and has
    its `visible_part` set; a decoy that finds no room is left out.
    """
    horizon = int(shape[0] * rng.uniform(0.36, 0.48))
    shrink = 1.0
    while (placed := _place(shape, horizon, objects, shrink, rng)) is None:
        shrink *= 0.9
    for kind, modality in decoys:
        decoy = make_sprite(kind, modality, _length(kind, shape, rng), rng, label=False)
        _put(decoy, placed, shape, horizon, rng)
    placed.sort(key=lambda sprite: sprite.box[3])
    visible, infrared = render(placed, background(shape, horizon, rng), time == "night", rng)
    _uncover(placed, shape)
    return visible, infrared, [sprite for sprite in placed if sprite.label]


def _length(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> float:
    """A longer side in pixels, uniform in its logarithm."""
    scale = min(shape[0] / 144, shape[1] / 192)
    return float(np.exp(rng.uniform(np.log(SMALLEST), np.log(max(SIZES[kind] * scale, 20.0)))))


def _place(shape, horizon: int, objects: list, shrink: float, rng) -> list[Sprite] | None:
    """Find room for all `objects`, the largest first; None where one finds none."""
    lengths = [max(_length(kind, shape, rng) * shrink, SMALLEST) for kind, _ in objects]
    placed: list[Sprite] = []
    for i in np.argsort(lengths)[::-1]:
        if not _put(make_sprite(*objects[i], lengths[i], rng), placed, shape, horizon, rng):
            return None
    return placed


def _put(sprite: Sprite, placed: list[Sprite], shape, horizon: int, rng) -> bool:
    """Try to add `sprite` to `placed`; only objects of the same modality may overlap a little."""
    (height, width), (h, w) = shape, sprite.paint.shape[:2]
    depth = (max(h, w) - SMALLEST) / (0.4 * height)  # what is near stands low in the image
    for _ in range(60):
        foot = horizon + (height - horizon) * np.clip(depth + rng.normal(0, 0.25), 0.08, 1)
        if sprite.kind in ("lamp", "sign"):  # these hang on walls as well
            foot = rng.uniform(0.35 * height, height)
        sprite.x = int(rng.integers(3, width - w - 2))
        sprite.y = int(np.clip(foot - h, 3, height - h - 3))
        near = [other for other in placed if _distance(sprite.box, other.box) < GAP]
        if any(not (sprite.label and o.label and o.modality == sprite.modality) for o in near):
            continue
        if not near or _uncover(sorted([*placed, sprite], key=lambda s: s.box[3]), shape):
            placed.append(sprite)
            return True
    return False


def _distance(a: tuple, b: tuple) -> int:
    """Pixels between two boxes along the axis that parts them most; negative where they overlap."""
    return max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])


def _uncover(sprites: list[Sprite], shape: tuple[int, int]) -> bool:
    """Set `visible_part` of sprites given back to front; whether none is occluded beyond MAX_OCCLUDED."""
    hidden, mild = np.zeros(shape, np.float32), True
    for sprite in reversed(sprites):
        alpha = sprite.alpha(shape)
        sprite.visible_part = alpha * (1 - hidden)
        mild &= bool(sprite.visible_part.sum() >= (1 - MAX_OCCLUDED) * alpha.sum())
        hidden = hidden + alpha * (1 - hidden)
    return mild


def label_map(sprites: list[Sprite], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of what :func:`draw_pair` gives: 0 background, then CLASSES from 1.

    A pixel belongs to the object that fills more than half of it; of two that share it, to the one in front.
    """
    labels = np.zeros(shape, np.uint8)
    for sprite in sprites:
        labels[sprite.visible_part > 0.5] = CLASSES.index(sprite.kind) + 1
    return labels
