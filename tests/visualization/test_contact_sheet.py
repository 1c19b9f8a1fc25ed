"""Contact sheets: their files, and in a browser sliders, filters, order, and what holds without scripts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from helpers.browser import needs_browser, run_page, screenshot
from PIL import Image

from ivtuning.visualization.contact_sheet import Picture, write_contact_sheet
from ivtuning.visualization.scores import Outcomes

RED, BLUE = (220, 30, 30), (30, 30, 220)
HOSTILE = '</script><script>throw "x"</script>'
CHOOSE = """
const choose = (name, value) => {
  const select = document.forms[0].elements[name];
  select.value = value;
  select.dispatchEvent(new Event("input", { bubbles: true }));
};
const shown = () => [...document.querySelectorAll("figure")].filter(f => f.checkVisibility())
  .map(f => f.querySelector("a").getAttribute("href")[0]).join("");
const texts = name => [...document.forms[0].elements[name].options].map(o => o.text);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A sheet of four pictures a to d; the visible images are red, the infrared ones blue."""
    folder = tmp_path_factory.mktemp("sheet")
    sides = {}
    for name, rgb in (("visible", RED), ("infrared", BLUE)):
        (folder / name).mkdir()
        Image.new("RGB", (320, 240), rgb).save(folder / name / "all.png")
        sides[name] = f"{name}/all.png"
    seen = {
        "a": (50.0, "day", {"person": Outcomes(missed=1), "car": Outcomes(alarms=1)}),
        "b": (None, "night", {}),
        "c": (100.0, "night", {"person": Outcomes(), HOSTILE: Outcomes()}),
        "d": (20.0, "night", {"car": Outcomes(missed=2)}),
    }
    pictures = []
    for stem, (score, time, classes) in seen.items():
        Image.new("RGB", (640, 200), (60, 90, 60)).save(folder / f"{stem}.png")
        title = f'{stem} "{HOSTILE}'
        pictures.append(
            Picture(f"{stem}.png", title, truth=2, score=score, time=time, classes=classes, sides=dict(sides))
        )
    return write_contact_sheet(folder, pictures, f"A sheet {HOSTILE}", {"source": HOSTILE})


def test_contact_sheet_links_are_relative_and_resolve(tmp_path):
    names = ["00 1#D.png", "b&b.png"]
    for name in names:
        Image.new("RGB", (1200, 300), (200, 60, 30)).save(tmp_path / name)
    pictures = [Picture(names[0], "<first>", truth=3, predictions=2), Picture(names[1], "second", truth=4)]
    page = write_contact_sheet(
        tmp_path, pictures, "A & B", {"weights": "w<1>.pth", "adapter": None}, grid=True
    )
    html = page.read_text()

    links = [unquote(u) for u in re.findall(r'(?:href|src)="([^"]+)"', html)]
    assert len(links) == 4 and all((tmp_path / u).is_file() and not os.path.isabs(u) for u in links)
    for piece in (
        "&lt;first&gt;",
        "A &amp; B",
        "w&lt;1&gt;.pth",
        "3 in ground truth, 2 predicted",
        "<dd>7</dd>",
    ):
        assert piece in html
    assert "adapter" not in html and "http" not in html
    with Image.open(tmp_path / "thumbs" / "b&b.jpg") as thumb:
        assert thumb.size == (640, 160) and thumb.getpixel((300, 80))[0] > 180
    with Image.open(tmp_path / "contact_sheet.png") as grid:
        assert grid.width > 2 * 640
    assert not list(tmp_path.rglob("*.tmp"))


@needs_browser
def test_the_page_loads_nothing_from_elsewhere_and_has_no_errors(page):
    visit = run_page(page, "return document.querySelectorAll('figure, select').length")
    assert (visit.value, visit.errors, visit.requests) == (4 + 4, [], [])


@needs_browser
def test_filters_combine_and_count(page):
    script = f"""{CHOOSE}
      const seen = [[shown(), texts("outcome"), texts("time")]];
      choose("class", "car"); seen.push([shown(), texts("outcome"), texts("time")]);
      choose("outcome", "missed"); seen.push([shown(), document.querySelector("output").value]);
      choose("class", "person"); seen.push([shown()]);
      choose("time", "night"); seen.push([shown()]);
      choose("outcome", "right"); seen.push([shown(), location.hash]);
      choose("class", ""); choose("time", ""); seen.push([shown()]);
      return seen;"""
    visit = run_page(page, script)
    assert visit.errors == []
    everything, cars, missed, person, night, right, any_class = visit.value
    results = ["any result (4)", "missed (2)", "false alarm (1)", "all right (2)"]
    assert everything == ["abcd", results, ["any time (4)", "day (1)", "night (3)"]]
    results = ["any result (2)", "missed (1)", "false alarm (1)", "all right (0)"]
    assert cars == ["ad", results, ["any time (2)", "day (1)", "night (1)"]]
    assert missed == ["d", "1 of 4 pictures"]  # the false alarm of a is no missed car
    assert (person, night) == (["a"], [""])
    assert right == ["c", "#class=person&outcome=right&time=night"]
    assert any_class == ["bc"]


@needs_browser
def test_pictures_are_sorted_by_score_and_the_address_restores_a_view(page):
    script = f"""{CHOOSE}
      const seen = [shown()];
      choose("sort", "best"); seen.push(shown());
      choose("sort", ""); seen.push(shown());
      location.hash = "time=night&sort=worst&class=nothing"; await pause(); seen.push(shown());
      return seen;"""
    visit = run_page(page, script, hash="#sort=worst")
    assert (visit.value, visit.errors) == (["dacb", "cadb", "abcd", "dcb"], [])


@needs_browser
@pytest.mark.parametrize(("cut", "infrared"), [(None, [0, 0, 1, 1]), (20, [0, 1, 1, 1])])
def test_the_slider_uncovers_the_infrared_image(page, cut, infrared):
    script = "document.querySelector('.compare').style = 'position:fixed;top:0;left:0;width:400px;z-index:9'"
    if cut is not None:
        script += f"""; const range = document.querySelector('.compare input'); range.value = {cut};
          range.dispatchEvent(new Event('input', {{ bubbles: true }}))"""
    row = screenshot(page, 600, 400, script)[60, [40, 160, 240, 360]].astype(int)
    assert [int(np.abs(rgb - BLUE).sum() < np.abs(rgb - RED).sum()) for rgb in row] == infrared
    assert all(min(np.abs(rgb - BLUE).sum(), np.abs(rgb - RED).sum()) < 40 for rgb in row)


@needs_browser
def test_the_page_fits_a_phone_and_its_sliders_take_keys(page):
    script = """const range = document.querySelector('.compare input');
      range.focus(); range.stepDown(); range.dispatchEvent(new Event('input', { bubbles: true }));
      const { scrollWidth, clientWidth } = document.documentElement;
      const parts = [...document.querySelectorAll('main *, select')];
      const edges = parts.map(e => e.getBoundingClientRect().right);
      return [innerWidth, scrollWidth <= clientWidth, Math.max(...edges) <= clientWidth,
              document.activeElement === range, range.parentElement.style.getPropertyValue('--cut'),
              range.getAttribute('aria-label').startsWith('visible or infrared image of a')]"""
    assert run_page(page, script, width=360, height=700).value == [360, True, True, True, "49%", True]


def test_without_scripts_all_pictures_are_there(page):
    html = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    assert html.count("<figure>") == 4 and "hidden" not in re.sub(
        r"<style>.*?</style>", "", html, flags=re.DOTALL
    )
    assert html.count('loading="lazy"') == 4 * 3
    assert all(re.search(r'width="\d+" height="\d+"', tag) for tag in re.findall(r"<img[^>]*>", html))
    assert HOSTILE not in page.read_text()


def test_pages_without_scores_or_classes_have_no_bar(tmp_path):
    Image.new("RGB", (640, 200)).save(tmp_path / "a.png")
    page = write_contact_sheet(tmp_path, [Picture("a.png", "a")], "One")
    assert '[{"score":null,"time":null,"classes":{}}]' in page.read_text()
