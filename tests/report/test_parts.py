"""Parts of the page: elements, charts, tables of confusion, and which pairs are shown."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from ivtuning.pages import Html, table, tag
from ivtuning.report.cells import bar, confusion_table, figure
from ivtuning.report.charts import COLORS, _ticks, line_chart
from ivtuning.report.details import ImageScore, confusion_section
from ivtuning.report.pictures import choose
from ivtuning.report.predictions import Predictions
from ivtuning.report.runs import _duration, _seconds


def test_what_comes_from_data_is_escaped():
    assert tag("td", '<b> & "x"') == "<td>&lt;b&gt; &amp; &quot;x&quot;</td>"
    assert tag("td", Html("<b>x</b>"), 3) == "<td><b>x</b>3</td>"
    assert tag("a", class_="x", aria_label='"><script>') == (
        '<a class="x" aria-label="&quot;&gt;&lt;script&gt;"></a>'
    )
    assert "<script>alert" not in table(["<script>alert(1)"], [["<script>alert(2)", "<script>alert(3)"]])
    chart = line_chart("t", {"</script><b>": [(0, 1)]}, "x")
    assert chart.count("</script>") == 1 and "<b>" not in chart


def test_numbers():
    assert [figure(v) for v in (None, float("nan"), 12.345, 0)] == ["–", "–", "12.3", "0.0"]
    assert bar(40.0) == '<td class="bar" style="--part:40.0%">40.0</td>'
    assert "--part:0.0%" in bar(None)


@pytest.mark.parametrize(
    "low, high, ticks",
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (3, 47, [0, 10, 20, 30, 40, 50]),
        (-1.2, 1.2, [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]),
    ],
)
def test_ticks_are_round_and_reach_around(low, high, ticks):
    assert _ticks(low, high) == pytest.approx(ticks)


def data(chart: str) -> dict:
    return json.loads(re.search(r"<script[^>]*>(.*?)</script>", chart)[1])


def test_a_chart_has_lines_and_their_values():
    line = [(0, 0.0), (50, float("nan")), (100, 1.0)]
    chart = line_chart(
        "Title", {"one": line, "gone": [(0, float("inf"))], "two": [(0, 0.5)]}, "x", None, (0, 1)
    )
    one, two = data(chart)["lines"]
    # The axes go from 58 to 548 and from 250 up to 12 pixels.
    assert one == {"name": "one", "color": COLORS[0], "points": [[0, 0, 58.0, 250.0], [100, 1, 548.0, 12.0]]}
    assert two == {"name": "two", "color": COLORS[2], "points": [[0, 0.5, 58.0, 131.0]]}
    assert 'points="58,250 548,12"' in chart
    assert line_chart("Title", {"gone": [(0, float("nan"))]}, "x") == ""
    many = line_chart("Title", {"long": [(i, i) for i in range(5000)]}, "x")
    points = data(many)["lines"][0]["points"]
    assert len(points) == 400 and points[0][:2] == [0, 0] and points[-1][:2] == [4999, 4999]


def test_a_chart_of_one_huge_value_is_drawn():
    assert data(line_chart("Title", {"one": [(0, 1e16)]}, "x"))["lines"][0]["points"]


def test_salient_objects_keep_their_probabilities(tmp_path):
    for name, level in (("label.png", 1), ("saliency.png", 204)):
        Image.new("L", (4, 3), level).save(tmp_path / name)
    entry = {"image_id": 1, "label_map": "label.png", "saliency_map": "saliency.png", "pixels": [[1, 12]]}
    entries = {1: [entry]}
    known = Predictions("set", [], ["background", "object"], "w.pth", "labels", entries, tmp_path, [0, 1])
    found = known.of({"image_id": 1, "height": 3, "width": 4})
    assert found.shape == (3, 4) and np.allclose(found, 0.8)


def test_shares_of_a_confusion_matrix():
    html = confusion_table(np.array([[3, 1], [0, 0]]), ["a", "b"], ["a", "b"], "corner")
    assert 'class="hit dark" style="--share:0.750" title="a as a: 3">75.0<' in html
    assert 'class="miss" style="--share:0.250" title="a as b: 1">25.0<' in html
    assert 'title="b as b: 0"><' in html  # a row without truth is empty


def test_many_classes_are_listed_by_their_errors():
    matrix = np.diag(np.full(50, 9))
    matrix[3, 7], matrix[1, 2] = 5, 8
    html = confusion_section(matrix, [f"c{k}" for k in range(50)], "note", unit="images")
    rows = re.findall(r'<th scope="row">(\w+)</th><td>(\w+)</td><td>(\d+)</td>', html)
    assert rows == [("c1", "c2", "8"), ("c3", "c7", "5")]


def test_the_worst_and_best_pairs():
    scores = {"a": ImageScore(1, 2, ""), "b": ImageScore(0, 1, ""), "c": ImageScore(0, 5, "")}
    scores |= {"d": ImageScore(1, 7, ""), "e": ImageScore(0.5, 1, "")}
    assert choose(scores, 2) == (["c", "b"], ["d", "a"])
    assert choose(scores, 9) == (["c", "b", "e"], ["d", "a"])  # none is both
    assert choose({}, 2) == ([], [])
    assert choose(scores, 0) == ([], [])


def test_durations():
    assert [_seconds(t) for t in ("0:03:46", "1 day, 2:03:04", "2 days, 0:00:00")] == [226, 93784, 172800]
    assert [_duration(s) for s in (226, 7384)] == ["3 min 46 s", "2 h 3 min"]
