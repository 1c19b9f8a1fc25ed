"""Panels, legends and colors of pictures."""

from __future__ import annotations

import numpy as np
from helpers.drawings import count
from PIL import Image

from ivtuning.visualization.panels import Panel, color, lay_out


def test_colors_are_distinct():
    colors = np.array([color(k) for k in range(24)], dtype=float)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1e9 * np.eye(24)
    assert apart.min() > 20 and apart[:10, :10].min() > 60


def test_long_legends_take_more_lines():
    panel = Panel(Image.new("RGB", (512, 100)), "visible")
    one, three = (lay_out([[panel]], [(f"a class called {i}", color(i)) for i in range(n)]) for n in (3, 9))
    strip = (one.shape[0] - 100) // 2
    assert three.shape[0] == 100 + 4 * strip
    for i in range(9):
        assert count(three[100 + strip :], color(i)) > 80, i
