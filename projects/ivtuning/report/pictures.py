"""The worst and the best pairs of a set, drawn with ground truth and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import build
from ..pages import Html, picture, section, tag
from ..utils.progress import track
from ..visualization.gallery import painter_of
from ..visualization.panels import picture_stems
from .details import Details, ImageScore
from .predictions import Predictions
from .runs import Run


def choose(scores: Mapping[Any, ImageScore], count: int) -> tuple[list, list]:
    """The ids of the worst and the best images, worst and best first; none is both.

    Args:
        count: of each, at most.
    """
    worst = sorted(scores, key=lambda i: (scores[i].score, -scores[i].weight))
    best = sorted(scores, key=lambda i: (-scores[i].score, -scores[i].weight))
    worst = worst[: min(count, (len(scores) + 1) // 2)]
    return worst, [i for i in best if i not in worst][:count]


def pictures(run: Run, predictions: Predictions, details: Details, count: int) -> list[Html]:
    """Sections of the worst and the best pairs.

    Raises:
        UserError: an image of these pairs cannot be read.
    """
    worst, best = choose(details.scores, count)
    painter = painter_of(predictions.dataset, details.threshold)
    ir_range = getattr(build(run.cfg, "dataloader.test.mapper"), "ir_range", None)
    stems = picture_stems(predictions.records)
    of_id = {r["image_id"]: (r, stem) for r, stem in zip(predictions.records, stems, strict=True)}
    drawn = {}
    for i in track([*worst, *best], "drawing"):
        record, stem = of_id[i]
        vis, ir = painter.read(record, ir_range)
        drawing, _ = painter.draw(record, vis, ir, predictions.of(record))
        title = f"{stem}, {record['time']}" if "time" in record else stem
        caption = tag("figcaption", title, tag("small", details.scores[i].note))
        enlarge = tag(
            "button", picture(drawing.picture(), title), type="button", title="enlarge, or make small again"
        )
        drawn[i] = tag("figure", enlarge, caption, class_="pair")
    return [
        *_part("Worst pairs", worst, drawn, details.rule),
        *_part("Best pairs", best, drawn, details.rule),
    ]


def _part(title: str, ids: Sequence, drawn: Mapping[Any, Html], rule: str) -> list[Html]:
    if not ids:
        return []
    shown = tag("div", *(drawn[i] for i in ids), class_="pairs")
    return [section(title, tag("p", rule, class_="note"), shown)]
