"""What the runs of a comparison say."""

from __future__ import annotations

import pytest

from ivtuning.comparison.summary import choose


@pytest.mark.parametrize(("metric", "best"), [("bbox/AP", 3.0), ("bbox/MR-day", 0.3), ("saliency/MAE", 0.3)])
def test_the_best_run_of_a_search_has_the_least_error(metric, best):
    figures = {0.3: 10.0, 1.0: 20.0, 3.0: 30.0, 9.0: 30.0}
    results = [{"factor": f, "figures": {"none": {metric: value}}} for f, value in figures.items()]
    # The lower factor of equals, and none of a run without the figure.
    assert choose([*reversed(results), {"factor": 0.1, "figures": {"none": {}}}], metric) == best
    assert choose([], metric) is None
