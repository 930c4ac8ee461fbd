"""A job as it runs, on a terminal. Everything that a peer sent is made printable first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from arcp_proto.events import EventKind

from .exits import Exit
from .printable import one_line, printable
from .request import Ending

_LEVELS: Final = {"error": "bold red", "warn": "yellow", "debug": "dim"}


class View:
    """One job: a line for each log, thought, status, metric and artifact, a bar for progress and tools.

    On what is no terminal there is no bar.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(one_line(title, longest=40), total=None, count="", doing="")
        self._room = max(20, console.width - 75)
        self._streamed = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def note(self, text: str, style: str = "bold") -> None:
        """A line of its own."""
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def show(self, kind: str, body: Mapping[str, Any]) -> None:
        """One event of the job."""
        show = _SHOW.get(kind)
        if show is None:
            self.note(one_line(kind), "dim")
        else:
            show(self, body)

    def end(self, ending: Ending) -> None:
        """The last line: how the job ended."""
        self._stop()
        if ending.exit is Exit.SUCCESS:
            self.note(f"success after {ending.events:,} events", "bold green")
        elif ending.exit is Exit.INTERRUPTED:
            job = f"left job {ending.job_id} as it is" if ending.job_id else "nothing was submitted"
            self.note(job, "bold yellow")
        else:
            error = ending.error or {}
            what = f"job {ending.job_id} {ending.final_status or 'was lost'}" if ending.job_id else "failed"
            self.note(f"{what}: {error.get('code')} {error.get('message')}", "bold red")

    def _show_log(self, body: Mapping[str, Any]) -> None:
        level = _line(body, "level").lower() or "info"
        self.note(f"{level:<5} {body.get('message', '')}", _LEVELS.get(level, ""))

    def _show_thought(self, body: Mapping[str, Any]) -> None:
        self.note(str(body.get("text", "")), "italic dim")

    def _show_status(self, body: Mapping[str, Any]) -> None:
        # The status that rotates a credential carries its value: phase and message are all that is shown.
        message = _line(body, "message")
        self.note(_line(body, "phase") + (f": {message}" if message else ""), "cyan")

    def _show_metric(self, body: Mapping[str, Any]) -> None:
        self.note(f"{_line(body, 'name')} = {_line(body, 'value')} {_line(body, 'unit')}".rstrip(), "magenta")

    def _show_artifact(self, body: Mapping[str, Any]) -> None:
        self.note(f"artifact {_line(body, 'uri')} ({_line(body, 'content_type')})", "green")

    def _show_delegate(self, body: Mapping[str, Any]) -> None:
        self.note(f"delegates to {_line(body, 'agent')}", "blue")

    def _show_tool_call(self, body: Mapping[str, Any]) -> None:
        self._doing(f"{_line(body, 'tool')} {_line(body, 'args')}")

    def _show_tool_result(self, body: Mapping[str, Any]) -> None:
        error = body.get("error")
        if isinstance(error, Mapping):
            self.note(f"tool failed: {_line(error, 'code')} {_line(error, 'message')}", "yellow")

    def _show_progress(self, body: Mapping[str, Any]) -> None:
        current, total = _number(body, "current") or 0, _number(body, "total")
        count = f"{current:,}" if total is None else f"{current:,}/{total:,}"
        self._progress.update(
            self._task, completed=current, total=total, count=f"{count} {_line(body, 'units')}".rstrip()
        )
        if body.get("message"):
            self._doing(_line(body, "message"))

    def _show_result_chunk(self, body: Mapping[str, Any]) -> None:
        self._streamed += len(str(body.get("data", "")))
        self._doing(f"result: {self._streamed:,} characters")

    def _stop(self) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def _doing(self, text: str) -> None:
        self._progress.update(self._task, doing=one_line(text, longest=self._room))


_SHOW: Final[Mapping[str, Callable[[View, Mapping[str, Any]], None]]] = {
    EventKind.LOG: View._show_log,
    EventKind.THOUGHT: View._show_thought,
    EventKind.STATUS: View._show_status,
    EventKind.METRIC: View._show_metric,
    EventKind.ARTIFACT_REF: View._show_artifact,
    EventKind.DELEGATE: View._show_delegate,
    EventKind.TOOL_CALL: View._show_tool_call,
    EventKind.TOOL_RESULT: View._show_tool_result,
    EventKind.PROGRESS: View._show_progress,
    EventKind.RESULT_CHUNK: View._show_result_chunk,
}
"""Event kind (§8.2) -> how it is shown."""


def _line(body: Mapping[str, Any], field: str) -> str:
    """A field of a peer's body as one line of text; absent or null is empty."""
    value = body.get(field)
    return "" if value is None else one_line(value)


def _number(body: Mapping[str, Any], field: str) -> int | float | None:
    """A field of a peer's body, if it is a number that can be drawn."""
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e15 else None
