"""A running job on a terminal. Text of peers is made printable first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from arcp_proto import ErrorCode, EventKind
from arcp_proto.leases import COST_BUDGET
from arcp_proto.wire import BUDGET_WARNING, REMAINING

from .exit_codes import Exit
from .job_request import Ending, told_status
from .printable import one_line, printable

_LEVELS: Final = {"error": "bold red", "warn": "yellow", "debug": "dim"}
_DENIALS: Final = (ErrorCode.PERMISSION_DENIED, ErrorCode.LEASE_EXPIRED, ErrorCode.BUDGET_EXHAUSTED)
_MOST_CALLS: Final = 100
"""Tool calls whose names are kept until their results arrive."""
_MOST_CURRENCIES: Final = 8


class View:
    """Shows one job: a line for each log, thought, status, metric, artifact and child, and for a failed
    tool.

    On a terminal a bar shows progress, tools, and the rest of the budget.
    """

    def __init__(self, console: Console, title: str, *, ends_with_us: bool = False) -> None:
        """Show a job on a console; `ends_with_us` says that the runtime ends with this process."""
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="magenta", markup=False),
            TextColumn("{task.fields[doing]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(
            one_line(title, longest=40), total=None, count="", left="", doing=""
        )
        self._ends_with_us = ends_with_us
        self._room = max(20, console.width - 75)
        self._streamed = 0
        self._calls: dict[str, str] = {}
        """Tool calls without a result: id -> tool."""
        self._left: dict[str, str] = {}
        """The rest of the budget: currency -> amount."""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def begin(self, job_id: str) -> None:
        """Print the id of the accepted job, complete and on a line of its own."""
        self.note(f"job {job_id}")

    def result(self, size: int) -> None:
        """Show how many bytes of the result have been received."""
        self._doing(f"result: {size:,} bytes")

    def note(self, text: str, style: str = "bold") -> None:
        """Print a line."""
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def show(self, kind: str, body: Mapping[str, Any]) -> None:
        """Show one event of the job."""
        show = _SHOW.get(kind)
        if show is None:
            self.note(one_line(kind), "dim")
        else:
            show(self, body)

    def end(self, ending: Ending) -> None:
        """Print the last line: how the job ended."""
        self._stop()
        if ending.detached:
            self.note(f"left as it is, for: {ending.attach}")
        elif ending.exit is Exit.SUCCESS:
            left = f"; {self._told_left()}" if self._left else ""
            self.note(f"success after {ending.events:,} events{left}", "bold green")
            if ending.summary:
                self.note(one_line(ending.summary), "green")
        elif ending.exit is Exit.EVENTS_LOST:
            self.note(f"success, but some events were lost; {ending.events:,} were received", "bold yellow")
        elif ending.exit is Exit.INTERRUPTED:
            self.note(self._interrupted(ending), "bold yellow")
        else:
            self.note(failed(ending), "bold red")

    def _interrupted(self, ending: Ending) -> str:
        if ending.job_id is None:
            return "nothing was submitted"
        if self._ends_with_us:
            return f"job {ending.job_id} ended with its runtime"
        return f"left job {ending.job_id} as it is"

    def _show_log(self, body: Mapping[str, Any]) -> None:
        level = _line(body, "level").lower() or "info"
        self.note(f"{level:<5} {body.get('message', '')}", _LEVELS.get(level, ""))

    def _show_thought(self, body: Mapping[str, Any]) -> None:
        self.note(str(body.get("text", "")), "italic dim")

    def _show_status(self, body: Mapping[str, Any]) -> None:
        # The status that rotates a credential holds its value, so only phase and message are shown.
        phase, message = _line(body, "phase"), _line(body, "message")
        style = "bold yellow" if phase == BUDGET_WARNING else "cyan"
        self.note(phase + (f": {message}" if message else ""), style)

    def _show_metric(self, body: Mapping[str, Any]) -> None:
        if body.get("name") == REMAINING:
            self._show_left(body)
            return
        self.note(f"{_line(body, 'name')} = {_line(body, 'value')} {_line(body, 'unit')}".rstrip(), "magenta")

    def _show_left(self, body: Mapping[str, Any]) -> None:
        """Show the rest of the budget, which is sent for each per cent: in the bar, or as a line without
        one.
        """
        currency = _line(body, "unit")
        if currency in self._left or len(self._left) < _MOST_CURRENCIES:
            self._left[currency] = _line(body, "value")
        if self._console.is_terminal:
            self._progress.update(self._task, left=one_line(self._told_left(), longest=40))
        else:
            self.note(f"{_line(body, 'value')} {currency} left", "magenta")

    def _told_left(self) -> str:
        return ", ".join(f"{amount} {currency}" for currency, amount in self._left.items()) + " left"

    def _show_artifact(self, body: Mapping[str, Any]) -> None:
        self.note(f"artifact {_line(body, 'uri')} ({_line(body, 'content_type')})", "green")

    def _show_delegate(self, body: Mapping[str, Any]) -> None:
        lease = body.get("lease")
        amounts = lease.get(COST_BUDGET) if isinstance(lease, Mapping) else None
        budget = (
            f" with {one_line(', '.join(map(str, amounts)))}" if isinstance(amounts, list) and amounts else ""
        )
        self.note(f"delegates to {_line(body, 'agent')}: {_line(body, 'child_job_id')}{budget}", "blue")

    def _show_tool_call(self, body: Mapping[str, Any]) -> None:
        tool = _line(body, "tool")
        if len(self._calls) < _MOST_CALLS:
            self._calls[_line(body, "call_id")] = tool
        self._doing(f"{tool} {_line(body, 'args')}")

    def _show_tool_result(self, body: Mapping[str, Any]) -> None:
        tool = self._calls.pop(_line(body, "call_id"), "")
        error = body.get("error")
        if isinstance(error, Mapping):
            code = _line(error, "code")
            how, style = ("denied", "bold yellow") if code in _DENIALS else ("failed", "yellow")
            self.note(f"{f'tool {tool}'.rstrip()} {how}: {code} {_line(error, 'message')}", style)

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
        self.result(self._streamed)

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
"""Event kind (§8.2) -> the method that shows it."""


def failed(ending: Ending) -> str:
    """Return a line that says how a job failed, or that nothing was submitted."""
    error = ending.error or {}
    told = f"{error.get('code')} {error.get('message')}"
    if ending.job_id is None:
        return f"failed: {told}"
    if ending.exit is Exit.OUTPUT:
        return f"job {ending.job_id} {ending.final_status or 'continues'}, result not written: {told}"
    if ending.final_status is None:
        return f"job {ending.job_id} was lost: {told}"
    return f"job {ending.job_id} {told_status(ending.final_status, ending.stopped)}: {told}"


def _line(body: Mapping[str, Any], field: str) -> str:
    """Return a field of a peer's body as one line of text; empty if absent or null."""
    value = body.get(field)
    return "" if value is None else one_line(value)


def _number(body: Mapping[str, Any], field: str) -> int | float | None:
    """Return a field of a peer's body, if it is a number that can be drawn."""
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e15 else None
