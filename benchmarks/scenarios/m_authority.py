"""(m) The check of authority: `authorize` in a job, and the match of patterns alone.

For patterns alone the peer's figure is that of `fnmatch`, which it uses, and the floor's is that of `re`.
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable
from functools import partial

from arcp_proto.leases import Automaton, parse_pattern

from ..case import ONE_LOOP, Case, Implementation, Metrics, Scenario
from ..process import Server, anew, serving

TARGET = "/data/reports/2026/11/summary.md"
ROUNDS = 5_000


def patterns(count: int) -> list[str]:
    """Return patterns, the last of which covers TARGET."""
    return [*(f"/data/archive/{number}/**" for number in range(count - 1)), "/data/reports/**"]


def authorize(count: int, server: Server) -> Metrics:
    """Measure an agent that authorizes an operation which its lease allows."""
    with server.connect() as session:
        input = {"n": ROUNDS, "capability": "fs.read", "target": TARGET}
        session.submit("authorize", input, lease_request={"fs.read": patterns(count)})
        result = session.until("job.result")["payload"]["result"]
    return {"authorize_cpu_us": result["us"]}


def match(count: int, implementation: Implementation) -> Metrics:
    """Match one target against all patterns, which are parsed before."""
    matches = _MATCHERS[implementation](patterns(count))
    if not matches(TARGET) or matches("/etc/passwd"):
        raise AssertionError("a matcher gives a wrong answer")
    start = time.process_time()
    for _ in range(ROUNDS):
        matches(TARGET)
    return {"match_us": (time.process_time() - start) / ROUNDS * 1e6}


def _ours(globs: list[str]) -> Callable[[str], object]:
    return Automaton([form for glob in globs for form in parse_pattern("fs.read", glob)]).matches


def _peer(globs: list[str]) -> Callable[[str], object]:
    return lambda target: any(fnmatch.fnmatchcase(target, glob) for glob in globs)


def _floor(globs: list[str]) -> Callable[[str], object]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs)).match


_MATCHERS = {Implementation.ASYNCIO: _ours, Implementation.PEER: _peer, Implementation.FLOOR: _floor}
_AGENTS = tuple(name for name in Implementation if name is not Implementation.FLOOR)
COUNTS = (1, 64)
SCENARIO = Scenario(
    "m",
    "authority",
    "the gate, and patterns",
    [
        *(
            Case(f"authorize, {n} patterns", serving(), partial(authorize, n), implementations=_AGENTS)
            for n in COUNTS
        ),
        *(Case(f"match, {n} patterns", anew, partial(match, n), implementations=ONE_LOOP) for n in COUNTS),
    ],
)
