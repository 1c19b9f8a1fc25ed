"""Names as users have them, in pictures, pages and curves: any character, any length."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from helpers.drawings import annotation
from PIL import Image

from ivtuning.utils.text import one_line
from ivtuning.visualization.boxes import draw_pair
from ivtuning.visualization.contact_sheet import Picture, write_contact_sheet
from ivtuning.visualization.curves import Curves, draw_curves, plot_curves
from ivtuning.visualization.gallery import draw_records
from ivtuning.visualization.label_maps import draw_label_maps
from ivtuning.visualization.painters import BoxPainter
from ivtuning.visualization.scores import Outcomes

NAMES = {
    "dollars": "cost $10 to $20",
    "broken formula": r"$\frac{1}$ and $x_{",
    "line break": "two\nlines",
    "tab": "a\tb",
    "markup": "<script>alert(\"x\")</script> & 'y'",
    "underscore": "_hidden",
    "not latin": "行人 пешеход 🚗",
    "no utf-8": b"bad\xff".decode("utf-8", "surrogateescape"),
    "long": "very_" * 40,
    "empty": "",
}
by_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


def test_one_line():
    assert one_line("a\n b\tc\x00d") == "a b c?d"
    assert one_line(NAMES["no utf-8"]) == "bad?"
    assert one_line("x" * 100, 20) == "x" * 10 + "…" + "x" * 9
    assert one_line("$ <b> 行人") == "$ <b> 行人"


@by_name
def test_pictures_show_any_class(name):
    image = np.zeros((40, 60, 3), np.uint8)
    draw_pair(image, image, [annotation([5, 5, 20, 20], 0)], classes=[name]).picture()
    draw_label_maps(image, image, np.zeros((40, 60), np.uint8), classes=[name]).picture()


@by_name
def test_pages_show_any_title(name, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    page = write_contact_sheet(
        tmp_path,
        [Picture("a.png", name, remark=name, classes={name: Outcomes()})],
        name,
        {"source": name},
        grid=True,
    )
    html = page.read_text(encoding="utf-8")
    assert "<script>alert" not in html and 'alt="' in html
    assert (tmp_path / "contact_sheet.png").is_file()


@by_name
def test_pictures_of_any_file(name, tmp_path):
    stem = name[:150] or "x"
    try:
        for folder, mode in (("vis", "RGB"), ("ir", "L")):
            (tmp_path / folder).mkdir()
            Image.new(mode, (60, 40)).save(tmp_path / folder / f"{stem.replace('/', '-')}.png")
    except (OSError, ValueError):
        pytest.skip("no name for a file here")
    records = [
        {"file_name": str(vis), "ir_file_name": str(tmp_path / "ir" / vis.name), "image_id": k}
        for k, vis in enumerate([*(tmp_path / "vis").iterdir()] * 3, 1)
    ]
    out = tmp_path / "out"
    page = draw_records(records, BoxPainter([], 0.5), None, out, True, {"source": name})
    links = re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8"))
    assert len(set(links)) == 3 and all((out / unquote(link)).is_file() for link in links)


@by_name
def test_curves_of_any_folder(name):
    points = np.array([[0, 2.0], [20, 1.0]])
    figure = draw_curves({one_line(name): Curves(points, name or None, points)})
    figure.savefig("/dev/null", format="png")
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]
    assert legends == [[one_line(name)], [f"{one_line(name)} (best 2.0)"]]


def test_long_paths_that_look_alike_are_told_apart(tmp_path: Path):
    runs = [tmp_path / f"{'x' * 80}{k}{'y' * 80}" / "run" for k in range(2)]
    for run in runs:
        run.mkdir(parents=True)
        (run / "metrics.json").write_text('{"iteration": 1, "total_loss": 1.5}\n')
    assert plot_curves(runs, tmp_path / "curves.png").is_file()
