"""Mean and spread over the seeds, and the markdown table of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tabulate import tabulate

from .jobs import ROWS

HEADS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP-both": "AP both",
    "AP-visible": "AP vis only",
    "AP-infrared": "AP ir only",
    "AP-day": "AP day",
    "AP-night": "AP night",
}
# Figures that all runs of a row share.
SAME = ("backbone_trainable", "backbone_base", "ratio_of_base", "ratio_of_total", "adapter_mb", "device")
PARTS = {
    "backbone_trainable": ("trained in backbone", "{:,}"),
    "ratio_of_base": ("of base", "{:.1%}"),
    "ratio_of_total": ("of total", "{:.1%}"),
    "adapter_mb": ("adapter MB", "{:.2f}"),
    "seconds_per_step": ("s/step", "{:.2f}"),
}


def summarize(results: Sequence[dict]) -> list[dict]:
    """The rows of the table, in the order of ROWS, from the result.json of every run.

    Returns:
        dicts of "name", "method", "missing" (None, or the image that the model was evaluated without),
        "seeds", "figures" {"AP": {"mean", "std", "values"}, ...} on 0..100, where std is the sample standard
        deviation over the seeds, None for one seed; in rows with missing None also counts, ratios (fractions)
        and "adapter_mb" of the runs, "seconds_per_step", "processes" and "device". Rows with a missing image
        come last.
    """
    groups = {key: [r for r in results if r["method"] == key] for key in ROWS}
    rows = [_row(key, runs, "none") for key, runs in groups.items() if runs]
    for key, runs in groups.items():
        rows += [_row(key, runs, lost) for lost in ("infrared", "visible") if runs and ROWS[key].missing]
    return rows


def _row(key: str, runs: list[dict], lost: str) -> dict:
    figures = {}
    for figure in HEADS:
        values = [r["figures"][lost][figure] for r in runs if figure in r["figures"][lost]]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else None
            figures[figure] = {"mean": statistics.fmean(values), "std": spread, "values": values}
    row = {
        "name": ROWS[key].name,
        "method": key,
        "missing": None,
        "seeds": [r["seed"] for r in runs],
        "figures": figures,
    }
    if lost != "none":
        return row | {"name": f"{row['name']}, no {lost}", "missing": lost}
    times = [r["seconds_per_step"] for r in runs if r["seconds_per_step"] is not None]
    return row | {
        **{part: runs[0][part] for part in SAME},
        "seconds_per_step": statistics.fmean(times) if times else None,
        "processes": sorted({r["processes"] for r in runs}),
    }


def markdown(results: dict) -> str:
    """The results of :func:`ivtuning.comparison.compare` as a table, with its conditions and what failed."""
    rows, shared = results["rows"], results["conditions"]
    figures = [f for f in HEADS if any(f in row["figures"] for row in rows)]
    parts = [p for p in PARTS if any(row.get(p) is not None for row in rows)]
    body = [
        [
            row["name"] + ("" if len(row["seeds"]) == shared["seeds"] else f" (seeds {_list(row['seeds'])})"),
            *(_spread(row["figures"].get(f)) for f in figures),
            *("" if row.get(p) is None else PARTS[p][1].format(row[p]) for p in parts),
        ]
        for row in rows
    ]
    head = ["", *(HEADS[f] for f in figures), *(PARTS[p][0] for p in parts)]
    align = ["left"] + ["right"] * (len(head) - 1)
    text = tabulate(body, head, tablefmt="pipe", colalign=align, disable_numparse=True) if rows else "no runs"
    return "\n".join([text, "", *(f"- {note}" for note in _notes(rows, shared, results["failed"]))])


def _spread(figure: dict | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.1f}" + ("" if figure["std"] is None else f" ± {figure['std']:.1f}")


def _list(values: Sequence) -> str:
    return ", ".join(map(str, values))


def _notes(rows: list[dict], shared: dict, failed: dict[str, str]) -> list[str]:
    data, pairs, seeds = shared["data"], shared["pairs"], shared["seeds"]
    width = f" but a bottleneck (LoRA: a rank) of {shared['width']}" if shared["width"] else ""
    over = "one seed, 0" if seeds == 1 else f"mean ± sample standard deviation over seeds 0 to {seeds - 1}"
    counts = sorted({n for row in rows for n in row.get("processes", ())})
    devices = sorted({row["device"] for row in rows if "device" in row})
    notes = [
        f"Config: {shared['config']}. Box AP on {data['test']} ({pairs['test']} pairs) after training on "
        f"{data['train']} ({pairs['train']}): {over}.",
        f"Trunk: {shared['trunk']} (sha256 {shared['trunk_sha256'][:12]}). {shared['iterations']} iterations "
        f"of batch {shared['batch']}.",
        f"Learning rate {shared['lr']:g} for heads, neck, stem and tuner alike (added_lr_factor=1); only the "
        'row "3x rate" gives stem and tuner three times that.',
        "Infrared enters by the prompt stem (IVTuning) or as a second patch embedding, added (the other "
        f"tuners). Every tuner has its own defaults{width}.",
        "no infrared, no visible: the same model, evaluated with the mean pixel in place of that image. "
        "Modality dropout: in training, 0.3 of the pairs lose either image.",
        "Adapter: stem, tuner and what of the trunk trains, fp32; neck and heads train in every row.",
        f"s/step: median; {_list(counts)} at a time, of one thread each, on {shared['cores']} cores "
        f"({_list(devices)}).",
    ]
    return notes + [f"Failed: {run}: {line}" for run, line in failed.items()]
