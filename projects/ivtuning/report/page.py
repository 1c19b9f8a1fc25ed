"""Writes the page of a run, or of several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..pages import Html, joined, read_part, section, tag, write_page
from ..utils.text import one_line
from .classification import class_details
from .details import Details
from .detection import box_details
from .overview import curves, headline, results, what_ran
from .pictures import pictures
from .predictions import Predictions, predict_run
from .runs import Run
from .segmentation import label_details

AGREES = 0.05  # figures on 0..100 that differ by less are the same


def write_report(
    runs: Sequence[Run],
    output: Path,
    predict: bool = True,
    weights: str | None = None,
    threshold: float | None = None,
    pairs: int = 6,
) -> Path:
    """Write the page `output`; it holds all that it shows, and opens from any place.

    Args:
        runs: one run, with the details of its predictions, or several, with their curves and figures.
        predict: whether one run's predictions are made (once) and shown.
        weights: whose predictions; None: see :attr:`.runs.Run.model`.
        threshold: least score of boxes that count in the confusion and in pictures; None: where F1 is best.
        pairs: how many of the worst and of the best pairs are drawn.

    Raises:
        UserError: nothing can be predicted, a pair cannot be read, or `output` cannot be written.
    """
    names = _names(runs)
    if output.is_dir():
        raise UserError(f"{output} is a folder: name a file, such as {output / 'report.html'}")
    sections = [what_ran(names), curves(names), *results(names)]
    if len(runs) == 1 and predict:
        sections += _predicted(runs[0], weights, threshold, pairs)
    first = headline(runs[0]) if len(runs) == 1 else Html()
    title = f"Report: {', '.join(names)}"
    style, script = (read_part(name, __file__) for name in ("style.css", "script.js"))
    return write_page(output, title, joined(first, *sections), style, script)


def _predicted(run: Run, weights: str | None, threshold: float | None, pairs: int) -> list[Html]:
    """Sections of what the model predicts on the test set."""
    predictions = predict_run(run, weights)
    if predictions is None:
        text = "The run has no checkpoint yet, so nothing is said about its predictions."
        return [section("Predictions", tag("p", text, class_="note"))]
    details = _details(run, predictions, threshold)
    count = f"{len(predictions.records):,} images of the test set"
    text = f"What follows is of {predictions.weights}, on the {count}."
    notes = [tag("p", f"{text}{_disagreement(run, details)}", class_="note")]
    return [section("Predictions", *notes), *details.sections, *pictures(run, predictions, details, pairs)]


def _details(run: Run, predictions: Predictions, threshold: float | None) -> Details:
    if predictions.kind == "labels":
        return label_details(predictions)
    if predictions.kind == "scores":
        return class_details(predictions)
    return box_details(run, predictions, threshold)


def _disagreement(run: Run, details: Details) -> str:
    """A sentence where the predictions do not give the figures of the evaluation; otherwise ""."""
    if run.other_set:
        return f" The figures above are of another set, {run.other_set}."
    for name, value in details.figures.items():
        task, _, key = name.partition("/")
        known = run.results.get(task, {}).get(key)
        if known is not None and not math.isclose(known, value, abs_tol=AGREES):
            return (
                f" They give {key} {value:.1f}, where the evaluation had {known:.1f}: that was of other "
                "weights or with other settings."
            )
    return ""


def _names(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs by what the page calls them: the folders' names, numbered where two are equal."""
    names = [one_line(run.name, 60) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{i} {name}" for i, name in enumerate(names, 1)]
    return dict(zip(names, runs, strict=True))
