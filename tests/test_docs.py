"""The pages: every one can be reached from the README, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.tools import ROOT

FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "datasets").glob("*.md")])


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text())


def links(page: Path) -> list[tuple[Path, str]]:
    """Files (or folders) of the repository that a page links to, with the part behind ``#``."""
    targets = [link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]
    split = [target.partition("#") for target in targets]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in split]


def anchors(page: Path) -> set[str]:
    """The names under which headings of a page can be linked to, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target, anchor in links(page):
        assert target.exists(), f"{name(page)} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to #{anchor} of {name(target)}"


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached:
            reached.add(page)
            todo += [target for target, _ in links(page) if target.suffix == ".md"]
    assert {name(page) for page in PAGES} <= {name(page) for page in reached}


def test_every_picture_is_shown_somewhere():
    shown = {target for page in PAGES for target, _ in links(page)}
    assert set((ROOT / "docs/images").iterdir()) <= shown


def missing_files(page: Path, text: str, pattern: str, folder: Path) -> list[str]:
    """Files of `folder` that `text` names and that do not exist, but for examples: "such as `FILE`"."""
    examples = re.findall(r"such as\s+`([^`]+)`", page.read_text())
    named = set(re.findall(pattern, text))
    return sorted(p for p in named if not (folder / p).exists() and not any(e.endswith(p) for e in examples))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_exist(page):
    """Configs, tools, scripts and tests, in commands and in prose."""
    pattern = r"(?<![\w/.])(?:configs|tools|datasets|tests)/[\w/]+\.py\b"
    missing = missing_files(page, page.read_text(), pattern, ROOT)
    assert not missing, f"{name(page)} names {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_modules_exist(page):
    """`tuning/base.py` and the like stand for files below projects/ivtuning."""
    package = ROOT / "projects/ivtuning"
    rooms = "|".join(folder.name for folder in package.iterdir() if folder.is_dir())
    missing = missing_files(page, prose(page), rf"`(?:projects/ivtuning/)?((?:{rooms})/[\w/]+\.py)`", package)
    assert not missing, f"{name(page)} names {', '.join(missing)}"
