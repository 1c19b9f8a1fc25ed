"""The details of a detector: precision by recall, F1 by threshold, confusion of classes and background."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..config import build
from ..evaluation.coco import PairCOCOEvaluator, mean_precision
from ..evaluation.matching import ImageMatches, ThresholdCurve, box_confusion, match_image, threshold_curve
from ..pages import Html, section, table, tag
from ..visualization.panels import class_name
from .cells import bar
from .charts import charts, line_chart
from .details import Details, ImageScore, confusion_section
from .predictions import Predictions
from .runs import Run

MOST_LINES = 10  # classes in a chart, those with the most objects
RECALLS = np.linspace(0, 1, 101)
IOUS = {"0.50": 0, "0.75": 5}  # positions among COCO's
RULE = "An image's score is its F1 at IoU 0.5: 2 x found / (2 x found + false alarms + missed objects)."


def box_details(run: Run, predictions: Predictions, threshold: float | None) -> Details:
    """Details of boxes.

    Args:
        threshold: the score from which detections count in the confusion and in pictures; None: where F1 over
            all classes is highest.
    """
    evaluator = build(run.cfg, "dataloader.evaluator")
    if not isinstance(evaluator, PairCOCOEvaluator):
        evaluator = PairCOCOEvaluator(predictions.dataset)
    classes = [class_name(k, list(evaluator.classes.values())) for k in range(len(evaluator.classes))]
    results = [entry for entries in predictions.entries.values() for entry in entries]
    matches = _matches(evaluator, results)
    pooled = threshold_curve(list(matches.values()))
    chosen = "given" if threshold is not None else "the best F1 over all classes of this set"
    if threshold is None:
        threshold = 0.5 if pooled.best is None else float(pooled.thresholds[pooled.best])
    sections = []
    if not results:
        sections.append(
            section("Detections", tag("p", "The model has not detected anything.", class_="note"))
        )
    figures = {}
    if evaluator.truth["annotations"]:
        precision = evaluator.precision_by_recall(results)
        figures = {"bbox/AP": mean_precision(precision), "bbox/AP50": mean_precision(precision[0])}
        curves = [threshold_curve(list(matches.values()), k) for k in range(len(classes))]
        sections.append(_precision(classes, precision, curves, pooled))
        matrix = box_confusion(list(matches.values()), len(classes), threshold)
        note = (
            f"Shares of each row in percent, of detections with a score of at least {threshold:.2f} "
            f"({chosen}). They are matched at IoU 0.5 as COCO does it, by score and one to an object; those "
            "that find no object of their class may match one of another. Crowd regions do not count."
        )
        names = ("background (false alarm)", "background (missed)")
        sections.append(confusion_section(matrix, classes, note, names, "boxes"))
    scores = {image: score for image, m in matches.items() if (score := _score(m, threshold))}
    rule = f"{RULE} Detections count from a score of {threshold:.2f}; images without either are left out."
    return Details(sections, scores, rule, figures, threshold)


def _matches(evaluator: PairCOCOEvaluator, results: Sequence[dict]) -> dict[int, ImageMatches]:
    """The matches at IoU 0.5 of each image of the set, by its id."""
    labels = {category: k for k, category in enumerate(evaluator.classes)}
    sides: list[dict] = [defaultdict(list), defaultdict(list)]
    for side, boxes in zip(sides, (evaluator.truth["annotations"], results), strict=True):
        for box in boxes:
            side[box["image_id"]].append({**box, "label": labels[box["category_id"]]})
    truth, found = sides
    ids = [image["id"] for image in evaluator.truth["images"]]
    return {i: match_image(truth[i], found[i], 0.5, evaluator.max_dets_per_image) for i in ids}


def _precision(
    classes: Sequence[str], precision: np.ndarray, curves: Sequence[ThresholdCurve], pooled: ThresholdCurve
) -> Html:
    """Charts and a table of precision, recall and F1 of each class."""
    order = sorted(range(len(classes)), key=lambda k: -curves[k].objects)
    drawn = [k for k in order[:MOST_LINES] if curves[k].objects]
    unit = (0.0, 1.0)
    by_recall = []
    for name, place in IOUS.items():
        values = precision[place]
        lines = {
            f"{classes[k]} ({mean_precision(values[:, k]):.1f})": _points(RECALLS, values[:, k])
            for k in drawn
        }
        valid = values[:, values[0] > -1]
        if valid.size:
            lines = {f"mean ({mean_precision(valid):.1f})": _points(RECALLS, valid.mean(1)), **lines}
        by_recall.append(line_chart(f"Precision by recall, IoU {name} (AP)", lines, "recall", unit, unit))
    by_score = {"all": pooled, **{classes[k]: curves[k] for k in drawn}}
    f1 = {name: _points(c.thresholds[::-1], c.f1[::-1]) for name, c in by_score.items()}
    by_recall.append(line_chart("F1 at IoU 0.5 by least score", f1, "least score", unit, unit))
    rows = []
    for name, k in [*((name, k) for k, name in enumerate(classes)), ("all", None)]:
        curve = pooled if k is None else curves[k]
        best = curve.best
        at = (
            ["–"] * 4
            if best is None
            else [
                f"{curve.thresholds[best]:.2f}",
                *(bar(100 * v[best]) for v in (curve.f1, curve.precision, curve.recall)),
            ]
        )
        values = precision if k is None else precision[:, :, k]
        figures = [bar(mean_precision(part)) for part in (values, values[0], values[5])]
        rows.append([name, f"{curve.objects:,}", *figures, *at])
    head = ["class", "objects", "AP", "AP50", "AP75", "best score", "F1 there", "precision", "recall"]
    few = (
        f" The charts show the {MOST_LINES} classes with the most objects."
        if len(classes) > MOST_LINES
        else ""
    )
    note = f"“Best score” is the least score at which the F1 of a class is highest on this set.{few}"
    return section(
        "Precision and recall", *charts(*by_recall), table(head, rows), tag("p", note, class_="note")
    )


def _score(matches: ImageMatches, threshold: float) -> ImageScore | None:
    f1 = matches.f1(threshold)
    if f1 is None:
        return None
    found, alarms, missed = matches.counts(threshold)
    note = f"F1 {f1:.2f}: {found} found, {missed} missed, {alarms} false alarm{'s' * (alarms != 1)}"
    return ImageScore(f1, found + alarms + missed, note)


def _points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(x.tolist(), y.tolist(), strict=True))
