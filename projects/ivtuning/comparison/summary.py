"""What the runs of a comparison say: chosen rates, mean and spread over the seeds, paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats

from ..evaluation.predictions import lower_is_better
from .jobs import Job
from .plan import Plan

# Figures that all runs of a row share.
SAME = ("backbone_trainable", "backbone_base", "ratio_of_base", "ratio_of_total", "adapter_mb", "device")
CONFIDENCE = 0.95


def choose(results: Sequence[dict], metric: str) -> float | None:
    """The factor of the best run of a search, the lower one of equals; None without any finished run."""
    scored = [r for r in results if metric in r["figures"]["none"]]
    sign = -1 if lower_is_better(metric) else 1
    best = max(scored, key=lambda r: (sign * r["figures"]["none"][metric], -r["factor"]), default=None)
    return None if best is None else best["factor"]


def summarize_search(plan: Plan) -> dict[str, dict]:
    """The search of every row that has finished runs of it.

    Returns:
        by row: "rates" and "figures" of the runs (figures on 0..100, on the validation part; None without
        one), "factors", "diverged" (why, or None), and the "chosen" rate with its "factor", None where no run
        has a figure; "edge" says whether that is the lowest or the highest of the row's own factors;
        "versions" of the runs.
    """
    searches = {}
    for key in plan.present:
        # What a rate is called follows from the plan: runs of earlier versions may have noted another one.
        done = [r | {"rate": job.rate} for job in plan.search_jobs(key) if (r := job.result())]
        factor, factors = choose(done, plan.shared["metric"]), [r["factor"] for r in done]
        if done:
            searches[key] = {
                "name": plan.rows[key].name,
                "factors": factors,
                "rates": [r["rate"] for r in done],
                "figures": [r["figures"]["none"].get(plan.shared["metric"]) for r in done],
                "diverged": [r.get("diverged") for r in done],
                "factor": factor,
                "chosen": next((r["rate"] for r in done if r["factor"] == factor), None),
                "edge": factor in (min(factors), max(factors)),
                "versions": _versions(done),
            }
    return searches


def summarize(plan: Plan, jobs: Sequence[Job]) -> list[dict]:
    """The rows of the table, by size and in the order of the plan, from the result.json of every run.

    Returns:
        dicts of "key", "name", "pairs" (None = the whole training set), "missing" (None, or the image that
        the model was evaluated without), "seeds", "figures" {"bbox/AP": {"mean", "std", "values"}, ...} on
        0..100, where std is the sample standard deviation over the seeds, None for one seed, and "difference"
        (see :func:`difference`) of the plan's metric. In rows with missing None also the rate, counts, ratios
        (fractions) and "adapter_mb" of the runs, "seconds_per_step", "seconds" (of training), "processes",
        "device", "versions", and the "command" that repeats the run of the first seed. Rows with a missing
        image come last within a size.
    """
    groups: dict[tuple, list[dict]] = {}
    for job in jobs:
        if result := job.result(complete=False):
            groups.setdefault((job.size, job.row), []).append(result | {"rate": job.rate})
    rows = []
    for size in dict.fromkeys(size for size, _ in groups):
        own = {key: runs for (n, key), runs in groups.items() if n == size}
        for lost in ("none", "infrared", "visible"):
            for key, runs in own.items():
                if having := [r for r in runs if lost in r["figures"]]:
                    rows.append(_row(plan, key, size, having, lost, own.get(plan.shared["against"], [])))
    return rows


def _row(plan: Plan, key: str, size: int | None, runs: list[dict], lost: str, base: list[dict]) -> dict:
    metric = plan.shared["metric"]
    figures = {}
    for figure in dict.fromkeys(f for r in runs for f in r["figures"][lost]):
        values = [r["figures"][lost][figure] for r in runs if figure in r["figures"][lost]]
        spread = statistics.stdev(values) if len(values) > 1 else None
        figures[figure] = {"mean": statistics.fmean(values), "std": spread, "values": values}
    row = {
        "key": key,
        "name": plan.rows[key].name,
        "pairs": size,
        "missing": None,
        "seeds": [r["seed"] for r in runs],
        "figures": figures,
        "difference": None if key == plan.shared["against"] else difference(runs, base, metric, lost),
    }
    if lost != "none":
        return row | {"name": f"{row['name']}, no {lost}", "missing": lost}
    times = [r["seconds_per_step"] for r in runs if r["seconds_per_step"] is not None]
    step = statistics.fmean(times) if times else None
    return row | {
        "rate": runs[0]["rate"],
        "factor": runs[0]["factor"],
        **{part: runs[0][part] for part in SAME},
        "seconds_per_step": step,
        "seconds": step and step * runs[0]["iterations"],
        "processes": sorted({r["processes"] for r in runs}),
        "versions": _versions(runs),
        "command": runs[0]["command"],
    }


def _versions(runs: Sequence[dict]) -> list[str]:
    """The versions that the runs are of, each once; results of earlier versions state none."""
    return sorted({r.get("versions", "unknown version") for r in runs})


def difference(runs: Sequence[dict], base: Sequence[dict], metric: str, lost: str = "none") -> dict | None:
    """The mean difference of `runs` to `base` over the seeds that both have; None without any.

    Returns:
        "mean", "seeds", and from two seeds on "low" and "high", the 95 % interval of Student's t on the
        paired differences, and "verdict": "ahead of" or "behind" where the interval excludes zero, else
        "level with".
    """
    scores = [
        {r["seed"]: r["figures"][lost][metric] for r in group if metric in r["figures"].get(lost, ())}
        for group in (runs, base)
    ]
    seeds = [seed for seed in scores[0] if seed in scores[1]]
    if not seeds:
        return None
    pairs = [scores[0][seed] - scores[1][seed] for seed in seeds]
    mean = statistics.fmean(pairs)
    if len(pairs) < 2:
        return {"mean": mean, "seeds": seeds, "low": None, "high": None, "verdict": None}
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    low, high = mean - half, mean + half
    better, worse = (high < 0, low > 0) if lower_is_better(metric) else (low > 0, high < 0)
    verdict = "ahead of" if better else "behind" if worse else "level with"
    return {"mean": mean, "seeds": seeds, "low": low, "high": high, "verdict": verdict}
