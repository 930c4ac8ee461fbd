"""The blocking client has every public name of the async client, with the same parameters.

The job object of a plain function has those of an async one. A name that only `arcp_io` itself uses
begins with an underscore, and `help` shows the names for users.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, Final

import pytest

from arcp_io import sync
from arcp_io.agents import blocking_context, context, delegated_job
from arcp_io.client import connect, job, session

ONLY_SYNC: Final = ("timeout",)
"""The parameters that `sync` adds; the async API uses the timeouts of its event loop."""
CLIENT: Final = [(session.Session, sync.Session), (job.Job, sync.Job)]
AGENT: Final = [
    (context.JobContext, blocking_context.BlockingJobContext),
    (context.Hold, blocking_context.BlockingHold),
    (context.ResultStream, blocking_context.BlockingResultStream),
    (delegated_job.ChildJob, delegated_job.BlockingChildJob),
]
TWINS: Final = [*CLIENT, *AGENT]


def public_names(cls: type) -> list[str]:
    """Return the methods, properties and instance attributes of a class without a leading underscore."""
    source = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    attributes = [
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    ]
    names = dict.fromkeys([*vars(cls), *attributes])
    return sorted(name for name in names if not name.startswith("_"))


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any, Any]]:
    """Return the name, kind, default and annotation of each parameter but `self`."""
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default, one.annotation) for one in found if one.name != "self"]


@pytest.mark.parametrize(("theirs", "ours"), TWINS, ids=lambda cls: str(cls.__qualname__))
def test_the_sync_client_has_every_public_name(theirs: type, ours: type) -> None:
    names = public_names(theirs)
    assert [name for name in names if name not in vars(ours)] == []
    assert [name for name in public_names(ours) if name not in names] == []


@pytest.mark.parametrize("cls", [theirs for theirs, _ in CLIENT], ids=lambda cls: str(cls.__qualname__))
def test_help_begins_with_every_public_name(cls: type) -> None:
    words = re.findall(r"\w+", cls.__doc__ or "")
    assert [name for name in public_names(cls) if name not in words] == []


FUNCTIONS: Final = [
    (connect.connect, sync.connect),
    (connect.connect_stdio, sync.connect_stdio),
    *(
        (getattr(theirs, name), getattr(ours, name))
        for theirs, ours in TWINS
        for name in public_names(theirs)
        if inspect.isfunction(getattr(theirs, name, None))
    ),
]


@pytest.mark.parametrize(("theirs", "ours"), FUNCTIONS, ids=lambda function: str(function.__qualname__))
def test_the_parameters_are_the_same(theirs: Callable[..., Any], ours: Callable[..., Any]) -> None:
    names = inspect.signature(theirs).parameters
    added = [name for name in ONLY_SYNC if name not in names]
    assert [one for one in parameters(ours) if one[0] not in added] == parameters(theirs)


@pytest.mark.parametrize(
    "ours",
    [ours for _, ours in FUNCTIONS if ours.__module__ == sync.__name__],
    ids=lambda function: str(function.__qualname__),
)
def test_no_parameter_of_the_client_takes_any_name(ours: Callable[..., Any]) -> None:
    assert [one[0] for one in parameters(ours) if one[1] is inspect.Parameter.VAR_KEYWORD] == []


def documented(cls: type) -> dict[str, str]:
    """Return the docstrings of the public methods and properties of a class."""
    names = [name for name in vars(cls) if not name.startswith("_")]
    members = {name: inspect.getattr_static(cls, name) for name in names}
    return {name: "" if member is None else inspect.getdoc(member) or "" for name, member in members.items()}


OWN_WORDS: Final = ("cancel", "fetch_allowed", "http_client", "result", "wait")
"""The names whose docstrings differ, since a plain function or a thread has to know more or less."""


@pytest.mark.parametrize(("theirs", "ours"), TWINS, ids=lambda cls: str(cls.__qualname__))
def test_docstrings_of_the_sync_client_repeat_or_name_the_async_ones(theirs: type, ours: type) -> None:
    original = documented(theirs)
    for name, text in documented(ours).items():
        assert text, f"{name} has no docstring"
        if original.get(name) and name not in OWN_WORDS and f"see `arcp_io.{theirs.__name__}" not in text:
            assert text == original[name], name
