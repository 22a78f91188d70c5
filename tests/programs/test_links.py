"""Links between the pages of the project lead somewhere: to files that exist, and to headings that they have."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def without_code(text):
    """The text of a page without its code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def links(page):
    """The relative links and pictures of a page."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page):
    """The anchors of a page's headings, as GitHub and PyPI make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page):
    """The links of a page that lead nowhere."""
    bad = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            bad.append(link)
    return bad


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n[x](other.md) [y](#a-b-c) [z](#nowhere) `[no](link.md)` [w](https://example.org)\n")
    assert broken(page) == ["other.md", "#nowhere"]


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    reached = linked | {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES if page in linked for link in links(page)
    }
    assert {page.name for page in PAGES if page.resolve() not in reached | {ROOT / "README.md"}} == set()


def test_pages_name_files_that_exist():
    """Paths in code that begin with a folder of this repository are files of it; NAME stands for one to come."""
    named = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`((?:src|tests|docs|benchmarks|examples|jobs)/[\w./-]+\.\w+)`", page.read_text())
        if "NAME" not in path
    ]
    assert named and [(page, path) for page, path in named if not (ROOT / path).exists()] == []
