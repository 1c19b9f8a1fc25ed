"""Plans and composes the synthetic scenes: which objects and decoys each one holds, and where they stand."""

from __future__ import annotations

import numpy as np

from ..modalities import MODALITIES, TIMES
from .drawing import CLASSES, Sprite, background, make_sprite, render

SINGLE_SHARE = 0.36  # share of the objects that show in one modality only
MAX_OBJECTS = 6  # in a scene
MAX_OCCLUDED = 0.3  # share of an object's pixels that others may hide
GAP = 6  # px between sprites that do not show in the same modalities
SIZES = {"person": 60.0, "engine": 60.0, "lamp": 44.0, "sign": 42.0}  # longest side in 192 x 144, px
SMALLEST = 12.0  # longer side of a sprite at any image size, px


def _deck(values, count: int, rng: np.random.Generator) -> list:
    """A shuffled deck of `count` cards with each of `values` equally often, or once more than another."""
    cards = [values[i % len(values)] for i in range(count)]
    return [cards[i] for i in rng.permutation(count)]


def deal(count: int, rng: np.random.Generator) -> list[tuple[str, list, list]]:
    """Plan `count` scenes: for each a time, and the (class, modality) of its objects and of its decoys."""
    times = _deck(TIMES, count, rng)
    slots = []  # [scene, class, modality], one per object
    for time in TIMES:
        scenes = [i for i in range(count) if times[i] == time]
        numbers = _deck(range(1, MAX_OBJECTS + 1), len(scenes), rng)
        owners = [i for i, number in zip(scenes, numbers, strict=True) for _ in range(number)]
        slots += [[i, kind, "both"] for i, kind in zip(owners, _deck(CLASSES, len(owners), rng), strict=True)]
    total = 0  # objects of the classes so far: rounding the running total keeps the whole share exact
    for kind in CLASSES:
        candidates, only = [slot for slot in slots if slot[1] == kind], "visible"
        dealt, total = round(SINGLE_SHARE * total), total + len(candidates)
        if kind in ("person", "engine"):
            candidates, only = [slot for slot in candidates if times[slot[0]] == "night"], "infrared"
        for i in rng.permutation(len(candidates))[: round(SINGLE_SHARE * total) - dealt]:
            candidates[i][2] = only
    reflections = [("lamp", "infrared"), ("sign", "infrared")]
    lookalikes = [(kind, modality) for kind in ("person", "engine") for modality in MODALITIES]
    decks = {
        "day": _deck([*lookalikes, *lookalikes, *reflections], 2 * count, rng),
        "night": _deck(reflections, 2 * count, rng),
    }
    decoys = [
        [decks[time].pop() for _ in range(n)]
        for time, n in zip(times, _deck((0, 1, 1, 2), count, rng), strict=True)
    ]
    objects = [[] for _ in range(count)]
    for i, kind, modality in slots:
        objects[i].append((kind, modality))
    return list(zip(times, objects, decoys, strict=True))


def draw_pair(
    shape: tuple[int, int], time: str, objects: list, decoys: list, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[Sprite]]:
    """Draw one pair.

    Args:
        shape: (H, W) in pixels.
        objects, decoys: (class, modality) of each. Every object is drawn, smaller if there is little room; a
            decoy without room is left out.

    Returns:
        visible (H, W, 3) RGB uint8, infrared (H, W) uint8, and the objects back to front, with their
        `visible_part` set.
    """
    horizon = int(shape[0] * rng.uniform(0.36, 0.48))
    shrink = 1.0
    while (placed := _place_all(shape, horizon, objects, shrink, rng)) is None:
        shrink *= 0.9
    for kind, modality in decoys:
        decoy = make_sprite(kind, modality, _random_length(kind, shape, rng), rng, is_object=False)
        _try_to_place(decoy, placed, shape, horizon, rng)
    placed.sort(key=lambda sprite: sprite.box[3])
    visible, infrared = render(placed, background(shape, horizon, rng), time == "night", rng)
    _set_visible_parts(placed, shape)
    return visible, infrared, [sprite for sprite in placed if sprite.is_object]


def _random_length(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> float:
    """A random longer side in pixels, log-uniform."""
    scale = min(shape[0] / 144, shape[1] / 192)
    return float(np.exp(rng.uniform(np.log(SMALLEST), np.log(max(SIZES[kind] * scale, 20.0)))))


def _place_all(shape, horizon: int, objects: list, shrink: float, rng) -> list[Sprite] | None:
    """Place all `objects`, the largest first; None if there is no room for one of them."""
    lengths = [max(_random_length(kind, shape, rng) * shrink, SMALLEST) for kind, _ in objects]
    placed: list[Sprite] = []
    for i in np.argsort(lengths)[::-1]:
        if not _try_to_place(
            make_sprite(*objects[i], long_side=lengths[i], rng=rng), placed, shape, horizon, rng
        ):
            return None
    return placed


def _try_to_place(sprite: Sprite, placed: list[Sprite], shape, horizon: int, rng) -> bool:
    """Try to add `sprite` to `placed`. Only objects of the same modality may overlap a little."""
    (height, width), (h, w) = shape, sprite.paint.shape[:2]
    depth = (max(h, w) - SMALLEST) / (0.4 * height)  # near things stand low in the image
    for _ in range(60):
        foot = horizon + (height - horizon) * np.clip(depth + rng.normal(0, 0.25), 0.08, 1)
        if sprite.kind in ("lamp", "sign"):  # these also hang on walls
            foot = rng.uniform(0.35 * height, height)
        sprite.x = int(rng.integers(3, width - w - 2))
        sprite.y = int(np.clip(foot - h, 3, height - h - 3))
        near = [other for other in placed if _distance(sprite.box, other.box) < GAP]
        if any(not (sprite.is_object and o.is_object and o.modality == sprite.modality) for o in near):
            continue
        if not near or _set_visible_parts(sorted([*placed, sprite], key=lambda s: s.box[3]), shape):
            placed.append(sprite)
            return True
    return False


def _distance(a: tuple, b: tuple) -> int:
    """Pixels between two boxes along the axis that separates them most; negative if they overlap."""
    return max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])


def _set_visible_parts(sprites: list[Sprite], shape: tuple[int, int]) -> bool:
    """Set `visible_part` of sprites given back to front; True if none is occluded beyond MAX_OCCLUDED."""
    hidden, mild = np.zeros(shape, np.float32), True
    for sprite in reversed(sprites):
        alpha = sprite.alpha(shape)
        sprite.visible_part = alpha * (1 - hidden)
        mild &= bool(sprite.visible_part.sum() >= (1 - MAX_OCCLUDED) * alpha.sum())
        hidden = hidden + alpha * (1 - hidden)
    return mild


def label_map(sprites: list[Sprite], shape: tuple[int, int]) -> np.ndarray:
    """The (H, W) uint8 label map of :func:`draw_pair`'s objects: 0 is background, CLASSES count from 1.

    A pixel belongs to the object that covers more than half of it; of two, to the one in front.
    """
    labels = np.zeros(shape, np.uint8)
    for sprite in sprites:
        labels[sprite.visible_part > 0.5] = CLASSES.index(sprite.kind) + 1
    return labels
