"""The pages for readers: README.md and docs/, with their code blocks, links and anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
GENERATED: Final = DOCS / "reference"
"""Where `python -m tests.docs.reference` writes."""
SNIPPETS: Final = DOCS / "snippets"
"""The programs and configurations that the pages show."""

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK: Final = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
_NAME: Final = re.compile(r"(?:#|//) (\w+\.(?:py|js|cfg|conf|service|socket|yaml)|Containerfile)\b")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    line: int

    @property
    def name(self) -> str | None:
        """The name of a program or a configuration, a comment in its first line; None for a fragment."""
        found = _NAME.match(self.text)
        return found and found[1]

    @property
    def place(self) -> str:
        """Where it begins."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page, README.md first."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def blocks_of(page: Path, text: str) -> list[Block]:
    """Return the fenced blocks of a text."""
    return [
        Block(page, found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def blocks(language: str) -> list[Block]:
    """Return the blocks in one language of all pages."""
    found = (block for page in pages() for block in blocks_of(page, page.read_text()))
    return [block for block in found if block.language == language]


def programs() -> dict[str, str]:
    """Return the programs below `docs/snippets` by their names."""
    return {path.name: path.read_text() for path in sorted(SNIPPETS.glob("*.py"))}


def configurations() -> dict[str, str]:
    """Return the files below `docs/snippets` that are not programs, by their names."""
    return {
        path.name: path.read_text()
        for path in sorted(SNIPPETS.glob("*"))
        if path.is_file() and path.suffix != ".py"
    }


def with_programs(text: str) -> str:
    """Return a page with each block that names a program, or a configuration, showing it as it is now."""

    def shown(fence: re.Match[str]) -> str:
        block = Block(SNIPPETS, fence[1], fence[2], 0)
        files = programs() | configurations()
        return f"```{block.language}\n{files[block.name]}```" if block.name in files else fence[0]

    return _FENCE.sub(shown, text)


def program(name: str) -> str:
    """Return the program of that name."""
    return programs()[name]


def fragment(beginning: str) -> str:
    """Return the Python block that begins so, and is not a program."""
    [found] = {block.text for block in blocks("python") if block.text.startswith(beginning)}
    return found


def commands_of(text: str) -> list[str]:
    """Return the commands of a console block, each without its prompt, its comment and its line breaks."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = (line[2:] for line in joined.splitlines() if line.startswith("$ "))
    return [re.sub(r"\s+# .*$", "", command) for command in found]


def commands() -> list[tuple[str, str]]:
    """Return the commands of all console blocks, with the places of their blocks."""
    return [(block.place, command) for block in blocks("console") for command in commands_of(block.text)]


def code_of(text: str) -> list[str]:
    """Return the words that stand as code inside of sentences."""
    return _CODE.findall(_FENCE.sub("", text))


def links_of(text: str) -> list[str]:
    """Return the targets of the links and pictures of a page."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    return set(_anchors(_HEADING.findall(_FENCE.sub("", text))))


def _anchors(headings: list[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for heading in headings:
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        yield f"{anchor}-{count}" if count else anchor
