"""Pictures of the pages as SVG: the states from the tables of the code, and three timelines.

`python -m tests.docs.reference` writes them below `docs/pictures`, and a test compares them with those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from arcp_proto.engine.phases import PHASE_CHANGES, Phase
from arcp_proto.server.jobs.stage import JOB_ENDED, JOB_STARTED, OUTCOME_FIXED, TRANSITIONS, JobStage
from tests.docs.pages import DOCS

PICTURES: Final = DOCS / "pictures"

STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.middle { text-anchor: middle }
.box { fill: #f6f8fa; stroke: #59636e }
.bar { fill: #54aeff; stroke: none }
.last { fill: #dafbe1 }
.line { fill: none; stroke: #8c959f; stroke-width: 1.2 }
.record { stroke: #0969da; stroke-width: 1.6 }
.cut { stroke: #cf222e; stroke-width: 2 }
.head { fill: #8c959f }
.head-record { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .box { fill: #212830; stroke: #9198a1 }
  .bar { fill: #1f6feb } .last { fill: #12361f } .record { stroke: #58a6ff } .head-record { fill: #58a6ff }
}
"""
"""Colours for light and dark pages. No font, picture or script comes from another host."""


class Drawing:
    """An SVG picture that grows by its elements; lengths are pixels."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.width = self.height = 0.0
        self._elements: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Write words with their baseline at `y`, around `x` if `kind` has `middle`."""
        self._grow(x + len(words) * (3.6 if "middle" in kind else 7), y + 6)
        self._add(f'<text x="{x:g}" y="{y:g}"{_class(kind)}>{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, words: str, kind: str = "box") -> None:
        """Draw a rounded rectangle with words in its middle."""
        self._grow(x + width, y + height)
        self._add(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"{_class(kind)}/>')
        if words:
            self.text(x + width / 2, y + height / 2 + 5, words, "middle")

    def path(self, commands: str, kind: str = "line", head: bool = True) -> None:
        """Draw a path of SVG commands, with an arrow head at its end."""
        marker = f' marker-end="url(#{"record" if "record" in kind else "plain"})"' if head else ""
        self._add(f'<path d="{commands}"{_class(kind)}{marker}/>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float, kind: str = "line") -> None:
        """Draw a straight arrow."""
        self._grow(max(x, to_x), max(y, to_y))
        self.path(f"M{x:g} {y:g}L{to_x:g} {to_y:g}", kind)

    def svg(self) -> str:
        """Return the picture as a file of its own."""
        size = f"{self.width + 12:.0f} {self.height + 8:.0f}"
        width, height = size.split()
        markers = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" class="{kind}"/></marker>'
            for name, kind in (("plain", "head"), ("record", "head-record"))
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
                f'width="{width}" height="{height}" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{STYLE}</style>",
                f"<defs>{markers}</defs>",
                *self._elements,
                "</svg>\n",
            ]
        )

    def _add(self, element: str) -> None:
        self._elements.append(element)

    def _grow(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


# States.


class Step(NamedTuple):
    """An arrow from one state to another; `record` names what makes the step durable, if anything does."""

    before: str
    after: str
    record: str = ""


NODE: Final = (176.0, 38.0)
ROW: Final = 64.0
BULGE: Final = 30.0
"""Pixels by which an arrow leaves the column for each row that it passes."""


def states(title: str, steps: Sequence[Step], order: Sequence[str]) -> Drawing:
    """Draw states in a column, with steps forward to the right of it and steps back to the left.

    The last state of the order has its own colour.
    """
    drawing = Drawing(title)
    (width, height), row_of = NODE, {name: row for row, name in enumerate(order)}
    bulge = max((row_of[before] - row_of[after] for before, after, _ in steps), default=0)
    x = 12 + max(bulge, 1) * BULGE
    kept = {(one.before, one.after): one for one in steps}.values()
    ports = _ports(kept, row_of)
    for name, row in row_of.items():
        drawing.box(x, 8 + row * ROW, width, height, name, "box last" if name == order[-1] else "box")
    for before, after, record in kept:
        kind, rows = "line record" if record else "line", row_of[after] - row_of[before]
        if rows == 1:
            drawing.arrow(
                x + width / 2,
                ports.top(row_of[before]) + height,
                x + width / 2,
                ports.top(row_of[after]),
                kind,
            )
            continue
        edge, side = (x + width, 1) if rows >= 0 else (x, -1)
        start, end = ports.of[before, after, "out"], ports.of[before, after, "in"]
        out = edge + side * BULGE * max(abs(rows), 1)
        drawing.path(f"M{edge:g} {start:g}C{out:g} {start:g} {out:g} {end:g} {edge:g} {end:g}", kind)
        drawing.width = max(drawing.width, edge + (out - edge) * 0.8)
    return drawing


class Ports(NamedTuple):
    """The heights at which arrows touch their states, by before, after and "out" or "in"."""

    of: Mapping[tuple[str, str, str], float]

    def top(self, row: int) -> float:
        """Return the upper edge of the states in that row."""
        return 8 + row * ROW


def _ports(steps: Iterable[Step], row_of: Mapping[str, int]) -> Ports:
    """Spread the arrows of each state along its side, so that none hides another."""
    touching: dict[tuple[str, bool], list[tuple[int, tuple[str, str, str]]]] = {}
    for before, after, _record in steps:
        rows = row_of[after] - row_of[before]
        if rows != 1:
            touching.setdefault((before, rows >= 0), []).append(
                (rows if rows > 0 else 99 + rows, (before, after, "out"))
            )
            touching.setdefault((after, rows >= 0), []).append((-abs(rows), (before, after, "in")))
    found = {}
    for (name, _), ends in touching.items():
        incoming = sorted(key for key in ends if key[1][2] == "in")
        outgoing = sorted((key for key in ends if key[1][2] == "out"), reverse=True)
        for number, (_rows, key) in enumerate([*incoming, *outgoing]):
            found[key] = 8 + row_of[name] * ROW + NODE[1] * (number + 1) / (len(ends) + 1)
    return Ports(found)


def stages() -> Drawing:
    """Draw the stages of a job from their table."""
    drawing = states(
        "The stages of a job",
        [Step(one.before.value, one.after.value, one.record) for one in TRANSITIONS],
        [one.value for one in JobStage],
    )
    records = ", ".join((JOB_STARTED, OUTCOME_FIXED, JOB_ENDED))
    drawing.text(
        8, drawing.height + 26, f"Blue: a record of the journal makes the step ({records}).", "small"
    )
    return drawing


def phases() -> Drawing:
    """Draw the phases of a connection from their table."""
    steps = [Step(one.before.value, one.after.value) for one in PHASE_CHANGES]
    return states("The phases of a connection", steps, [one.value for one in Phase])


# Timelines.


def lifetimes() -> Drawing:
    """Draw a job, its session and the connections of that session as bars over time."""
    drawing = Drawing("A job and its session outlive their connections")
    lives: Mapping[str, Sequence[tuple[int, int]]] = {
        "job": [(150, 560)],
        "session": [(130, 640)],
        "connection": [(120, 260), (330, 450), (510, 600)],
    }
    for row, (name, bars) in enumerate(lives.items()):
        y = 10 + row * 44
        drawing.text(8, y + 18, name)
        for begin, end in bars:
            drawing.box(begin, y, end - begin, 26, "", "bar")
    for x in (260, 450):
        drawing.path(f"M{x} 92L{x} 130", "line cut", head=False)
        drawing.text(x + 35, 144, "cut", "small middle")
    drawing.text(330, 144, "session.resume", "small")
    drawing.text(510, 144, "session.resume", "small")
    drawing.text(120, 144, "session.hello", "small")
    drawing.arrow(120, 160, 650, 160)
    drawing.text(660, 164, "time", "small")
    return drawing


class Message(NamedTuple):
    """A message of a sequence: its sender is the client if `up`; `lost` messages do not arrive."""

    up: bool
    words: str
    lost: bool = False


RESUME: Final[Sequence[Message | str]] = (
    Message(True, "job.submit"),
    Message(False, "job.accepted"),
    Message(False, "job.event 7, 8, 9"),
    Message(True, "session.ack 9"),
    Message(False, "job.event 10, 11", lost=True),
    "The connection is cut. The job goes on, and the log of the session grows.",
    Message(True, "session.resume: token, last_event_seq 9"),
    Message(False, "session.welcome: a new token"),
    Message(False, "job.event 10, 11, 12: the same bytes"),
    Message(False, "job.result 13"),
    Message(True, "session.ack 13"),
)
"""A cut between two connections of one session (§6.3)."""


def resume() -> Drawing:
    """Draw a resume as a sequence of messages."""
    drawing = Drawing("A session that is resumed loses no event")
    left, right, y = 70.0, 470.0, 44.0
    for x, name in ((left, "client"), (right, "runtime")):
        drawing.box(x - 50, 6, 100, 26, name)
    for row in RESUME:
        y += 30
        if isinstance(row, str):
            drawing.path(f"M{left - 40:g} {y - 8:g}L{right + 40:g} {y - 8:g}", "line cut", head=False)
            drawing.text((left + right) / 2, y + 8, row, "small middle")
            y += 6
            continue
        start, end = (left, right) if row.up else (right, left)
        drawing.text((left + right) / 2, y - 5, row.words, "middle")
        stop = end if not row.lost else (start + end) / 2
        drawing.arrow(start, y, stop, y, "line cut" if row.lost else "line")
    for x in (left, right):
        drawing.path(f"M{x:g} 32L{x:g} {y + 14:g}", "line", head=False)
    drawing.height = max(drawing.height, y + 14)
    return drawing


ENDING: Final = (
    ("reason to end", "return, error, cancel,", "timeout, lease, shutdown"),
    ("1  outcome", "the agent has its grace", "of 5 seconds to stop"),
    ("2  children", "each ends by the", "same steps, first"),
    ("3  revocation", "of credentials,", "at most 2 seconds"),
    ("4  terminal", "one job.result", "or job.error"),
)
"""The steps to the end of a job, each with what happens in it."""


def ending() -> Drawing:
    """Draw the four steps from the reason to end to the terminal."""
    drawing = Drawing("How a job ends")
    for number, (name, first, second) in enumerate(ENDING):
        x = 8.0 + number * 168
        drawing.box(x, 8, 130, 32, name, "box last" if number == len(ENDING) - 1 else "box")
        drawing.text(x + 65, 60, first, "small middle")
        drawing.text(x + 65, 76, second, "small middle")
        if number:
            drawing.arrow(x - 38, 24, x, 24)
    return drawing


PICTURES_OF: Final[Mapping[str, Callable[[], Drawing]]] = {
    "lifetimes.svg": lifetimes,
    "resume.svg": resume,
    "ending.svg": ending,
    "stages.svg": stages,
    "phases.svg": phases,
}


def write() -> None:
    """Write every picture."""
    PICTURES.mkdir(exist_ok=True)
    for name, draw in PICTURES_OF.items():
        Path(PICTURES / name).write_text(draw().svg())
