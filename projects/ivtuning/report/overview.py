"""What ran, its curves, and the figures of its last evaluation; of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from omegaconf import OmegaConf

from ..data.modalities import SHOWN_IN, TIMES
from ..engine.metrics import WINDOW
from ..evaluation.miss_rate import SUBSETS
from ..pages import Html, joined, section, table, tag
from ..visualization.curves import LOSS, METRICS
from .cells import bar, figure
from .charts import charts, line_chart
from .runs import Run

TASKS = {
    "bbox": "boxes",
    "segm": "masks",
    "sem_seg": "label maps",
    "saliency": "salient objects",
    "classification": "image classes",
}
MAIN = ("AP", "IoU", "mIoU")  # of the figures of a part, the one in its chart
MOST_LOSSES = 8  # parts of the loss in a chart, the largest ones


def headline(run: Run) -> Html:
    """The figures of the whole set, large."""
    tiles = [
        tag(
            "li", tag("b", figure(value)), f"{name}" if task == "bbox" else f"{name}, {TASKS.get(task, task)}"
        )
        for task, figures in run.results.items()
        for name, value in figures.items()
        if "-" not in name and value is not None
    ]
    if not tiles:
        return Html()
    note = f"These figures are of {run.other_set}, which is not the run's own test set."
    remark = tag("p", note, class_="note") if run.other_set else Html()
    return joined(tag("ul", *tiles[:8], class_="tiles"), remark)


def what_ran(names: Mapping[str, Run]) -> Html:
    """A table of facts with a column for each run; of one run its parameters and its config as well."""
    runs = list(names.values())
    facts = list(dict.fromkeys(fact for run in runs for fact in run.facts))
    rows = [[fact, *(run.facts.get(fact, "–") for run in runs)] for fact in facts]
    parts = [tag("div", table(["", *names] if len(runs) > 1 else ["", ""], rows), class_="facts")]
    if len(runs) == 1:
        run = runs[0]
        if run.parameters:
            parts.append(_folded("Parameters", run.parameters))
        parts.append(_folded("Config", OmegaConf.to_yaml(run.cfg)))
    return section("What ran", *parts)


def curves(names: Mapping[str, Run]) -> Html:
    """Losses, learning rate and the figures of evaluations by iteration."""
    if len(names) == 1:
        (run,) = names.values()
        drawn = [_losses(run), line_chart("Learning rate", {"lr": run.series("lr")}, "iteration")]
        drawn += _evaluations(run)
    else:
        measured = {key for run in names.values() for key in run.measured()}
        drawn = [
            line_chart(title, {name: run.series(key) for name, run in names.items()}, "iteration")
            for key, title in {LOSS: "Total loss", "lr": "Learning rate", **METRICS}.items()
            if key in measured
        ]
    note = tag("p", f"Losses are medians of the last {WINDOW} iterations.", class_="note")
    return section("Curves", *charts(*drawn), note)


def results(names: Mapping[str, Run]) -> list[Html]:
    """Sections of the figures of each task: of the whole set, by class, by time of day and by modality."""
    tasks = dict.fromkeys(task for run in names.values() for task in run.results)
    on = {name: f" on {run.other_set}" if run.other_set else "" for name, run in names.items()}
    place = "".join(on.values()) if len(names) == 1 else ""  # of several runs the columns say it
    sections = []
    for task in tasks:
        found = {name + on[name]: run.results[task] for name, run in names.items() if task in run.results}
        keys = list(dict.fromkeys(key for figures in found.values() for key in figures))
        whole = [key for key in keys if "-" not in key]
        parts = [table(["", *found], [[key, *(bar(f.get(key)) for f in found.values())] for key in whole])]
        parts += _by_part(found, keys)
        title = f"Figures of {TASKS.get(task, task)}{place}"
        sections.append(section(title, tag("div", *parts, class_="tables")))
    if not sections:
        return [section("Figures", tag("p", "The run has not been evaluated yet.", class_="note"))]
    return sections


def _by_part(found: Mapping[str, Mapping[str, float | None]], keys: Sequence[str]) -> list[Html]:
    """Tables of the figures whose names end with a class, a time of day or a modality."""
    split = [key.partition("-")[::2] for key in keys if "-" in key]
    tables = []
    for kind, parts in _grouped(part for _, part in split).items():
        figures = list(dict.fromkeys(name for name, part in split if part in parts))
        head = [f"{name} {run}" if len(found) > 1 else name for run in found for name in figures]
        rows = [
            [part, *(bar(f.get(f"{name}-{part}")) for f in found.values() for name in figures)]
            for part in parts
        ]
        tables.append(table([kind, *head], rows))
    return tables


def _grouped(parts: Iterable[str]) -> dict[str, list[str]]:
    """The parts that a set is divided into by what divides it; each part once."""
    groups: dict[str, list[str]] = {"class": [], "time of day": [], "modality": [], "subset": []}
    for part in dict.fromkeys(parts):
        kind = "time of day" if part in TIMES else "modality" if part in SHOWN_IN else "class"
        if part.removesuffix("-day").removesuffix("-night") in SUBSETS:  # of miss rates
            kind = "subset"
        groups[kind].append(part)
    return {kind: group for kind, group in groups.items() if group}


def _losses(run: Run) -> Html:
    parts = {key: run.series(key) for key in run.measured() if key.startswith("loss")}
    size = {key: sum(y for _, y in line) / len(line) for key, line in parts.items() if line}
    largest = sorted(size, key=lambda key: -size[key])[:MOST_LOSSES]
    title = (
        "Loss" if len(largest) == len(size) else f"Loss, and the largest {MOST_LOSSES} of {len(size)} parts"
    )
    return line_chart(title, {"total": run.series(LOSS), **{key: parts[key] for key in largest}}, "iteration")


def _evaluations(run: Run) -> list[Html]:
    """Charts of the figures of each task that was evaluated more than once, of the set and its parts."""
    drawn = []
    for task, title in TASKS.items():
        prefix = f"{task}/"
        lines = {
            key.removeprefix(prefix): run.series(key) for key in run.measured() if key.startswith(prefix)
        }
        lines = {name: line for name, line in lines.items() if len(line) > 1}
        whole = {name: line for name, line in lines.items() if "-" not in name}
        drawn.append(line_chart(f"Evaluation, {title}", whole, "iteration"))
        split = [name.partition("-")[::2] for name in lines if "-" in name]
        for kind, parts in _grouped(part for _, part in split).items():
            names = [*MAIN, *(name for name, _ in split)]
            best = next(n for n in names if any(f"{n}-{part}" in lines for part in parts))
            of_part = {part: lines[f"{best}-{part}"] for part in parts if f"{best}-{part}" in lines}
            drawn.append(line_chart(f"{best} by {kind}", of_part, "iteration"))
    return drawn


def _folded(title: str, text: str) -> Html:
    return tag("details", tag("summary", title), tag("pre", Html(escape(text))))
