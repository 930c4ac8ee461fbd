"""The words of docstrings, comments, messages and names of tests: clear to a reader without the code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = (
    "asgi",
    "attacks",
    "bridges",
    "brute_force",
    "cli",
    "cluster",
    "docs",
    "drops",
    "extras",
    "interop",
    "io",
    "kill9",
    "memory",
    "placing",
    "properties",
    "reference",
    "simulation",
    "transcripts",
    "unit",
)
"""The folders of tests whose words are checked."""
CHECKED: Final = (
    *("arcp_io/**/*.py", "arcp_proto/**/*.py"),
    *("benchmarks/**/*.py", "fuzz/**/*.py", "tests/*.py"),
    *(f"tests/{name}/**/*.py" for name in FOLDERS),
)
"""The files whose words are checked, except this one, which holds forbidden words."""

VAGUE: Final = re.compile(
    r"\b(?:who(?:ever|m)?|whatever|(?:no|some|any|every)body|any more|so many)\b"
    r"|(?<!\bthere )\b(?:is|are) no\b(?! longer\b)",
    re.IGNORECASE,
)
"""Words for an unnamed subject or amount, and "is no X" in place of "is not an X"."""
NAME: Final = re.compile(r"\{\w+\}|`[^`]*`")
"""A field of a text that is formatted later, or a name of the code, which may be any word."""
NO_SUBJECT: Final = re.compile(
    r"(?:Its?|They|He|She|This|That|These|Those|Something|Nothing|What|Likewise|The same|Again)\b"
)
"""The beginning of a sentence about a subject that it does not name."""
NOT_IMPERATIVE: Final = re.compile(
    r"[^A-Z]|(?:Whether|How|When|Where|Why|As|Until|While|If|Once|An?|The|One|Each|Every|All|Some|Any|No|Not"
    r"|None|More|Less|Other|Another|Same|There|Now|Only|Both|Also|True|False|In|On|At|Of|By|To|With|Without|For"
    r"|From|After|Before|Behind|Above|Below|Yes|[A-Z]\w*[^\Ws]s)\b"
)
"""The beginning of a docstring that does not tell a function what to do, such as "Returns" or "Whether"."""


RIDDLE: Final = re.compile(
    r"test_(?:what|whatever|who|whoever|of|that|it|its|they|them|whether|how|however|such|those|these|this)_"
    r"|_(?:whoever|whatever|whyever|nobody|somebody|everybody|any_more|so_many)(?:_|$)"
    r"|(?<!there)_(?:is|are)_no_(?!longer)"
)
"""The name of a test without a subject, or with a word for an unnamed subject or amount."""


NOT_A_NOUN: Final = re.compile(r"(?:Whether|How|When|Where|Why|Which)\b")
"""The beginning of a docstring that does not say what a class represents."""


class Docstring(NamedTuple):
    """A docstring, its line, and whether it is of a function that is not a property, or of a class."""

    line: int
    text: str
    of_function: bool
    of_class: bool


def docstrings(source: str) -> Iterator[Docstring]:
    """Yield the docstrings of a module, its classes and functions, and those after assignments."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for place, statement in enumerate(body if isinstance(body, list) else ()):
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    of_class = place == 0 and isinstance(node, ast.ClassDef)
                    yield Docstring(statement.lineno, text, place == 0 and _is_function(node), of_class)


def faults(source: str) -> list[str]:
    """Return the lines of a module with words that the prose rule forbids, each with these words."""
    found = []
    for line, text, of_function, of_class in docstrings(source):
        found += [f"{line}: {match[0]}" for match in VAGUE.finditer(NAME.sub("", text))]
        kinds = ((NO_SUBJECT, True), (NOT_IMPERATIVE, of_function), (NOT_A_NOUN, of_class))
        for forbidden, applies in kinds:
            if applies and (match := forbidden.match(text)):
                found.append(f"{line}: {match[0]} ...")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found += [f"{token.start[0]}: {match[0]}" for match in VAGUE.finditer(token.string)]
    for line, text in strings(source):
        found += [f"{line}: {match[0]}" for match in VAGUE.finditer(NAME.sub("", text))]
    return found


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module that are not docstrings, such as messages of errors, with lines.

    A string without a space is a name, such as that of a user of the system, and may be any word.
    """
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if " " in text and id(node) not in statements:
                yield node.lineno, text


def checked() -> list[Path]:
    """Return the files whose words are checked."""
    found = sorted(path for pattern in CHECKED for path in ROOT.glob(pattern))
    return [path for path in found if path != Path(__file__)]


def test_docstrings_and_comments_name_their_subject() -> None:
    found = [(str(path.relative_to(ROOT)), faults(path.read_text())) for path in checked()]
    assert [each for each in found if each[1]] == []


def test_tests_name_their_subject() -> None:
    texts = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = [
        name for text in texts for name in re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE)
    ]
    assert names
    assert [name for name in names if RIDDLE.search(name)] == []


def test_riddles_are_refused() -> None:
    assert RIDDLE.search("test_of_a_job_that_is_over_the_end_comes_again")
    assert RIDDLE.search("test_a_text_that_is_no_json")
    assert not RIDDLE.search("test_a_job_that_is_no_longer_listed_is_forgotten")


def test_files_are_found() -> None:
    roots = {path.relative_to(ROOT).parts[0] for path in checked()}
    assert roots == {"arcp_io", "arcp_proto", "benchmarks", "fuzz", "tests"}
    assert all(list(ROOT.glob(pattern)) for pattern in CHECKED)


@pytest.mark.parametrize(
    "docstring",
    [
        "Something has.",
        "It is.",
        "Whoever is nobody has no money either.",
        "Return what nobody wants.",
        "Return an id that is no job.",
        "Raise when there are not so many.",
        "Returns an id.",
        "Raises ValueError for an empty text.",
        "Whether the job has ended.",
        "The id of a job.",
        "`job.cancel` ends a job.",
        "Once per job.",
        "Without a job: None.",
    ],
)
def test_words_of_functions_are_refused(docstring: str) -> None:
    assert faults(f'def f():\n    """{docstring}"""\n')


def test_a_class_says_what_it_represents() -> None:
    assert faults('class A:\n    """Whether a job has ended."""\n') == ["2: Whether ..."]


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Return whether a job has ended, of those whose session is no longer open."""\n',
        'def f():\n    """Process all records; there is no other way. Is it open?"""\n',
        'class A:\n    """A job."""\n\n    @property\n    def b(self):\n        """Whether c."""\n',
        'A = 1\n"""Bytes of a message."""\n',
    ],
)
def test_other_words_are_allowed(source: str) -> None:
    assert faults(source) == []


def test_comments_are_checked() -> None:
    assert faults("a = 1  # Nobody waits.\n") == ["1: Nobody"]


def test_messages_are_checked() -> None:
    assert faults('raise ValueError(f"{a} is no job")\n') == ["1: is no"]
    assert faults('"{who} waits".format(who=1)\n') == []
    assert faults('uid = getpwnam("nobody")\n') == []


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(
        "property" in ast.unparse(decorator) or ast.unparse(decorator).endswith(".setter")
        for decorator in node.decorator_list
    )
