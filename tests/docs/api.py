"""The public names of arcp_io for docs/reference/names.md: signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec

import arcp_io
from arcp_io import journal, placing, testing

GIVEN: Final = (
    "BlockingJobContext",
    "Job",
    "JobContext",
    "MemoryServer",
    "Session",
    "BlockingRuntime",
    "MemoryRuntime",
)
"""Classes whose objects are given to programs, which do not make them."""


def of_arcp_io() -> list[str]:
    """Return the page of `arcp_io`."""
    told = [
        "# Public names of arcp_io",
        "Import these from `arcp_io`. `arcp_io.errors` is in [Error codes](errors.md), and `arcp_io.sync` has"
        " the same names as the client here, without `await`. Other names may change at any time; see the"
        " [changelog](../../CHANGELOG.md).",
    ]
    told += _names(arcp_io, leave_out=("errors", "sync", "ArcpError", "Limits"))
    told += ["## arcp_io.journal", "Import these from `arcp_io.journal`."]
    told += _names(journal, leave_out=("SqliteJournal",))
    told += [
        "## arcp_io.placing",
        "Import these from `arcp_io.placing`; see [Placements](../guides/placements.md).",
    ]
    told += _names(placing, leave_out=())
    told += [
        "## arcp_io.testing",
        "Import these from `arcp_io.testing`; see [Testing agents](../guides/testing.md).",
    ]
    told += _names(testing, leave_out=())
    return told


def _names(module: ModuleType, leave_out: tuple[str, ...]) -> list[str]:
    told: list[str] = []
    for name in module.__all__:
        if name not in leave_out:
            told += _described(name, getattr(module, name))
    return told


def _described(name: str, value: Any) -> list[str]:
    """Return the heading of a name, its signature, its docstring, and its members."""
    told = [f"### {name}"]
    if name not in GIVEN and _has_signature(value):
        told.append(f"```text\n{wrapped(name, value)}\n```")
    told += _paragraphs(value)
    if isinstance(value, type) and not issubclass(value, Enum):
        members = [_member(member, inspect.getattr_static(value, member)) for member in _members(value)]
        told += ["\n".join(members)] if members else []
    return told


def _has_signature(value: Any) -> bool:
    if isinstance(value, type):
        if not _is_ours(value):
            return False
        return not issubclass(value, BaseException | Enum) and not getattr(value, "_is_protocol", False)
    return inspect.isfunction(value) or hasattr(value, "__wrapped__")


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("arcp_io", "arcp_proto")


def _paragraphs(value: Any) -> list[str]:
    own = vars(value).get("__doc__") if isinstance(value, type) else inspect.getdoc(value)
    return _of_text(own) if isinstance(own, str) else []


def _of_text(text: str) -> list[str]:
    """Return the paragraphs of a docstring, each on one line; indented ones are blocks, as they stand."""
    parts = [part for part in re.split(r"\n\s*\n", inspect.cleandoc(text)) if part.strip()]
    return [
        f"```text\n{inspect.cleandoc(part)}\n```" if part.startswith("  ") else " ".join(part.split())
        for part in parts
    ]


def _members(kind: type) -> Iterator[str]:
    """Yield the public methods and properties of a class once each, in the order of their definition."""
    fields, told = getattr(kind, "__struct_fields__", ()), set[str]()
    for base in kind.__mro__:
        if not _is_ours(base):
            continue
        for name, value in vars(base).items():
            ours = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
            if ours and not name.startswith("_") and name not in fields and name not in told:
                told.add(name)
                yield name


def _member(name: str, value: Any) -> str:
    """Return the line of a list that describes a method or a property."""
    if isinstance(value, property):
        return f"* `{name}`: {_first(inspect.getdoc(value))}"
    function = getattr(value, "__func__", value)
    prefix = "await " if inspect.iscoroutinefunction(function) else ""
    return f"* `{prefix}{name}{signature_of(function)}`: {_first(inspect.getdoc(function))}"


def _first(text: str | None) -> str:
    return _of_text(text or "")[0] if text else ""


def signature_of(value: Callable[..., Any]) -> str:
    """Return the parameters of a function or a class, with their types and defaults, on one line."""
    return f"({', '.join(_parameters(value))})"


def wrapped(name: str, value: Callable[..., Any]) -> str:
    """Return a signature, with a line for each parameter when it is long."""
    parameters = _parameters(value)
    line = f"{name}({', '.join(parameters)})"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), ")"])


def _parameters(value: Callable[..., Any]) -> list[str]:
    if isinstance(value, type) and issubclass(value, msgspec.Struct):
        return _fields(value)
    shown: list[str] = []
    starred = False
    for parameter in inspect.signature(value).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            shown.append("*")
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        shown.append(_parameter(parameter))
    return shown


def _fields(kind: type[msgspec.Struct]) -> list[str]:
    """Return the fields of a Struct with the types that its source gives them."""
    types: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        types |= vars(base).get("__annotations__", {})
    return [
        f"{field.name}: {types[field.name]}" + ("" if field.required else f" = {_default(field.default)}")
        for field in _struct_fields(kind)
    ]


class _Field(NamedTuple):
    name: str
    default: object

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT


def _struct_fields(kind: type[msgspec.Struct]) -> Iterator[_Field]:
    """Yield the fields of a Struct; msgspec's own list evaluates types that only type checkers import."""
    names, defaults = kind.__struct_fields__, kind.__struct_defaults__
    missing = len(names) - len(defaults)
    for number, name in enumerate(names):
        yield _Field(name, msgspec.NODEFAULT if number < missing else defaults[number - missing])


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    annotation = getattr(parameter.annotation, "__forward_arg__", parameter.annotation)
    if isinstance(annotation, str):
        text += f": {annotation}"
    elif annotation is not parameter.empty:
        text += f": {inspect.formatannotation(annotation)}"
    if parameter.default is parameter.empty:
        return text
    return f"{text} = {_default(parameter.default)}"


def _default(value: object) -> str:
    """Return a default as its reader would write it."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    plain = value is None or isinstance(value, str | bytes | int | float | tuple)
    return repr(value) if plain and value is not msgspec.NODEFAULT else "..."
