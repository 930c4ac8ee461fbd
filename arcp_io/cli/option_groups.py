"""Groups of options that several commands share, each written once as a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, Final, Protocol, Self, get_type_hints, runtime_checkable

import typer

_CONTEXT: Final = "context_of_groups"


@runtime_checkable
class Resolved(Protocol):
    """A group that looks at the sources of its values, such as flags and variables, before it is used."""

    def resolved(self, context: typer.Context) -> Self:
        """Return the group that the command gets; raises a usage error."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command for typer in which each parameter that is a dataclass is replaced by its fields.

    The fields are annotated as parameters of a command are, and have defaults. The command itself gets the
    dataclass. Options of a group stand behind those of the command.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    parameters = [_keyword(_CONTEXT, typer.Context)]
    shared: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(_keyword(parameter.name, kind, parameter.default))
            continue
        of_fields = get_type_hints(kind, include_extras=True)
        shown = [field for field in fields(kind) if field.default is not MISSING and field.init]
        groups[parameter.name] = kind, [field.name for field in shown]
        shared += [_keyword(field.name, of_fields[field.name], field.default) for field in shown]

    @wraps(command)
    def run(**values: Any) -> None:
        context = values.pop(_CONTEXT)
        for name, (kind, names) in groups.items():
            group = kind(**{field: values.pop(field) for field in names})
            values[name] = group.resolved(context) if isinstance(group, Resolved) else group
        command(**values)

    ordered = parameters + shared
    vars(run)["__signature__"] = inspect.Signature(ordered)
    run.__annotations__ = {one.name: one.annotation for one in ordered}
    return run


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
