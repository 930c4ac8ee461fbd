"""The run of a plan, and the search for a smaller plan that fails in the same way."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from arcp_proto.errors import InvariantViolated
from arcp_proto.limits import Limits

from .broken import Broken
from .plan import Move, Options, Plan
from .world import World


class Result(NamedTuple):
    """The result of a run: `name` and `message` are empty if all checks hold."""

    name: str
    message: str
    digest: str
    counts: dict[str, int]


def play(plan: Plan, note: Callable[[str], None] | None = None) -> Result:
    """Run a plan. An error that a state machine raises is a failure too."""
    world: World | None = None
    name = message = ""
    try:
        world = World(plan, note)
        world.run()
    except Broken as broken:
        name, message = broken.name, str(broken)
    except (Exception, InvariantViolated) as error:
        name, message = type(error).__name__, f"{type(error).__name__}: {error} at {_place(error)}"
    digest = "" if world is None else world.digest
    return Result(name, message, digest, {} if world is None else world.counts)


def _place(error: BaseException) -> str:
    """Return the calls that led to an error, innermost first."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-6:]))


def trace_of(plan: Plan) -> str:
    """Return the events of a run as text, one a line."""
    text = io.StringIO()
    result = play(plan, lambda line: print(line, file=text))
    print(result.name, result.message, file=text)
    return text.getvalue()


def shrink(plan: Plan, name: str, most: int = 400) -> Plan:
    """Return a smaller plan that fails in the same way, found with `most` runs at most."""
    left = most

    def fails(candidate: Plan) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and play(candidate).name == name

    size = max(1, len(plan.moves) // 2)
    while size and left > 0:
        start, smaller = len(plan.moves), False
        while start > 0 and left > 0:
            begin = max(0, start - size)
            moves = (*plan.moves[:begin], *_waited(plan.moves[begin:start]), *plan.moves[start:])
            candidate = Plan(plan.options, moves)
            if len(moves) < len(plan.moves) and fails(candidate):
                plan, smaller = candidate, True
            start = begin
        size = size if smaller and size > 1 and left > most // 2 else size // 2
    for options in _simpler(plan.options):
        candidate = Plan(msgspec.structs.replace(plan.options, **options), plan.moves)
        if left > 0 and fails(candidate):
            plan = candidate
    return plan


def _waited(moves: tuple[Move, ...]) -> tuple[Move, ...]:
    """Return one move that only waits, for as long as the given moves do; none if they do not wait."""
    wait = sum(move.wait for move in moves)
    return (Move(wait, "wait", 0, 0, 0),) if wait and len(moves) > 1 else ()


def _simpler(options: Options) -> list[dict[str, object]]:
    """Return changes of options, each of which makes a run simpler."""
    plain: dict[str, object] = {
        "delay": 0,
        "cuts": 0,
        "late_timer": 0,
        "verify": 0,
        "verifier_fails": 0,
        "expires": 0,
        "pull": 0,
        "heartbeat_sec": 0,
        "buffer": 64 * 1024,
        "journal": "prompt",
        "observers": {},
    }
    changes = [{name: value} for name, value in plain.items() if getattr(options, name) != value]
    default = Limits()
    for name in Limits.__struct_fields__:
        if getattr(options.limits, name) != getattr(default, name):
            limits = msgspec.structs.replace(options.limits, **{name: getattr(default, name)})
            changes.append({"limits": limits})
    if len(options.cast) > 1:
        changes.append({"cast": options.cast[:-1]})
    return changes
