"""A client process: it submits jobs until its standard input ends, and writes down all that it gets.

python -m tests.kill9.client NAME URL NOTES LOOP TOKEN [STORE]

With a STORE it may be killed, and goes on where it stopped when it is started again. What it knows is in
NOTES, a line of JSON for each thing, written at once; an event and its cursor are one line, so that a client
that is started again knows by its notes what it had done, and does it once, also when an event comes again.
"""

from __future__ import annotations

import json
import os
import random
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc

from arcp_io import connect
from arcp_io.client.connect import Job, Session
from arcp_io.client.store import FileStore
from arcp_io.errors import ArcpError, ConnectionLost, InvalidRequest
from tests.runners import run

WORKERS: Final = 3
"""Jobs at a time."""
AGENTS: Final = ("once", "again", "again", "stream")
REST: Final = 0.3
"""Seconds between two jobs, at most: what is there to be restored should not get too much."""
LOOK_FOR_STORED: Final = 0.05
"""Seconds between two looks for jobs of a stored session that were not known before."""
LOOKS: Final = 20
"""The least number of jobs, also when the client is to end at once."""


class Notes:
    """The notes of a client, with those of earlier lives."""

    def __init__(self, path: Path) -> None:
        self.lives = 0
        self.done: dict[str, int] = {}
        """The position of the last event of each job that was noted."""
        if path.exists():
            for note in read_notes(path):
                self.lives += note["what"] == "life"
                if note["what"] == "event" and note["position"] is not None:
                    self.done[note["job"]] = note["position"]
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.write("life", life=self.lives)

    def write(self, what: str, **facts: Any) -> None:
        """Write one line, whole or not at all."""
        os.write(self._descriptor, json.dumps({"what": what, **facts}).encode() + b"\n")


class Client:
    """One life of a client."""

    def __init__(self, name: str, notes: Notes, session: Session, *, observing: bool) -> None:
        self._name = name
        self._observing = observing
        self._notes = notes
        self._session = session
        self._source = random.Random(f"{name} {notes.lives}")
        self._stopping = False
        self._submitted = 0
        self._followed: set[str] = set()

    async def run(self) -> None:
        """Work until standard input ends, and then until all that was begun is over."""
        self._notes.write("session", id=self._session.id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._await_stop)
            tasks.start_soon(self._take_up_stored)
            for _ in range(WORKERS):
                tasks.start_soon(self._work)
            if self._observing:
                tasks.start_soon(self._observe)

    async def _await_stop(self) -> None:
        await anyio.wait_readable(sys.stdin)
        self._stopping = True

    async def _take_up_stored(self) -> None:
        """Follow the jobs of the stored session, also those that it learns of only by their events."""
        looks = 0
        async with anyio.create_task_group() as tasks:
            while looks < LOOKS or not self._stopping:
                looks += 1
                for job_id in self._session.stored_jobs:
                    tasks.start_soon(self._follow, await self._session.attach(job_id))
                await anyio.sleep(LOOK_FOR_STORED)

    async def _work(self) -> None:
        while not self._stopping:
            self._submitted += 1
            tag = f"{self._name}-{self._notes.lives}-{self._submitted}"
            events = self._source.randrange(2, 120)
            pause = self._source.choice((0, 0.003, 0.02))
            key = tag if self._source.random() < 0.3 else None
            work = {"tag": tag, "events": events, "pause": pause}
            self._notes.write("submit", tag=tag)
            job = await self._session.submit(self._source.choice(AGENTS), work, idempotency_key=key)
            self._notes.write("accepted", job=job.id, tag=tag)
            await self._follow(job)
            await anyio.sleep(self._source.random() * REST)

    async def _observe(self) -> None:
        """Follow jobs of others with their history, the newest first, one at a time."""
        while not self._stopping:
            with suppress(InvalidRequest):  # A cursor is over with the runtime that gave it.
                async for entry in self._session.list_jobs(page_size=20):
                    if entry.job_id not in self._followed:
                        await self._follow(await self._session.subscribe(entry.job_id, history=True))
                        break
                else:
                    await anyio.sleep(LOOK_FOR_STORED)

    async def _follow(self, job: Job) -> None:
        if job.id in self._followed:  # The observer was there before the answer to the submit was.
            with suppress(RuntimeError):
                async for _ in job:
                    pass
            return
        self._followed.add(job.id)
        done = self._notes.done.get(job.id, 0)
        async for event in job:
            if event.job_seq is not None and event.job_seq <= done:
                self._notes.write("repeat", job=job.id, seq=event.seq, position=event.job_seq)
            else:
                self._notes.write(
                    "event",
                    job=job.id,
                    seq=event.seq,
                    position=event.job_seq,
                    kind=event.kind,
                    body=event.body,
                    cursor=self._session.cursor,
                )
        # The end is processed when the loop is over: a client may be killed between that and its note.
        self._notes.write("over", job=job.id, status=job.final_status)
        result: Any = None
        code = message = ""
        try:
            result = await job.result()
        except ConnectionLost:
            raise
        except ArcpError as error:
            code, message = str(error.code), error.message
        end = {"status": job.final_status, "code": code, "message": message, "result": result}
        self._notes.write("end", job=job.id, position=job.last_seq, **end)


def read_notes(path: Path) -> list[dict[str, Any]]:
    """Return all that was written so far."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def _main(name: str, url: str, notes: str, token: str, store: str | None) -> None:
    written = Notes(Path(notes))
    kept = None if store is None else FileStore(store)
    try:
        async with connect(url, token, store=kept, wait=True, name=name) as session:
            await Client(name, written, session, observing=store is None).run()
    except BaseException as error:
        written.write("failed", error=f"{type(error).__name__}: {error}", causes=_causes(error))
        raise
    written.write("left")


def _causes(error: BaseException) -> list[str]:
    causes = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    causes += [error.__cause__] if error.__cause__ is not None else []
    return [f"{type(cause).__name__}: {cause}" for cause in causes]


def main() -> None:
    name, url, notes, loop, token, *store = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        run(loop, partial(_main, name, url, notes, token, store[0] if store else None))


if __name__ == "__main__":
    main()
