"""Whether pairs agree with a warp: what is left of each pair's displacement, and how well its edges fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from .edges import correlate
from .estimate import COARSE, FINE, Pair, Report, edge_fields, refine, search, search_steps

# The width in pixels to which visible images are reduced.
_WIDTH = 256
# A pair shows where it belongs if its highest score is this many times the highest one elsewhere.
CLEAR = 1.5
# How far a pair may be from the first, coarse warp to take part in the exact one, in widths of the image.
_NEAR = 0.04
# The fewest pairs with such a score from which a warp is taken.
MIN_PAIRS = 5
# Pairs agree if this share of the clear ones is within the limit.
AGREEING = 0.75
# The default limit, in diagonals of the visible image.
LIMIT = 0.01


@dataclass(frozen=True)
class Residual:
    """What a warp leaves of one pair.

    Attributes:
        name: of the pair.
        dx, dy: how far the warped infrared image must still move to fit best, in visible pixels.
        clearness: the best score over the best one elsewhere; from CLEAR on, dx and dy mean something.
        correlation: of the edges of the two images as they are warped, -1..1.
    """

    name: str
    dx: float
    dy: float
    clearness: float
    correlation: float

    @property
    def length(self) -> float:
        return float(np.hypot(self.dx, self.dy))

    @property
    def is_clear(self) -> bool:
        return self.clearness >= CLEAR


def residual(name: str, pair: Pair, matrix: np.ndarray) -> Residual:
    """What `matrix`, from infrared to visible pixels, leaves of a pair, (H, W) uint8 each."""
    fixed, moving, down = edge_fields(pair, matrix, min(_WIDTH, pair[0].shape[1]))
    norms = np.linalg.norm(fixed[np.any(moving, axis=2)]) * np.linalg.norm(moving[np.any(fixed, axis=2)])
    correlation = float((fixed * moving).sum() / norms) if norms else 0.0
    scores, (top, left) = correlate(fixed, moving)
    row, column = (int(i) for i in np.unravel_index(np.argmax(scores), scores.shape))
    around = fixed.shape[1] // 16
    elsewhere = scores.copy()
    elsewhere[max(0, row - around) : row + around + 1, max(0, column - around) : column + around + 1] = 0
    clearness = float(scores[row, column] / max(elsewhere.max(), 1e-9)) if scores[row, column] > 0 else 0.0
    dx = column - left + _between(scores[row], column)
    dy = row - top + _between(scores[:, column], row)
    return Residual(name, dx / down[0, 0], dy / down[1, 1], min(clearness, 100.0), correlation)


def estimate(pairs: Sequence[Pair], model: str, report: Report = lambda: None) -> np.ndarray:
    """The 3x3 matrix from infrared to visible pixels of one of MODELS that fits the pairs best.

    Pairs that belong elsewhere, or nowhere, only take part in its beginning.
    """
    matrix = refine(pairs, search(pairs, model, report), model, COARSE, report)
    left = []
    for pair in pairs:
        left.append(residual("", pair, matrix))
        report()
    near = pairs[0][0].shape[1] * _NEAR
    kept = [p for p, r in zip(pairs, left, strict=True) if r.length < near]
    return refine(kept if len(kept) >= MIN_PAIRS else pairs, matrix, model, FINE, report)


def estimate_steps(pairs: int, model: str) -> int:
    """How often :func:`estimate` calls `report` at most."""
    return search_steps(model) + pairs * (len(COARSE) + 1 + len(FINE))


def _between(line: np.ndarray, i: int) -> float:
    """How far the top of a parabola through three neighbors is from the middle one, in -0.5..0.5."""
    if not 0 < i < len(line) - 1:
        return 0.0
    low, top, high = (float(value) for value in line[i - 1 : i + 2])
    bend = low - 2 * top + high
    return float(np.clip(0.5 * (low - high) / bend, -0.5, 0.5)) if bend < 0 else 0.0


@dataclass(frozen=True)
class Agreement:
    """How far pairs agree with a warp.

    Attributes:
        before, after: of the same pairs, with infrared only resized to the visible size, and warped.
        limit: in pixels of the visible image.
    """

    before: Sequence[Residual]
    after: Sequence[Residual]
    limit: float

    @property
    def clear(self) -> list[Residual]:
        return [r for r in self.after if r.is_clear]

    @property
    def spread(self) -> float:
        """The displacement in pixels that the AGREEING share of the clear pairs does not exceed."""
        return float(np.quantile([r.length for r in self.clear], AGREEING)) if self.clear else 0.0

    @property
    def agrees(self) -> bool:
        return self.spread <= self.limit

    def check_usable(self) -> None:
        """Raise UserError unless enough pairs show where they belong."""
        if len(self.clear) < MIN_PAIRS:
            raise UserError(
                f"{len(self.clear)} of {len(self.after)} sampled pairs have edges that both images show, and "
                f"{MIN_PAIRS} are needed: do the folders show the same scenes? Else raise --pairs, or give "
                "--calibration"
            )

    def check(self) -> None:
        """Raise UserError unless the pairs agree on one warp."""
        self.check_usable()
        if self.agrees:
            return
        worst = sorted(self.clear, key=lambda r: -r.length)[:3]
        names = ", ".join(f"{r.name} ({r.length:.0f} px)" for r in worst)
        raise UserError(
            f"the pairs disagree on one warp: a quarter of {len(self.clear)} is {self.spread:.1f} px off or "
            f"more, and the limit is {self.limit:.1f} px; the worst: {names}. The cameras moved, or scenes "
            "are near: align each recording by itself, choose pairs of distant scenes, or raise --limit"
        )

    def as_dict(self) -> dict:
        """Figures for the JSON file: medians over the clear pairs in pixels, and every pair."""
        rows: list[dict[str, Any]] = [
            {"after": asdict(after), "before": asdict(before), "clear": after.is_clear}
            for before, after in zip(self.before, self.after, strict=True)
        ]
        clear = [row for row in rows if row["clear"]]
        return {
            "sampled": len(rows),
            "clear": len(clear),
            "limit_px": round(self.limit, 2),
            "spread_px": round(self.spread, 2),
            "median_px": round(float(np.median([r.length for r in self.clear])), 2) if clear else None,
            "correlation_before": _median([row["before"]["correlation"] for row in clear]),
            "correlation_after": _median([row["after"]["correlation"] for row in clear]),
            "pairs": rows,
        }


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 4) if values else None


def measure(
    named: Sequence[tuple[str, Pair]],
    matrix: np.ndarray,
    plain: np.ndarray,
    limit: float | None,
    report: Report = lambda: None,
) -> Agreement:
    """How far pairs agree with `matrix`; `plain` is the one that only resizes.

    Args:
        named: pairs with their names.
        limit: in pixels of the visible image; None: LIMIT of its diagonal.
    """
    before, after = [], []
    for name, pair in named:
        before.append(residual(name, pair, plain))
        after.append(residual(name, pair, matrix))
        report()
    diagonal = float(np.hypot(*named[0][1][0].shape))
    return Agreement(before, after, LIMIT * diagonal if limit is None else limit)
