"""Links, anchors, names and commands of README.md and docs/ lead somewhere; programs are run."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from arcp_io.cli import commands as cli
from arcp_io.server import event_streams
from arcp_proto import Limits
from tests.docs import pages

ROOT: Final = pages.ROOT
MAX_README_LINES: Final = 150
PAGES: Final = {str(page.relative_to(ROOT)): page for page in pages.pages()}
COMMAND: Final[Any] = typer.main.get_command(cli._app)
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)

_PATH: Final = re.compile(r"(?:\.ci|arcp_proto|arcp_io|tests|fuzz|benchmarks|docs)/[\w./-]*\w")
LOGGERS: Final = (
    "arcp_io.audit",
    "arcp_io.mcp",
)
"""Names of loggers, which look like those of modules."""
_MODULE: Final = re.compile(r"(?:arcp_proto|arcp_io|tests|fuzz|benchmarks)(?:\.\w+)+")


# Where links lead.


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page to files and headings that do not exist, and to other hosts unencrypted."""
    return [link for link in pages.links_of(text) if not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith("https://"):
        return True
    place, _, anchor = link.partition("#")
    target = (page.parent / place).resolve() if place else page
    if not target.is_file() or not target.is_relative_to(ROOT):
        return False
    return not anchor or anchor in pages.anchors_of(target.read_text())


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_broken_links_are_found() -> None:
    text = (
        "[x](#first-program) [y](CHANGELOG.md#c) [z](docs/none.md) `[w](v)` ![p](LICENSE)\n```\n[k](j)\n```\n"
    )
    assert broken_links(pages.README, text) == ["#first-program", "CHANGELOG.md#c", "docs/none.md"]
    assert broken_links(pages.README, "[x](#a-first-program) [y](https://a.example)") == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = {pages.README}, [pages.README]
    while waiting:
        page = waiting.pop()
        places = [link.partition("#")[0] for link in pages.links_of(page.read_text())]
        found = {(page.parent / place).resolve() for place in places if place.endswith(".md")}
        waiting += found - reached
        reached |= found
    assert set(PAGES.values()) - reached == set()


def test_anchors_are_those_of_github() -> None:
    text = "# What `a.b` may do\n## Nothing is lost: ever\n## x\n## x\n"
    assert pages.anchors_of(text) == {"what-ab-may-do", "nothing-is-lost-ever", "x", "x-1"}


# Names of files and modules.


def missing_names(text: str) -> list[str]:
    """Return the paths and dotted names of this project in a page that do not exist."""
    words = " ".join([*pages.code_of(text), *pages.links_of(text)])
    paths = [path for path in _PATH.findall(words) if not (ROOT / path).exists()]
    return paths + [name for name in _MODULE.findall(text) if name not in LOGGERS and not _is_there(name)]


def _is_there(name: str) -> bool:
    """Return whether a dotted name is a module of this project, or a name in one."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, last = name.rpartition(".")
    if path.with_name(last).parent.with_suffix(".py").is_file() or path.parent.is_dir():
        return hasattr(importlib.import_module(module), last)
    return False


@each_page
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    assert missing_names(page.read_text()) == []


def test_missing_names_are_found() -> None:
    text = "`arcp_proto/wire.py` `arcp_proto/limits.py` `arcp_io.sync` `arcp_io.nothing` arcp_proto.ids.ulid"
    assert missing_names(text) == ["arcp_proto/wire.py", "arcp_io.nothing"]


def short_names_of_limits(text: str) -> list[str]:
    """Return the words of a page, set as code, that leave out the `max_` or the unit of a limit."""
    names = Limits.__struct_fields__
    short = {name.removeprefix("max_") for name in names} | {name.removesuffix("_sec") for name in names}
    return [word for word in re.findall(r"`(\w+)`", text) if word in short.difference(names)]


def test_limits_have_their_whole_names() -> None:
    """Check the other pages: those of the reference also show timers, and words of the wire."""
    written = {name: page for name, page in PAGES.items() if page.parent.name != "reference"}
    found = {name: short_names_of_limits(page.read_text()) for name, page in written.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_short_names_of_limits_are_found() -> None:
    text = "`gap_bytes` `max_gap_bytes` `retention` `retention_sec` gap_bytes"
    assert short_names_of_limits(text) == ["gap_bytes", "retention"]


# Programs.


@pytest.mark.parametrize("block", pages.blocks("python"), ids=lambda block: block.place)
def test_python_can_be_compiled(block: pages.Block) -> None:
    compile(block.text, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_program_is_run_by_a_test() -> None:
    """Check that a test names each program that it runs, in a string."""
    folders = Path(__file__).parent, ROOT / "tests" / "bridges"
    sources = [path.read_text() for folder in folders for path in sorted(folder.glob("test_*.py"))]
    words = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert [name for name in pages.programs() if name not in words] == []


@each_page
def test_pages_show_the_programs_as_they_are(page: Path) -> None:
    text = page.read_text()
    assert text == pages.with_programs(text), "run python -m tests.docs.reference, and commit what it writes"


def test_every_program_is_shown_and_every_block_with_a_name_is_a_program() -> None:
    assert {block.name for block in pages.blocks("python")} - {None} == set(pages.programs())
    shown = [*pages.blocks("text"), *pages.blocks("javascript")]
    assert {block.name for block in shown} - {None} == set(pages.configurations())


def test_a_page_that_shows_an_older_program_is_found() -> None:
    name = next(iter(pages.programs()))
    old = f"```python\n# {name}\nx = 1\n```\n"
    assert pages.with_programs(old) == f"```python\n{pages.program(name)}```\n"
    assert pages.with_programs("```python\nx = 1\n```\n") == "```python\nx = 1\n```\n"


def test_python_blocks_are_found() -> None:
    text = "```console\n$ ls\n```\n```python\n# a.py\nx = 1\n```\nand\n```python\ny = 2\n```\n"
    found = pages.blocks_of(pages.README, text)
    assert [(block.language, block.name, block.line) for block in found] == [
        ("console", None, 1),
        ("python", "a.py", 4),
        ("python", None, 9),
    ]


def test_the_pages_are_in_the_source_distribution() -> None:
    """Check the README, which a package index shows, and its links to the other pages."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["project"]["readme"] == pages.README.name
    included = config["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"/docs", "/README.md", "/CHANGELOG.md"} <= set(included)


def test_the_readme_can_be_read_at_one_sitting() -> None:
    assert len(pages.README.read_text().splitlines()) <= MAX_README_LINES


# Commands.


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the file with the profiles that pages and examples name, which options are read from."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "arcp-io").mkdir()
    (tmp_path / "arcp-io" / "config.toml").write_text("[profiles.work]\n[profiles.local]\n")


def parse(words: list[str]) -> None:
    """Parse a command line of `arcp-io` as the command does; raises click's UsageError."""
    group = COMMAND
    context = group.make_context("arcp-io", list(words))
    while hasattr(group, "commands"):
        name, group, rest = group.resolve_command(context, _rest_of(context))
        context = group.make_context(name, rest, parent=context)


def _rest_of(context: Any) -> list[str]:
    """Return the words behind the options of a group, which releases of click keep in different places."""
    for name in ("_protected_args", "protected_args"):
        if hasattr(context, name):
            return [*getattr(context, name), *context.args]
    return list(context.args)


def unknown_command(command: str) -> str | None:
    """Return what is wrong with a shell command of a page; None when it can be run."""
    words = shlex.split(command.partition("|")[0].partition("&&")[0])
    while words and re.match(r"\w+=", words[0]):
        words.pop(0)
    match words:
        case ["arcp-io", *rest]:
            try:
                parse(rest)
            except cli._UsageError as error:
                return f"{command}: {error}"
            except typer.Exit:
                return None  # As --version does.
        case ["python", "-m", "pip", "install", "-e", "." | ".[all]" | ".[test]" | ".[bench]"]:
            return None
        case ["python", "-m", "pip", "install", "arcp-io" | "arcp-io[all]"]:
            return None
        case ["python" | "python3.11", "-m", module, *_]:
            return None if importlib.util.find_spec(module) else f"{command}: there is no {module}"
        case ["python", script]:
            return None if script in pages.programs() else f"{command}: there is no {script}"
        case ["uvicorn", target, "--port", _]:
            script = target.partition(":")[0] + ".py"
            return None if script in pages.programs() else f"{command}: there is no {script}"
        case ["pytest", *rest]:
            missing = [word for word in rest if word.startswith("tests") and not (ROOT / word).exists()]
            return f"{command}: there is no {missing}" if missing else None
        case ["curl", *rest]:
            route = event_streams.streamed_job(rest[-1].partition(":8000")[2])
            return None if route else f"{command}: there is no such route"
        case ["tail" | "kill" | "export" | "." | ".ci/run" | ".ci/oldest" | ".ci/pythons", *_]:
            return None
        case _:
            return f"{command}: not a command that this test knows"
    return None


@pytest.mark.parametrize(("place", "command"), pages.commands())
def test_commands_are_those_of_the_command_line(place: str, command: str) -> None:
    assert [unknown_command(part) for part in command.split(" && ")] == [None] * len(command.split(" && "))


@each_page
def test_commands_in_sentences_are_those_of_the_command_line(page: Path) -> None:
    found = [code for code in pages.code_of(page.read_text()) if code.startswith("arcp-io ")]
    wrong = [unknown_command(code) for code in found]
    assert [text for text in wrong if text is not None and "Missing" not in text] == []


def test_examples_in_the_help_are_those_of_the_command_line() -> None:
    """Check that the reference shows the examples of the help of each command."""
    text = "\n".join(block.text for block in pages.blocks("text") if block.page.parent == pages.GENERATED)
    lines = re.sub(r"\\\n\s*", "", text).replace(')"\n', "\n")  # As in eval "$(arcp-io ...)".
    found = re.findall(r"^.*?(arcp-io .*)$", lines, re.MULTILINE)
    assert len(found) > 20
    assert [wrong for command in found if (wrong := unknown_command(command)) is not None] == []


def test_wrong_commands_are_found() -> None:
    assert unknown_command("arcp-io serve hello:app --loop trio") is None
    assert "no such option" in str(unknown_command("arcp-io serve hello:app --lop trio")).lower()
    assert "missing" in str(unknown_command("arcp-io attach")).lower()
    assert unknown_command("python -m tests.nothing --seeds 1") is not None
    assert unknown_command("pytest tests/nothing") is not None
    assert pages.commands_of("$ a b \\\n   c  # d\ne\n$ f\n") == ["a b c", "f"]
