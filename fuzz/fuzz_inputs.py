"""Any text, as a list of inputs to a runtime: nothing is raised, and everything that must hold does.

A line is an action of `tests.properties.play` with its numbers (`submit 0 1 2`), `setup` with three of them
to choose a configuration, or `>`, a digit and what that client sends, byte for byte. Others are passed over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_proto import messages
    from tests.properties.play import ACTIONS, Action, Play, config_of

CORPUS: Final = Path(__file__).parent / "corpus" / "inputs.ndjson"
MOST_ACTIONS: Final = 300
MOST_DIGITS: Final = 3


class Sent(NamedTuple):
    """What a client sends, byte for byte."""

    number: int
    data: bytes


def check(data: bytes) -> None:
    """Raises for an input after which something does not hold."""
    setup, actions = read(data)
    play = Play(config_of(*setup))
    for action in actions:
        if isinstance(action, Sent):
            play.send(*action)
        else:
            play.do(*action)
    play.wind_down()
    play.check_replay()


def read(data: bytes) -> tuple[tuple[int, int, int], list[Action | Sent]]:
    """The configuration and the actions that a text names."""
    setup = (0, 0, 0)
    actions: list[Action | Sent] = []
    for line in data.split(b"\n"):
        if line[:1] == b">" and line[1:2].isdigit():
            actions.append(Sent(int(line[1:2]), line[2:]))
            continue
        name, *numbers = line.split()[:4] or [b""]
        a, b, c = (_number(word) for word in (*numbers, b"", b"", b"")[:3])
        if name == b"setup":
            setup = (a, b, c)
        elif name.isascii() and name.decode() in ACTIONS:
            actions.append((name.decode(), a, b, c))
    return setup, actions[:MOST_ACTIONS]


def words() -> list[str]:
    """What inputs are likely to hold."""
    return [*ACTIONS, "setup", *messages.TO_RUNTIME]


def _number(word: bytes) -> int:
    return int(word[:MOST_DIGITS]) % 256 if word[:MOST_DIGITS].isdigit() else 0


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
