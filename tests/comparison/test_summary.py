"""What the runs of a comparison say."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.comparisons import call
from scipy import stats

from ivtuning.comparison import markdown, summary
from ivtuning.comparison.summary import choose


@pytest.mark.parametrize(("metric", "best"), [("bbox/AP", 3.0), ("bbox/MR-day", 0.3), ("saliency/MAE", 0.3)])
def test_the_best_run_of_a_search_has_the_least_error(metric, best):
    figures = {0.3: 10.0, 1.0: 20.0, 3.0: 30.0, 9.0: 30.0}
    results = [{"factor": f, "figures": {"none": {metric: value}}} for f, value in figures.items()]
    # The lower factor of equals, and none of a run without the figure.
    assert choose([*reversed(results), {"factor": 0.1, "figures": {"none": {}}}], metric) == best
    assert choose([], metric) is None


def test_mean_spread_and_interval_are_numpys_and_scipys(tiny, tmp_path, trained):
    results = call(tmp_path, tiny, only=["Mona", "Full"], missing=True)
    rows = {row["name"]: row for row in results["rows"]}
    ap = rows["Full"]["figures"]["bbox/AP"]
    assert ap["mean"] == pytest.approx(np.mean(ap["values"])) and ap["std"] == pytest.approx(
        np.std(ap["values"], ddof=1)
    )
    assert rows["Full"]["seconds_per_step"] == 1.5 and rows["Full"]["difference"] is None
    lines = markdown(results).splitlines()
    head, full, lost = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (lines[0], *(x for x in lines if x.startswith(("| Full ", "| Full, no infrared"))))
    )
    # Columns that the data do not report are left out.
    assert head[:4] == ["", "AP", "AP50", "against Full"]
    assert full[1].endswith("± 2.1") and lost[1].endswith("± 2.1") and lost[-1] == ""
    one = markdown(call(tmp_path / "one", tiny, only=["Full"], seeds=1))
    assert "| Full " in one and "±" not in one.split("\n- ")[0]

    runs_of = [
        [{"seed": i, "figures": {"none": {"x": value}}} for i, value in enumerate(values)]
        for values in ([5.0, 7.0, 9.5], [4.0, 6.5, 7.0, 1.0])
    ]
    found = summary.difference(*runs_of, "x")
    interval = stats.ttest_rel([5.0, 7.0, 9.5], [4.0, 6.5, 7.0]).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval)) and found["seeds"] == [0, 1, 2]
    assert found["verdict"] == "level with"


@pytest.mark.parametrize("shift, verdict", [(5, "ahead of"), (-5, "behind"), (0.1, "level with")])
def test_the_verdict_follows_from_the_interval(shift, verdict):
    base = [{"seed": i, "figures": {"none": {"x": float(i)}}} for i in range(4)]
    runs_ = [{"seed": i, "figures": {"none": {"x": i + shift + 0.2 * (-1) ** i}}} for i in range(4)]
    assert summary.difference(runs_, base, "x")["verdict"] == verdict
    rates = [
        [{**r, "figures": {"none": {"bbox/MR": r["figures"]["none"]["x"]}}} for r in g] for g in (runs_, base)
    ]
    opposite = {"ahead of": "behind", "behind": "ahead of"}.get(verdict, verdict)
    assert summary.difference(*rates, "bbox/MR")["verdict"] == opposite
    one = summary.difference(runs_[:1], base, "x")
    assert one["verdict"] is None and one["mean"] == pytest.approx(shift + 0.2)
    assert summary.difference([], base, "x") is None
