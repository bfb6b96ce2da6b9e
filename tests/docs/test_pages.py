"""The pages: what they link to is there, and their contents lists are true."""

from __future__ import annotations

import re
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
# Code and configuration, which may name a page, too.
NAMING = ("*.rs", "*.py", "*.toml", "*.yaml", "*.yml", "Makefile", "run")
NOT_OURS = {".aws-sam", ".git", ".venv", "dist", "node_modules", "target"}
PARSER = MarkdownIt("commonmark").enable("table")


class Heading(NamedTuple):
    """A heading of a page."""

    level: int
    anchor: str


class Link(NamedTuple):
    """A link of a page, and the text around it."""

    target: str
    text: str


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [problem for link in links(page) if (problem := broken(page, link.target))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_lacks_its_definition(page: Path) -> None:
    # One that has a definition is a link by now, and no text.
    texts = [child.content for token in tokens(page) for child in token.children or () if child.type == "text"]
    assert [text for text in texts if re.search(r"\]\[[^\]]*\]|\]\(", text)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT / "docs"], ids=lambda page: page.name)
def test_the_contents_list_names_each_section(page: Path) -> None:
    sections = [f"#{heading.anchor}" for heading in headings(page) if heading.level == 2]
    assert len(sections) > 1, "a page has sections"
    # It stands above the first of them.
    placed = [token for token in tokens(page) if token.map]
    before = takewhile(lambda token: token.type != "heading_open" or token.tag != "h2", placed)
    listed = [link.target for link in links_of(before) if link.target.startswith("#")]
    assert listed == sections


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_well_formed(page: Path) -> None:
    for token in tokens(page):
        if token.type == "fence" and token.info == "sh":
            checked = subprocess.run(["bash", "-n"], check=False, input=token.content, text=True, capture_output=True)
            assert checked.returncode == 0, f"{checked.stderr}\n{token.content}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_have_the_same_number_of_cells_in_each_row(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


def test_the_pages_are_short() -> None:
    assert 80 < len(README.read_text().splitlines()) <= 120
    assert 1000 < sum(len(page.read_text().splitlines()) for page in PAGES if page.parent == ROOT / "docs") <= 1800


def test_the_readme_leads_to_each_page() -> None:
    reached = set()
    at = [README]
    while at:
        page = at.pop()
        if page in reached:
            continue
        reached.add(page)
        paths = (urlsplit(link.target) for link in links(page))
        found = [(page.parent / unquote(path.path)).resolve() for path in paths if not path.scheme and path.path]
        at += [path for path in found if path.suffix == ".md" and path.exists()]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached] == []


def test_what_code_says_of_pages_is_there() -> None:
    named = {
        name for file in code() for name in re.findall(r"\bdocs/[\w./-]+\.(?:md|svg)(?:#[\w-]+)?", file.read_text())
    }
    assert named, "some code names a page"
    assert [problem for name in sorted(named) if (problem := broken(README, name))] == []


def test_broken_links_are_found() -> None:
    assert broken(README, "docs/no-such-page.md")
    assert broken(README, "docs/reference.md#no-such-section")
    assert broken(README, "#no-such-section")
    assert broken(README, "http://example.com/")
    assert broken(README, "docs/reference.md#metrics") is None


def test_anchors_are_those_of_a_forge() -> None:
    made = PARSER.parse("## `ELB` calls, and *why*\n## One two\n## One two\n## Nobody's [link](x) – 5 s")
    assert [heading.anchor for heading in headings_of(made)] == [
        "elb-calls-and-why",
        "one-two",
        "one-two-1",
        "nobodys-link--5-s",
    ]


def broken(page: Path, target: str) -> str | None:
    """What is wrong with a link, if anything: pages of others are not asked."""
    parts = urlsplit(target)
    if parts.scheme == "https" and parts.netloc:
        return None
    if parts.scheme or parts.netloc:
        return f"{target}: neither https nor a file of this repository"
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not path.is_relative_to(ROOT) or not path.exists():
        return f"{target}: there is no such file"
    if not parts.fragment:
        return None
    if path.suffix != ".md":
        return f"{target}: only pages have sections"
    if parts.fragment not in {heading.anchor for heading in headings(path)}:
        return f"{target}: there is no such section"
    return None


@cache
def tokens(page: Path) -> list[Token]:
    """What a page consists of."""
    return PARSER.parse(page.read_text())


def headings(page: Path) -> list[Heading]:
    """Those of a page, with the anchors that a forge gives them."""
    return headings_of(tokens(page))


def headings_of(parsed: list[Token]) -> list[Heading]:
    """Those among the tokens of a page."""
    found: list[Heading] = []
    seen: dict[str, int] = {}
    for opening, inline in pairwise(parsed):
        if opening.type != "heading_open":
            continue
        text = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
        kept = (c for c in text.lower() if c in " -_" or unicodedata.category(c)[0] in "LNM")
        anchor = "".join(kept).replace(" ", "-")
        again = seen.get(anchor, 0)
        seen[anchor] = again + 1
        found.append(Heading(int(opening.tag[1:]), f"{anchor}-{again}" if again else anchor))
    return found


def links(page: Path) -> list[Link]:
    """Those of a page, and its pictures."""
    return list(links_of(tokens(page)))


def links_of(parsed: Iterable[Token]) -> Iterator[Link]:
    """Those among the tokens of a page."""
    for token in parsed:
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                yield Link(str(target), token.content)


def code() -> Iterator[Path]:
    """The files that are no pages."""
    for pattern in NAMING:
        for file in ROOT.rglob(pattern):
            if not NOT_OURS & set(file.relative_to(ROOT).parts) and file.is_file() and file != Path(__file__):
                yield file
