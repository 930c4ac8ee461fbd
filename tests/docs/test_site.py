"""The web site of the pages: what it lists, and what it must not load; `.ci/run` builds it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.docs import pages, pictures, site


def listed(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from listed([value] if isinstance(value, str) else value)


def test_the_navigation_lists_every_page_once() -> None:
    config = tomllib.loads((pages.DOCS / "zensical.toml").read_text())["project"]
    there = {str(page.relative_to(pages.DOCS)) for page in pages.pages() if page != pages.README}
    assert sorted(listed(config["nav"])) == sorted(there | {"changelog.md"})
    assert config["theme"]["font"] is False


def test_links_to_the_changelog_lead_to_its_copy() -> None:
    assert site.with_changelog("[c](../CHANGELOG.md#x)") == "[c](changelog.md#x)"
    assert site.with_changelog("[c](../../CHANGELOG.md)") == "[c](../changelog.md)"


def test_links_between_the_pages_of_the_site_lead_somewhere(tmp_path: Path) -> None:
    site.stage(tmp_path / "docs")
    for page in (tmp_path / "docs").rglob("*.md"):
        places = [link.partition("#")[0] for link in pages.links_of(page.read_text()) if "://" not in link]
        assert [place for place in places if place and not (page.parent / place).is_file()] == [], page.name


def test_resources_of_other_hosts_are_found() -> None:
    for text in (
        '<script async src="https://cdn.example/a.js"></script>',
        "<img alt='x' src='//cdn.example/a.png'>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="https://fonts.example" rel="preconnect">',
        "body { background: url(https://cdn.example/a.png) }",
        '@import "https://cdn.example/a.css";',
    ):
        assert site.loaded(text), text
    assert site.loaded('<a href="https://a.example">x</a><img src="a.png"><script src="b.js"></script>') == []
    assert site.loaded('<link rel="canonical" href="https://a.example/">') == []


def test_pictures_are_what_the_code_says() -> None:
    drawn = {name: draw().svg() for name, draw in pictures.PICTURES_OF.items()}
    there = {path.name: path.read_text() for path in pictures.PICTURES.iterdir()}
    assert there == drawn, "run python -m tests.docs.reference, and commit what it writes"


def test_every_picture_is_shown() -> None:
    links = {link.rpartition("/")[2] for page in pages.pages() for link in pages.links_of(page.read_text())}
    assert set(pictures.PICTURES_OF) <= links


def test_a_picture_has_an_arrow_for_each_step() -> None:
    steps = [
        pictures.Step("a", "b"),
        pictures.Step("a", "c", "R"),
        pictures.Step("c", "a"),
        pictures.Step("c", "c"),
    ]
    svg = pictures.states("t", steps, ["a", "b", "c"]).svg()
    assert svg.count("marker-end") == len(steps)
    assert svg.count('class="line record"') == 1
    assert [name for name in "abc" if f">{name}</text>" in svg] == ["a", "b", "c"]


def test_messages_of_the_pictures_are_those_of_the_protocol() -> None:
    reference = (pages.GENERATED / "messages.md").read_text()
    words = [row.words for row in pictures.RESUME if isinstance(row, pictures.Message)]
    types = {text.split(" ")[0].rstrip(":") for text in words}
    assert [name for name in types if f"`{name}`" not in reference] == []
