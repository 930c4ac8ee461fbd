"""python -m tests.docs.reference: write the pages of docs/reference/ from the tables in the code.

A test compares the pages with what is committed. Run this after a change of a table, and commit the result.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, get_args

import msgspec

from arcp_io import errors as exceptions
from arcp_io.cli import commands as cli
from arcp_io.cli.exit_codes import MEANINGS, Exit
from arcp_io.cli.json_fields import ERROR, FIELDS
from arcp_proto import Phase, errors, features, limits
from arcp_proto.client import client as client_machine
from arcp_proto.client.dispatch import HANDLERS as OF_CLIENT
from arcp_proto.engine import machine, timers
from arcp_proto.engine.phases import PHASE_CHANGES
from arcp_proto.server import audit
from arcp_proto.server.dispatch import DUE
from arcp_proto.server.dispatch import HANDLERS as OF_RUNTIME
from arcp_proto.server.jobs.stage import (
    AGENT_TRANSITIONS,
    TRANSITIONS,
    AgentStage,
    JobStage,
    Transition,
)
from arcp_proto.server.journal import records
from arcp_proto.wire import event_bodies, messages, peer_quirks, reading
from tests.docs import api, pictures
from tests.docs.diagrams import diagram_of_jobs, diagram_of_stages
from tests.docs.pages import GENERATED, pages, with_programs

NOTE: Final = (
    "<!-- Written by `python -m tests.docs.reference` from the code: change the code, not this page. -->"
)


def main() -> int:
    """Write every page of the reference, the pictures, and the programs that other pages show; return 0."""
    GENERATED.mkdir(exist_ok=True)
    for name in PAGES:
        (GENERATED / name).write_text(written(name))
    for page in pages():
        page.write_text(with_programs(page.read_text()))
    pictures.write()
    return 0


def written(name: str) -> str:
    """Return the page with that file name."""
    return "\n\n".join([NOTE, *PAGES[name]()]) + "\n"


def error_codes() -> list[str]:
    """Return the codes of §12, whether trying again can help, and the classes of exceptions."""
    classes = [value for value in vars(exceptions).values() if inspect.isclass(value)]
    base = exceptions.ArcpError
    ours = [value for value in classes if issubclass(value, base) and value is not base]
    rows = []
    for code in errors.ErrorCode:
        [found] = [one for one in ours if vars(one).get("default_code") == code]
        rows.append(
            [f"`{code}`", _yes(errors.RETRYABLE[code]), f"`{found.__name__}`", sentence(found.__doc__)]
        )
    local = [
        [f"`{one.__name__}`", f"`{one.default_code}`" if issubclass(one, base) else "", sentence(one.__doc__)]
        for one in classes
        if one.__module__ == exceptions.__name__ and one.__name__ not in {row[2].strip("`") for row in rows}
    ]
    return [
        "# Error codes",
        "An error names one of the fifteen codes of the draft (§12). For each of them the table decides"
        " whether trying again can help; an agent cannot change that. The client raises one class of"
        " `arcp_io.errors` for each code.",
        table(["Code", "Retryable", "Exception", "Meaning"], rows),
        "## Other exceptions",
        "These are raised by the client, by a runtime in the agent, or by the code that uses either. Codes of"
        " these classes that the draft does not have never cross the wire.",
        table(["Exception", "Code", "Meaning"], local),
    ]


def message_types() -> list[str]:
    """Return every message of both roles: when it is legal, what it needs, and its fields."""
    told = [
        "# Messages",
        "An envelope is one JSON object with a `type` and a `payload`. The tables say in which phase of a"
        " connection each type is legal, and which feature both sides must have negotiated (§6.2). The fields"
        " below each table are those of the payload; an optional field is left out when it has no value.",
        "## What a client sends",
        "A handler is named by its module below `arcp_proto`.",
        "Any other type is answered by `session.error` with INVALID_REQUEST. A *request* counts towards"
        " `max_requests_per_sec` (see [Limits](limits.md)).",
    ]
    rows = [
        [
            f"`{kind}`",
            f"`{phase}`",
            f"`{rule.feature}`" if rule.feature else "",
            _yes(rule.counted),
            _handler(rule.handle),
            _yes(rule.for_guests),
            sentence(rule.handle.__doc__),
        ]
        for phase, rules in OF_RUNTIME.items()
        for kind, rule in rules.items()
    ]
    told.append(
        table(["Type", "Phase", "Feature", "Request", "Handler", "For guests", "What the runtime does"], rows)
    )
    told += _fields_of_messages(messages.TO_RUNTIME)
    told += [
        "## What a runtime sends",
        "The client ignores any other type, so that a newer runtime can be understood.",
    ]
    rows = [
        [f"`{kind}`", f"`{phase}`", _handler(handler), sentence(handler.__doc__)]
        for phase, handlers in OF_CLIENT.items()
        for kind, handler in handlers.items()
    ]
    told.append(table(["Type", "Phase", "Handler", "What the client does"], rows))
    told += _fields_of_messages(messages.TO_CLIENT)
    known = {**vars(messages), **vars(reading)}.values()
    parts = [one for one in known if _is_part(one)]
    told += [
        "## Parts of payloads",
        table(
            ["Part", "Fields", "Meaning"], [[f"`{one.__name__}`", _fields(one), _doc(one)] for one in parts]
        ),
        "## Kinds of events",
        "The body of a `job.event` is an object whose fields depend on its `kind` (§8.2). Kinds of your own"
        " are named `x-vendor.<vendor>.<name>`, and may have any fields.",
    ]
    rows = []
    for kind, body in event_bodies.BODIES.items():
        feature = event_bodies.FEATURE_OF_KIND.get(kind)
        rows.append([f"`{kind}`", _fields(body), f"`{feature}`" if feature else "", _doc(body)])
    told.append(table(["Kind", "Fields", "Feature", "Meaning"], rows))
    told += [
        "## Features",
        "A session has the features that both sides name. They are named in this order: "
        + ", ".join(f"`{name}`" for name in features.FEATURES)
        + ".",
    ]
    return told


def _handler(function: Callable[..., object]) -> str:
    """Return where a handler is, below `arcp_proto`."""
    return f"`{function.__module__.removeprefix('arcp_proto.')}.{function.__name__}`"


def _is_part(value: object) -> bool:
    """Return whether a name of the module is a Struct that stands inside of messages."""
    whole = {
        *messages.TO_RUNTIME.values(),
        *messages.TO_CLIENT.values(),
        messages.EncodedJobs,
        reading.EncodedEvents,
        reading.Glance,
    }
    struct = isinstance(value, type) and issubclass(value, msgspec.Struct)
    return struct and value not in whole and not value.__name__.startswith("_")


def _fields_of_messages(shapes: Mapping[str, type[msgspec.Struct]]) -> list[str]:
    rows = [[f"`{kind}`", _fields(shape), _doc(shape)] for kind, shape in shapes.items()]
    return [table(["Type", "Fields of the payload", "Meaning"], rows)]


def _fields(shape: type[msgspec.Struct]) -> str:
    """Return the fields of a message, optional ones with a question mark."""
    words = []
    for field in msgspec.structs.fields(shape):
        required = field.required or field.default is msgspec.NODEFAULT
        words.append(f"`{field.encode_name}`" if required else f"`{field.encode_name}`?")
    return ", ".join(words)


SUFFIXES: Final[Mapping[str, str]] = {"_per_sec": "per second", "_sec": "s", "_bytes": "bytes"}
"""Units of the fields of Limits by the ends of their names; all others are numbers of things."""


def unit_of(name: str) -> str:
    """Return the unit of a field of Limits."""
    return next((unit for suffix, unit in SUFFIXES.items() if name.endswith(suffix)), "")


def limit_table() -> list[str]:
    """Return every field of Limits, and the bounds that cannot be changed."""
    text = inspect.getdoc(limits.Limits) or ""
    before, *families = re.split(r"^(\w[\w ]*):\n(?=  )", text, flags=re.MULTILINE)
    tables = []
    for family, fields in zip(families[::2], families[1::2], strict=True):
        tables += [f"## {family}", _limits_of(fields)]
    fixed = [
        [f"`{name}`", f"{getattr(limits, name):,}", meaning]
        for name, meaning in constant_docs(limits).items()
        if name.startswith("MAX_")
    ]
    return [
        "# Limits",
        "A host changes a bound with `App(limits=Limits(max_principal_sessions=500))`, a client with"
        " `connect(url, limits=Limits(...))`. What happens at those bounds that users meet stands in"
        " [What a client may take](../guides/limits.md).",
        *paragraphs(before),
        *tables,
        "## Bounds that are fixed",
        table(["Name in `arcp_proto.limits`", "Value", "Meaning"], fixed),
    ]


def _limits_of(fields: str) -> str:
    """Return the table of one family of fields, from its part of the docstring."""
    rows = []
    for name, meaning in re.findall(r"^  (\w+): (.*?)(?=^  \w+: |\Z)", fields, re.DOTALL | re.MULTILINE):
        word = (
            f" The word in `details.limit` is `{limits.WIRE_WORDS[name]}`."
            if name in limits.WIRE_WORDS
            else ""
        )
        default = f"{getattr(limits.Limits(), name):,}"
        rows.append([f"`{name}`", default, unit_of(name), one_line(meaning) + word])
    return table(["Field of `Limits`", "Default", "Unit", "Meaning"], rows)


def timer_table() -> list[str]:
    """Return every kind of timer, and the roles that have it."""
    meanings = member_docs(timers.TimerKind)
    both = set(_kinds_in(machine))
    rows = []
    for kind in timers.TimerKind:
        roles = ["runtime"] * (kind in DUE) + ["client"] * (kind in _kinds_in(client_machine))
        rows.append(
            [f"`{kind}`", "both" if kind in both and not roles else " and ".join(roles), meanings[kind.name]]
        )
    return [
        "# Timers",
        "All deadlines of a runtime or a client are in one heap, in its state machine. `Output.timer` says"
        " when to call `handle_timer` next, and gives the kind as the reason. A call that is early, late or"
        " repeated does no harm.",
        table(["Kind", "Role", "What happens when it is due"], rows),
    ]


def _kinds_in(module: ModuleType) -> list[timers.TimerKind]:
    """Return the kinds that a module handles by a `case`."""
    found = re.findall(r"case \(?TimerKind\.(\w+)", inspect.getsource(module))
    return [timers.TimerKind[name] for name in found]


def audit_facts() -> list[str]:
    """Return the facts of an audit, and the notices for a log."""
    docs = constant_docs(audit)
    return [
        "# Audit facts",
        "A fact has the fields `at`, `what`, `principal` and `facts`; see [Audit](../guides/audit.md). None"
        " of them holds a secret.",
        table(["What", "Fields of `facts`"], _names(audit.FACTS)),
        *paragraphs(docs["FACTS"]),
        "## Notices",
        "These are for the log of a server, and not for its audit.",
        table(["What", "Fields"], _names(audit.NOTICES)),
        *paragraphs(docs["NOTICES"]),
    ]


def _names(facts: Mapping[str, Iterable[str]]) -> list[list[str]]:
    return [[f"`{name}`", ", ".join(f"`{field}`" for field in fields)] for name, fields in facts.items()]


def quirk_table() -> list[str]:
    """List peers that deviate from the draft, and what they get instead."""
    plain, *others = peer_quirks.QUIRKS.values()
    meanings = member_docs(peer_quirks.RefusalForm)
    docs = attribute_docs(peer_quirks.Quirk)
    names = [field.name for field in msgspec.structs.fields(peer_quirks.Quirk) if field.name != "name"]
    rows = [
        [f"`{name}`", *(_quirk_value(getattr(one, name), getattr(plain, name)) for one in others)]
        for name in names
    ]
    forms = [[f"`{form}`", meanings[form.name]] for form in peer_quirks.RefusalForm]
    return [
        "# Peer quirks",
        "Some clients cannot read what the draft says. The runtime recognises them by their hello and answers"
        " in the form that they read; `App(quirks=False)` switches this off. An empty cell means the form of"
        " the draft.",
        table(["Rule", *(one.name for one in others)], rows),
        "The rules `submit`, `cancel`, `subscribe`, `list_jobs` and `other` say how a refused message of that"
        " type is answered:",
        table(["Form", "Meaning"], forms),
        "The other rules:",
        table(["Rule", "Meaning"], [[f"`{name}`", meaning] for name, meaning in docs.items()]),
    ]


def _quirk_value(value: object, plain: object) -> str:
    if value == plain:
        return ""
    return _yes(value) if isinstance(value, bool) else f"`{value}`"


def command_line() -> list[str]:
    """Return every command with its arguments and options, as its own help says."""
    told = [
        "# Command line",
        "Each command says the same with `--help`. [The guide](../guides/command-line.md) explains how the"
        " commands work together. The fields of the JSON of each command stand [below](#json).",
    ]
    for name, command in cli.listed_commands():
        told += [f"## arcp-io {name}", *_help(command.help or "")]
        rows = [_option(parameter) for parameter in command.params if "--help" not in parameter.opts]
        told.append(table(["Argument or option", "Default", "Meaning"], rows))
        told.append(command.epilog)
    codes = [[f"{code.value}", f"`{code.name}`", MEANINGS[code]] for code in Exit]
    told += ["## Exit codes", table(["Code", "Name in `arcp_io.cli.exit_codes.Exit`", "Meaning"], codes)]
    told += [
        "## JSON",
        "With `--json` a command prints one object, or one a line, on stdout, and nothing else; notes for"
        " people may still come on stderr. Fields are added in later releases, so ignore those that you do"
        " not know. A command that fails prints the field `error`, alone unless it follows a job:"
        f" {ERROR.partition(': ')[2]}.",
    ]
    for name, printed in FIELDS.items():
        told.append(f"### {name} --json")
        told.append("One object a line." if printed.lines else "One object.")
        rows = [[f"`{field}`", meaning] for field, meaning in printed.fields.items() if field != "error"]
        told.append(table(["Field", "Meaning"], rows))
    return told


def _help(text: str) -> list[str]:
    """Return the help of a command; its examples, and other texts whose lines stay, are blocks."""
    first, *others = inspect.cleandoc(text).split("\b\n")
    told = paragraphs(first)
    for other in others:
        block, _, after = other.partition("\n\n")
        lines = [line[2:] if line.startswith("  ") else line for line in block.strip("\n").splitlines()]
        told.append("\n".join(["```text", *[line for line in lines if line != "Examples:"], "```"]))
        told += paragraphs(after)
    return told


def _option(parameter: Any) -> list[str]:
    names = parameter.opts if any(name.startswith("-") for name in parameter.opts) else []
    flag = bool(getattr(parameter, "is_flag", False))
    words = ", ".join(
        f"`{name}`" if flag or not parameter.metavar else f"`{name} {parameter.metavar}`" for name in names
    )
    default = parameter.default
    empty = default is None or default is False or default == "" or default == () or "UNSET" in repr(default)
    shown = "" if empty or callable(default) else f"`{getattr(default, 'value', default)}`"
    if getattr(parameter, "envvar", None):
        shown = f"${parameter.envvar}"
    return [
        words or f"`{parameter.metavar}`",
        shown,
        (getattr(parameter, "help", "") or "").replace("|", "\\|"),
    ]


def record_table() -> list[str]:
    """Return every record of the journal, with its fields."""
    rows = [
        [
            f"`{record.__name__}`",
            ", ".join(f"`{name}`" for name in record.__struct_fields__),
            sentence(record.__doc__, most=9),
        ]
        for record in get_args(records.Record)
    ]
    return [
        "# Records of the journal",
        f"Durable state changes only by a record. This is version {records.RECORD_VERSION} of the schema. A"
        " journal of an older version is migrated when it is opened, and one of a newer version is refused. A"
        " record is MessagePack, holds hashes of tokens, and no secret."
        " [Durability](../explanation/durability.md) explains how they are used.",
        table(["Record", "Fields", "Meaning"], rows),
    ]


def states() -> list[str]:
    """Return the states of a connection and of a job."""
    phases = member_docs(Phase)
    rows = [[f"`{phase}`", phases.get(phase.name, "")] for phase in Phase]
    changes = [[f"`{one.before}`", f"`{one.after}`", one.role, one.meaning] for one in PHASE_CHANGES]
    return [
        "# States",
        "## Connection",
        "[Three lifetimes](../explanation/lifetimes.md) explains how connections, sessions and jobs belong"
        " together.",
        "![The phases of a connection and the steps between them](../pictures/phases.svg)",
        table(["Phase", "Meaning"], rows),
        table(["From", "To", "Role", "Meaning"], changes),
        "## Job",
        "[How a job ends](../explanation/endings.md) explains the steps to its end.",
        *diagram_of_jobs(),
        "## Stages of a job",
        "Inside a runtime a job has a stage, which says more than the status that clients see. Its agent has"
        " one of its own, since an agent that ignores its cancellation outlives its job.",
        "![The stages of a job and the steps between them](../pictures/stages.svg)",
        _stages(JobStage),
        _transitions(TRANSITIONS),
        "A transition with a record survives a crash. After a crash a job is in the stage that the last such"
        " record made.",
        "## Stages of an agent",
        *diagram_of_stages(AGENT_TRANSITIONS),
        _stages(AgentStage),
        _transitions(AGENT_TRANSITIONS),
    ]


def _stages(stages: type[JobStage] | type[AgentStage]) -> str:
    meanings = member_docs(stages)
    return table(["Stage", "Meaning"], [[f"`{one}`", meanings[one.name]] for one in stages])


def _transitions(transitions: Sequence[Transition[Any]]) -> str:
    rows = [
        [f"`{one.before}`", f"`{one.after}`", f"`{one.record}`" if one.record else "", one.meaning]
        for one in transitions
    ]
    return table(["From", "To", "Record", "Meaning"], rows)


PAGES: Final[Mapping[str, Callable[[], list[str]]]] = {
    "errors.md": error_codes,
    "messages.md": message_types,
    "limits.md": limit_table,
    "timers.md": timer_table,
    "audit.md": audit_facts,
    "quirks.md": quirk_table,
    "command-line.md": command_line,
    "records.md": record_table,
    "states.md": states,
    "names.md": api.of_arcp_io,
}


# Text.


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(one_line(cell) for cell in line) + " |" for line in lines)


def one_line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a docstring, each on one line."""
    return [one_line(part) for part in re.split(r"\n\s*\n", inspect.cleandoc(text)) if part.strip()]


def sentence(text: str | None, most: int = 1) -> str:
    """Return the first paragraphs of a docstring, on one line."""
    return " ".join(paragraphs(text or "")[:most])


def _doc(shape: type[msgspec.Struct]) -> str:
    return sentence(vars(shape).get("__doc__"), most=9)


def _yes(value: object) -> str:
    return "yes" if value else "no"


def constant_docs(module: ModuleType) -> dict[str, str]:
    """Return the docstrings of the constants of a module; empty for one without."""
    return _docs(ast.parse(inspect.getsource(module)).body)


def attribute_docs(kind: type) -> dict[str, str]:
    """Return the docstrings of the attributes of a class that have one."""
    [body] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    return {name: one_line(doc) for name, doc in _docs(body.body).items() if doc}


def member_docs(kind: type) -> dict[str, str]:
    """Return what is said of the members of an enum, by their names."""
    return attribute_docs(kind)


def _docs(body: Sequence[ast.stmt]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = ""
                match after:
                    case ast.Expr(value=ast.Constant(value=str(doc))):
                        found[name] = inspect.cleandoc(doc)
    return found


if __name__ == "__main__":
    sys.exit(main())
