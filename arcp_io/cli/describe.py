"""`arcp-io describe`: one look at a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from .access import Access
from .attach import JobId
from .job_request import told_status
from .jobs import local_time
from .option_groups import grouped
from .options import Json, Url, check_job, server_for
from .output import print_out
from .printable import one_line
from .question import ask

if TYPE_CHECKING:
    from arcp_io.client.session import Session
    from arcp_proto import JobDescription


@grouped
def describe(job_id: JobId, access: Access, url: Url = None, as_json: Json = False) -> None:
    """Take one look at a job: its status, times, lease, budget, progress, children, and how it ended.

    The exit code is 0 for every job that can be described, however it ended.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io describe job_01JABC
      arcp-io describe job_01JABC --json | jq .budget
    """
    check_job(job_id)

    async def look(session: Session) -> JobDescription:
        return await session.describe(job_id)

    found = ask(access, server_for(url, access), look, as_json=as_json)
    if as_json:
        shown = {"attempt": found.attempt, "agent_runs": found.agent_runs}
        print_out(json.dumps(msgspec.to_builtins(found) | shown))
        return
    rows = list(_rows(found))
    width = max(len(name) for name, _ in rows)
    print_out("\n".join(f"{name.ljust(width)}  {one_line(value)}" for name, value in rows))


def _rows(job: JobDescription) -> Iterator[tuple[str, str]]:
    """Yield what is known about a job, a name and a text each."""
    yield "job", job.job_id
    yield "agent", job.agent
    yield "status", told_status(job.status, job.stopped)
    if job.end is None and job.ends_as is not None:
        yield "ends as", f"{job.ends_as}, once its agent has stopped or its grace is over"
    yield "created", local_time(job.created_at)
    yield "attempt", str(job.attempt)
    if job.max_runtime_sec is not None:
        yield "may run", f"{job.max_runtime_sec:,} s"
    for namespace, patterns in job.lease.items():
        yield "lease", f"{namespace}: {', '.join(patterns)}"
    if job.expires_at is not None:
        yield "lease ends", local_time(job.expires_at)
    for currency, counter in (job.budget or {}).items():
        held = f", {counter.reserved} of it reserved" if counter.reserved else ""
        yield "budget", f"{counter.remaining} of {counter.initial} {currency} left{held}"
    if job.progress is not None:
        yield "progress", _progress(job.progress)
    kept = job.history_from_job_seq
    yield "events", f"{job.job_seq:,}" + (f", kept from number {kept:,} on" if kept > 1 else "")
    if job.parent_job_id is not None:
        yield "parent", job.parent_job_id
    for child in job.children or ():
        yield "child", child
    if job.trace_id is not None:
        yield "trace", job.trace_id
    yield from _end(job)


def _end(job: JobDescription) -> Iterator[tuple[str, str]]:
    end = job.end
    if end is None:
        return
    yield "ended", local_time(end.completed_at)
    if end.code is not None:
        yield "error", f"{end.code} {end.message or ''}"
    if end.summary is not None:
        yield "summary", end.summary
    if end.result_size is not None:
        yield "result", f"{end.result_size:,} bytes"
    if job.agent_runs:
        yield "stopped", "not yet: the agent goes on, though it can no longer spend or report anything"
    elif job.agent_stopped_at is not None:
        yield "stopped", f"{local_time(job.agent_stopped_at)}, after the end of the job"
    elif job.stopped is False:
        yield "stopped", "not when the job ended; the runtime cannot tell whether the agent has stopped since"


def _progress(body: dict[str, Any]) -> str:
    current, total, units = (body.get(key) for key in ("current", "total", "units"))
    of = "" if total is None else f" of {total}"
    return " ".join(filter(None, [f"{current}{of}", str(units or ""), str(body.get("message") or "")]))
