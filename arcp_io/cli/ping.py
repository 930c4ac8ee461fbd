"""`arcp-io ping`: measure how long a runtime takes to answer."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .access import Access
from .arguments import checked, seconds_argument
from .option_groups import grouped
from .options import JsonLines, RuntimeUrl, server_for
from .output import write_line
from .question import ask

if TYPE_CHECKING:
    from arcp_io.client.session import Session

_Count = Annotated[int, typer.Option("--count", "-c", metavar="NUMBER", help="How often to ask.")]
_Every = Annotated[str, typer.Option(metavar="TIME", help="How long to wait between two questions.")]

UNKNOWN_JOB: Final = "job_00000000000000000000000000"
"""An id that no runtime gives out."""


@grouped
def ping(
    access: Access,
    url: RuntimeUrl = None,
    count: _Count = 4,
    every: _Every = "1s",
    as_json: JsonLines = False,
) -> None:
    """Measure how long a runtime takes to answer a request in an open session, a line each time.

    The session is opened once, with TLS and the token; 'arcp-io doctor' shows each of these steps.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io ping wss://agents.example/arcp
      arcp-io ping --profile work --count 100 --every 100ms --json | jq .ms
    """
    with checked("--count"):
        if count < 1:
            raise ValueError("must be 1 or more")
    with checked("--every"):
        pause = seconds_argument(every)
    server = server_for(url, access, "URL")
    run = partial(_ping, count=count, pause=pause, as_json=as_json)
    ask(access, server, run, as_json=as_json)


async def _ping(session: Session, *, count: int, pause: float, as_json: bool) -> None:
    import json

    import anyio

    taken: list[float] = []
    for number in range(1, count + 1):
        if taken:
            await anyio.sleep(pause)
        ms = await round_trip_ms(session)
        taken.append(ms)
        line = {"number": number, "ms": ms}
        await write_line(json.dumps(line) if as_json else f"answer {number} after {ms:.2f} ms")
    if not as_json:
        mean = sum(taken) / len(taken)
        told = f"least {min(taken):.2f} ms, mean {mean:.2f} ms, most {max(taken):.2f} ms"
        await write_line(f"{len(taken)} answers: {told}")


async def round_trip_ms(session: Session) -> float:
    """Return the milliseconds that the runtime takes to answer a request which changes nothing."""
    from arcp_io.errors import JobNotFound, LocalProtocolError

    begun = time.perf_counter()
    try:
        await session.list_jobs(page_size=1).__anext__()
    except StopAsyncIteration:
        pass
    except LocalProtocolError:  # The runtime does not list jobs.
        begun = time.perf_counter()
        with suppress(JobNotFound):
            await session.subscribe(UNKNOWN_JOB)
    return round((time.perf_counter() - begun) * 1000, 3)
