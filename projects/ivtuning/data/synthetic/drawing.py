"""Draws one paired street scene: background, sprites and the two sensors.

Everything is drawn in the visible camera's frame, on two layers: the light that the visible camera sees,
and the warmth above ambient that the infrared camera sees. An object that does not show in a modality is not
drawn on that layer. Colors are RGB, coordinates (x, y) in pixels, levels 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

CLASSES = ("person", "engine", "lamp", "sign")
CLOTHES = ((205, 35, 35), (30, 60, 205), (235, 120, 20), (20, 140, 50), (240, 240, 240), (190, 30, 160))
BODIES = ((190, 25, 30), (25, 50, 180), (245, 245, 245), (20, 120, 60), (235, 170, 20))
PANELS = ((215, 20, 25), (15, 60, 210), (250, 205, 10))
SUPERSAMPLE = (
    4  # sprites are drawn larger by this factor and averaged, so that edges are smooth even at 10 px
)

Part = tuple[np.ndarray, tuple[int, int, int], float]  # polygon in the unit square, color, warmth


@dataclass(eq=False)
class Sprite:
    """A thing in a scene: an object, or a decoy that only looks like one."""

    kind: str
    modality: str  # "both", "visible" or "infrared"
    paint: np.ndarray  # (h, w, 5) float32: RGB and warmth premultiplied by alpha, then alpha in [0, 1]
    is_object: bool = True
    x: int = 0
    y: int = 0
    visible_part: np.ndarray = field(default=None)  # (H, W) float32: alpha that nothing in front hides

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), x1 and y1 exclusive."""
        height, width = self.paint.shape[:2]
        return self.x, self.y, self.x + width, self.y + height

    def alpha(self, shape: tuple[int, int]) -> np.ndarray:
        """The whole sprite's alpha on an (H, W) canvas."""
        x0, y0, x1, y1 = self.box
        canvas = np.zeros(shape, np.float32)
        canvas[y0:y1, x0:x1] = self.paint[..., 4]
        return canvas


def _ellipse(cx: float, cy: float, rx: float, ry: float, corners: int = 24) -> np.ndarray:
    angle = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], 1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _pick(rng: np.random.Generator, palette) -> tuple[int, int, int]:
    color = np.array(palette[rng.integers(len(palette))]) + rng.integers(-15, 16, 3)
    red, green, blue = color.clip(5, 250).tolist()
    return red, green, blue


def _person(rng: np.random.Generator) -> tuple[float, list[Part]]:
    stride, swing = rng.uniform(0.02, 0.3), rng.uniform(0.0, 0.12)
    top, trousers = _pick(rng, CLOTHES), _pick(rng, ((25, 25, 35), (30, 35, 80), (70, 45, 25)))
    skin = _pick(rng, ((225, 175, 140), (150, 100, 70), (90, 60, 45)))
    legs = [
        np.array([[0.5 - 0.22, 0.52], [0.5 + 0.08, 0.52], [0.42 - stride, 1.0], [0.2 - stride * 0.6, 1.0]]),
        np.array([[0.5 - 0.08, 0.52], [0.5 + 0.22, 0.52], [0.8 + stride * 0.6, 1.0], [0.58 + stride, 1.0]]),
    ]
    arms = [
        np.array([[0.3, 0.2], [0.4, 0.24], [0.2 - swing, 0.58], [0.05 - swing / 2, 0.55]]),
        np.array([[0.7, 0.2], [0.6, 0.24], [0.8 + swing, 0.58], [0.95 + swing / 2, 0.55]]),
    ]
    torso = np.array([[0.26, 0.19], [0.74, 0.19], [0.76, 0.56], [0.24, 0.56]])
    parts = [(leg, trousers, 75.0) for leg in legs] + [(arm, top, 85.0) for arm in arms]
    return rng.uniform(0.38, 0.48), [*parts, (torso, top, 95.0), (_ellipse(0.5, 0.1, 0.21, 0.1), skin, 120.0)]


def _engine(rng: np.random.Generator) -> tuple[float, list[Part]]:
    color, roof = _pick(rng, BODIES), rng.uniform(0.3, 0.4)
    cabin = np.array([[roof, 0.4], [roof + 0.1, 0.0], [0.92, 0.0], [0.97, 0.4]])
    glass = np.array([[roof + 0.05, 0.38], [roof + 0.13, 0.08], [0.87, 0.08], [0.91, 0.38]])
    parts = [
        (cabin, color, 40.0),
        (glass, (60, 80, 95), 30.0),
        (_box(0.0, 0.36, 1.0, 0.84), color, 40.0),
        (_box(0.04, 0.4, 0.28, 0.76), (40, 40, 45), 140.0),  # the engine block behind its dark grille
    ]
    for cx in (0.22, 0.79):
        parts.append((_ellipse(cx, 0.81, 0.11, 0.19), (18, 18, 20), 55.0))
        parts.append((_ellipse(cx, 0.81, 0.045, 0.08), (190, 190, 190), 55.0))
    if rng.random() < 0.5:
        parts = [(points * (-1, 1) + (1, 0), color, warmth) for points, color, warmth in parts]
    return rng.uniform(1.7, 2.3), parts


def _lamp(rng: np.random.Generator) -> tuple[float, list[Part]]:
    half, dark = rng.uniform(0.12, 0.16), _pick(rng, ((30, 35, 35), (25, 50, 40)))
    glass = _ellipse(0.5, 0.22, 0.5, 0.2) if rng.random() < 0.5 else _ellipse(0.5, 0.22, 0.5, 0.22, corners=6)
    return rng.uniform(0.38, 0.46), [
        (_box(0.5 - half, 0.3, 0.5 + half, 1.0), dark, 45.0),
        (_box(0.2, 0.93, 0.8, 1.0), dark, 45.0),
        (glass, _pick(rng, ((250, 225, 110), (250, 235, 150))), 125.0),
        (_box(0.2, 0.0, 0.8, 0.06), dark, 90.0),
    ]


def _sign(rng: np.random.Generator) -> tuple[float, list[Part]]:
    corners = (24, 8, 3, 4)[rng.integers(4)]
    outer, inner = (_ellipse(0.5, 0.36, r, 0.72 * r, corners) for r in (0.5, 0.39))
    color, bar = _pick(rng, PANELS), _box(0.28, 0.31, 0.72, 0.42)
    return rng.uniform(0.66, 0.76), [
        (_box(0.42, 0.4, 0.58, 1.0), (55, 55, 60), 40.0),
        (outer, (245, 245, 245), 70.0),
        (inner, color, 70.0),
        (bar, (245, 245, 245), 70.0),
    ]


_DRAW = {"person": _person, "engine": _engine, "lamp": _lamp, "sign": _sign}


def make_sprite(
    kind: str, modality: str, long_side: float, rng: np.random.Generator, is_object: bool = True
) -> Sprite:
    """A random sprite of class `kind` with a longer side of `long_side` pixels."""
    aspect, parts = _DRAW[kind](rng)
    points = np.concatenate([part[0] for part in parts])
    low, extent = points.min(0), np.ptp(points, axis=0)  # a wide stride leaves the unit square
    width = max(round(long_side * min(aspect, 1)), 4)
    height = max(round(long_side / max(aspect, 1)), 4)
    shape, n = (height * SUPERSAMPLE, width * SUPERSAMPLE), SUPERSAMPLE
    paint, alpha = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32)
    warm = rng.uniform(0.85, 1.15)
    for polygon, color, warmth in parts:
        corners = np.round((polygon - low) / extent * (width * n - 1, height * n - 1)).astype(np.int32)
        cv2.fillPoly(paint, [corners], (*color, warmth * warm))
        cv2.fillPoly(alpha, [corners], 1.0)
    paint = cv2.resize(np.dstack([paint, alpha]), (width, height), interpolation=cv2.INTER_AREA)
    return Sprite(kind, modality, paint, is_object)


def texture(rng: np.random.Generator, shape: tuple[int, int], cell: int, sigma: float) -> np.ndarray:
    """A smooth (H, W) texture: noise on a grid of `cell` pixels, interpolated."""
    small = rng.normal(0, sigma, (shape[0] // cell + 2, shape[1] // cell + 2)).astype(np.float32)
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


def background(
    shape: tuple[int, int], horizon: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An empty street by daylight: RGB (H, W, 3) and infrared (H, W), both float32.

    The infrared street is even, so that things at ambient temperature truly vanish in it.
    """
    height, width = shape
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, bottom = np.float32([125, 160, 200]), np.float32([195, 205, 212])
    light = np.ascontiguousarray(np.broadcast_to(top + (bottom - top) * rows * 2, (height, width, 3)))
    heat = np.full(shape, 62, np.float32)
    x = -int(rng.integers(0, width // 8))
    while x < width:
        wide, tall = int(width * rng.uniform(0.12, 0.3)), int(horizon * rng.uniform(0.35, 0.95))
        wall = np.array([150, 142, 132]) + rng.uniform(-25, 25) + rng.uniform(-10, 10, 3)
        cv2.rectangle(light, (x, horizon - tall), (x + wide, horizon), wall.tolist(), -1)
        cv2.rectangle(heat, (x, horizon - tall), (x + wide, horizon), rng.uniform(66, 74), -1)
        step = max(round(height / 14), 5)
        for wx in range(x + step // 2, x + wide - step // 2, step):
            for wy in range(horizon - tall + step // 2, horizon - step, step):
                pane = (wx, wy), (wx + step // 2 - 1, wy + step // 2)
                cv2.rectangle(light, *pane, (wall * rng.uniform(0.68, 0.85)).tolist(), -1)
        x += wide + int(rng.integers(0, width // 16))
    vanishing, gray = rng.uniform(0.3, 0.7) * width, rng.uniform(88, 112)
    cv2.rectangle(light, (0, horizon), (width, height), (gray + 38, gray + 34, gray + 26), -1)  # pavement
    cv2.rectangle(heat, (0, horizon), (width, height), 72, -1)
    for half, color in ((0.62, (gray, gray, gray + 3)), (0.012, (gray + 45,) * 3)):
        foot = [width / 2 - half * width, height], [width / 2 + half * width, height]
        road = np.int32([[vanishing - 2 * half, horizon], [vanishing + 2 * half, horizon], foot[1], foot[0]])
        cv2.fillPoly(light, [road], color)
    cv2.fillPoly(
        heat, [np.int32([[vanishing, horizon], [1.12 * width, height], [-0.12 * width, height]])], 78
    )
    light += (texture(rng, shape, 12, 6) + texture(rng, shape, 3, 4))[..., None]
    return light, cv2.GaussianBlur(heat, (0, 0), 2) + texture(rng, shape, 24, 3)


def _glow(shape: tuple[int, int], x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """An (H, W, 1) Gaussian spot around (x, y), 1 at its center."""
    ys, xs = np.ogrid[: shape[0], : shape[1]]
    return np.exp(-(((xs - x) / rx) ** 2) - ((ys - y) / ry) ** 2).astype(np.float32)[..., None]


def render(
    sprites: list[Sprite], street: tuple[np.ndarray, np.ndarray], night: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paint `sprites` (back to front) onto `street` and take a picture with both sensors.

    Returns:
        visible (H, W, 3) RGB and infrared (H, W), uint8. Infrared is shifted by up to 2 px, like the parallax
        between two cameras, and each image has its own noise.
    """
    light, heat = street
    shape, warmth = heat.shape, np.zeros_like(heat)
    if night:
        light = light * np.float32([0.12, 0.13, 0.18]) * rng.uniform(0.7, 1.2)
        heat = heat * 0.75
    else:
        light = light * rng.uniform(0.85, 1.08)
    seen = [s for s in sprites if s.modality != "infrared"]
    if night:  # persons and engines that show at night stand in a pool of light
        for s in (s for s in seen if s.kind in ("person", "engine")):
            x0, y0, x1, y1 = s.box
            pool = _glow(shape, (x0 + x1) / 2, y1, (x1 - x0) * 0.9 + 4, (y1 - y0) * 0.35 + 2)
            light = light + pool * np.float32([46, 42, 32])
    for s in sprites:
        x0, y0, x1, y1 = s.box
        keep = 1 - s.paint[..., 4]
        if s in seen:
            gain = (1.15 if s.kind == "lamp" else 0.75) if night else 1.0
            light[y0:y1, x0:x1] = light[y0:y1, x0:x1] * keep[..., None] + s.paint[..., :3] * gain
        if s.modality != "visible":
            warmth[y0:y1, x0:x1] = warmth[y0:y1, x0:x1] * keep + s.paint[..., 3]
    if night:
        for s in (s for s in seen if s.kind == "lamp"):
            x0, y0, x1, y1 = s.box
            reach = (y1 - y0) * 0.32
            light = light + _glow(shape, (x0 + x1) / 2, y0 * 0.8 + y1 * 0.2, reach, reach) * [48, 40, 22]
    dx, dy = rng.uniform(-2, 2), rng.uniform(-1, 1)
    shift = np.float32([[1, 0, dx], [0, 1, dy]])
    infrared = cv2.warpAffine(heat + warmth, shift, shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    infrared = cv2.GaussianBlur(infrared, (0, 0), 0.6) + rng.uniform(-12, 12)
    visible = light + rng.normal(0, 3.0 if night else 4.0, (*shape, 3))
    infrared = infrared + rng.normal(0, 3.0, shape) + rng.normal(0, 0.8, (1, shape[1]))
    return visible.round().clip(0, 255).astype(np.uint8), infrared.round().clip(0, 255).astype(np.uint8)
