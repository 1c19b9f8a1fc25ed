"""The markdown tables of a comparison: its rows by size, the search of their rates, and its conditions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from .rows import ROWS

# Figures that the table shows beside the one that rows are judged by, and their heads.
HEADS = {
    "bbox/AP": "AP",
    "bbox/AP50": "AP50",
    "bbox/AP-both": "AP both",
    "bbox/AP-visible": "AP vis only",
    "bbox/AP-infrared": "AP ir only",
    "bbox/AP-day": "AP day",
    "bbox/AP-night": "AP night",
    "segm/AP": "mask AP",
    "sem_seg/mIoU": "mIoU",
    "sem_seg/mIoU-day": "mIoU day",
    "sem_seg/mIoU-night": "mIoU night",
    "classification/balanced_accuracy": "balanced accuracy",
    "classification/top1": "top-1",
    "classification/balanced_accuracy-day": "balanced, day",
    "classification/balanced_accuracy-night": "balanced, night",
}
PARTS = {
    "rate": ("rate", "{:g}"),
    "backbone_trainable": ("trained in backbone", "{:,}"),
    "ratio_of_base": ("of base", "{:.1%}"),
    "ratio_of_total": ("of total", "{:.1%}"),
    "adapter_mb": ("adapter MB", "{:.2f}"),
    "seconds_per_step": ("s/step", "{:.2f}"),
}


def markdown(results: dict) -> str:
    """The results of :func:`ivtuning.comparison.compare` as tables, with conditions and what failed."""
    rows, shared = results["rows"], results["conditions"]
    blocks = []
    for size in dict.fromkeys(row["pairs"] for row in rows):
        if shared["sizes"]:
            blocks.append("### All training pairs" if size is None else f"### {size:,} training pairs")
        blocks.append(_rows([row for row in rows if row["pairs"] == size], shared))
    if not rows:
        blocks.append("no runs")
    blocks.append(_bullets(_notes(results)))
    if results["search"]:
        blocks += [f"### Rates, by {shared['metric']} on the validation part", _search(results)]
    if commands := [(row["name"], row["pairs"], row["command"]) for row in rows if "command" in row]:
        blocks += ["### Commands that repeat the first seed of a row", _commands(commands)]
    return "\n\n".join(blocks)


def _rows(rows: list[dict], shared: dict) -> str:
    heads = {shared["metric"]: HEADS.get(shared["metric"], shared["metric"])} | HEADS
    figures = [f for f in heads if any(f in row["figures"] for row in rows)]
    parts = [p for p in PARTS if any(row.get(p) is not None for row in rows)]
    compared = any(row["difference"] for row in rows)
    body = [
        [
            row["name"] + ("" if len(row["seeds"]) == shared["seeds"] else f" (seeds {_list(row['seeds'])})"),
            *(_spread(row["figures"].get(f)) for f in figures),
            *([_difference(row["difference"])] if compared else []),
            *("" if row.get(p) is None else PARTS[p][1].format(row[p]) for p in parts),
        ]
        for row in rows
    ]
    against = ROWS[shared["against"]].name if shared["against"] in ROWS else shared["against"]
    head = ["", *(heads[f] for f in figures), *([f"against {against}"] if compared else [])]
    return _table(body, [*head, *(PARTS[p][0] for p in parts)])


def _search(results: dict) -> str:
    """Every figure of the search; the chosen one is bold."""
    searches, shared = results["search"], results["conditions"]
    body = []
    for found in searches.values():
        columns = zip(found["rates"], found["figures"], found["diverged"], strict=True)
        shown = dict(zip(found["factors"], columns, strict=True))
        cells = []
        for factor in shared["search"]:
            rate, figure, diverged = shown.get(factor, (None, None, None))
            outcome = "diverged" if diverged else "-" if figure is None else f"{figure:.1f}"
            text = "" if rate is None else f"{outcome} at {rate:g}"
            cells.append(f"**{text}**" if factor == found["factor"] else text)
        chosen = "-" if found["chosen"] is None else f"{found['chosen']:g}"
        body.append([found["name"], *cells, chosen + (" (edge)" if found["edge"] else "")])
    return _table(body, ["", *(f"x{factor:g}" for factor in shared["search"]), "chosen"])


def _commands(commands: Iterable[tuple[str, int | None, str]]) -> str:
    shown = [
        f"# {name}{'' if pairs is None else f', {pairs:,} pairs'}\n{line}" for name, pairs, line in commands
    ]
    return "```bash\n" + "\n".join(shown) + "\n```"


def _table(body: list[list[str]], head: list[str]) -> str:
    align = ["left"] + ["right"] * (len(head) - 1)
    return tabulate(body, head, tablefmt="pipe", colalign=align, disable_numparse=True)


def _spread(figure: dict | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.1f}" + ("" if figure["std"] is None else f" ± {figure['std']:.1f}")


def _difference(found: dict | None) -> str:
    if found is None:
        return ""
    text = f"{found['mean']:+.1f}"
    if found["verdict"] is None:
        return text
    return f"{text} [{found['low']:+.1f}, {found['high']:+.1f}], {found['verdict'].split()[0]}"


def _list(values: Iterable) -> str:
    return ", ".join(map(str, values))


def _bullets(notes: Sequence[str]) -> str:
    return "\n".join(f"- {note}" for note in notes)


def _notes(results: dict) -> list[str]:
    rows, shared = results["rows"], results["conditions"]
    data, pairs, seeds = shared["data"], shared["pairs"], shared["seeds"]
    over = "one seed, 0" if seeds == 1 else f"mean ± sample standard deviation over seeds 0 to {seeds - 1}"
    counts = sorted({n for row in rows for n in row.get("processes", ())})
    devices = sorted({row["device"] for row in rows if "device" in row})
    notes = [
        f"Config: {shared['config']}. {shared['metric']} and others on {data['test']} ({pairs['test']:,} "
        f"pairs) after training on {data['train']} ({pairs['train']:,} pairs"
        + (", of which each seed draws its own" if shared["sizes"] else "")
        + f"): {over}.",
        f"Trunk: {shared['trunk']} (sha256 {shared['trunk_sha256'][:12]}). {shared['iterations']} iterations "
        f"of batch {shared['batch']}, {shared['precision']}. {_versions(results)}.",
        "The rate is that of what is added or selected in the backbone; where whole blocks train, that of "
        "these. The heads have optimizer.lr."
        + (" Each row has its own, see below." if shared["search"] else ""),
    ]
    if shared["search"]:
        parts = shared["search_pairs"]
        notes.append(
            f"Rates were chosen with {parts['train']:,} training pairs on {parts['val']:,} that were held "
            "back from the training set, seed 0; the test set had no part in it."
        )
    if any(row["difference"] and row["difference"]["verdict"] for row in rows):
        notes.append(
            f"Against {shared['against']}: mean difference of runs with the same seed, with its 95 % "
            "interval (Student's t); ahead or behind where that excludes zero, else level."
        )
    notes.append(
        "Infrared enters by the config's stem (IVTuning) or as a second patch embedding, added (the other "
        f"tuners). Every tuner has its own {_widths(shared)}."
    )
    if any(row["missing"] for row in rows):
        notes.append(
            "no infrared, no visible: the same model, evaluated with the mean pixel in place of that image."
        )
    if rows:  # until the first search ends there are none
        notes += [
            "Adapter: stem, tuner and what of the trunk trains, fp32; neck and heads train in every row.",
            f"s/step: median; {_list(counts)} at a time, of one thread each, on {shared['cores']} cores "
            f"({_list(devices)}).",
        ]
    return notes + [f"Failed: {run}: {line}" for run, line in results["failed"].items()]


def _versions(results: dict) -> str:
    """The versions of all runs, which may be of several calls; those of this call before its first run."""
    parts = [*results["rows"], *results["search"].values()]
    found = sorted({version for part in parts for version in part.get("versions", ())})
    return "; ".join(found) or results["conditions"]["versions"]


def _widths(shared: dict) -> str:
    if shared["width"]:
        return f"defaults but a bottleneck (LoRA: a rank) of {shared['width']}"
    return "options in the config"
