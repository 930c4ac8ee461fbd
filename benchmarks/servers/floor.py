"""The floor: the cost of codec, framing and writing in Python, without any check or other work.

The floor has no limits, no leases, no errors and no states of jobs: it must never serve a real client. It
shows how fast a runtime on asyncio could be, and how far the real one is from that.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec

from ..agents import Host, agents_of
from .floor_connection import Connection, Input, Store
from .options import Options, from_command_line

HELD: Final = 64 * 1024
"""The bytes of a session that may wait before the agent has to wait."""
PREFIX: Final = b"01JF" + base64.b32encode(os.urandom(8))[:12].translate(bytes.maketrans(b"ILOU", b"0189"))
"""The beginning of every id; a number follows."""

_encode = msgspec.json.Encoder().encode
_number = itertools.count(1)


class Inbound(msgspec.Struct):
    """The fields that the floor reads of a message."""

    type: str
    id: str
    payload: msgspec.Raw


class Log(msgspec.Struct, gc=False):
    """The body of a log event."""

    level: str
    message: str


class Chunk(msgspec.Struct, gc=False):
    """The body of a chunk of a result."""

    result_id: str
    chunk_seq: int
    data: str | bytes
    encoding: str
    more: bool


_read = msgspec.json.Decoder(Inbound).decode
_parse = msgspec.json.Decoder().decode


class Clock:
    """A clock that formats the time for the wire, once a millisecond."""

    def __init__(self) -> None:
        self._millisecond = self._second = 0
        self._prefix = self._text = b""

    def __call__(self) -> bytes:
        now = time.time_ns() // 1_000_000
        if now != self._millisecond:
            self._millisecond = now
            second, millisecond = divmod(now, 1000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
            self._text = b"%b%03dZ" % (self._prefix, millisecond)
        return self._text


_clock = Clock()


class Session:
    """A session: the log of its numbered messages, and the messages that wait to be written."""

    def __init__(self, connection: Connection) -> None:
        self.id = b"sess_%b%010d" % (PREFIX, next(_number))
        self.connection: Connection | None = connection
        self.log: list[bytes] = []
        self.pending: list[bytes] = []
        self.size = 0

    def say(self, kind: bytes, payload: bytes, job: bytes = b"", *, logged: bool = False) -> None:
        """Queue an answer, or the result of a job."""
        head = b'{"arcp":"1.1","id":"%b%010d","type":"%b","session_id":"%b",' % (
            PREFIX,
            next(_number),
            kind,
            self.id,
        )
        job = b'"job_id":"%b",' % job if job else b""
        seq = b'"event_seq":%d,' % (len(self.log) + 1) if logged else b""
        message = b'%b%b%b"payload":%b}' % (head, job, seq, payload)
        if logged:
            self.log.append(message)
        if self.connection is not None:
            self.pending.append(message)
            self.connection.flush_next()


class Job:
    """A job as its agent sees it."""

    def __init__(self, owner: Session, agent: str) -> None:
        self.id = b"job_%b%010d" % (PREFIX, next(_number))
        self.agent = agent
        self.created = _clock()
        self.ended = False
        self.result: bytes | None = None
        self._heads: list[tuple[Session, bytes]] = []
        self.observe(owner)

    def observe(self, session: Session) -> None:
        """Add an observer; its head is the part of its envelopes that is the same for every event."""
        head = (
            b'{"arcp":"1.1","id":"%b%%010d","type":"job.event","session_id":"%b","job_id":"%b",'
            b'"event_seq":%%d,"payload":%%b}'
        )
        self._heads.append((session, head % (PREFIX, session.id, self.id)))

    async def log(self, level: str, message: str) -> None:
        """Publish a log event."""
        if full := self.emit(b"log", _encode(Log(level, message))):
            await full.relieved()

    def emit(self, kind: bytes, body: bytes) -> Connection | None:
        """Publish an event to all observers; return a connection that holds too many bytes, or None."""
        payload = b'{"kind":"%b","ts":"%b","body":%b}' % (kind, _clock(), body)
        full = None
        for session, head in self._heads:
            log = session.log
            seq = len(log) + 1
            message = head % (seq, seq, payload)
            log.append(message)
            if (connection := session.connection) is not None:
                if not session.pending:
                    connection.flush_soon()
                session.pending.append(message)
                session.size += len(message)
                if session.size > HELD:
                    full = connection
        return full

    def end(self, payload: bytes) -> None:
        """End the job with a result, and send it to all observers."""
        self.ended = True
        for session, _ in self._heads:
            session.say(b"job.result", payload, self.id, logged=True)


class Stream:
    """A result in chunks."""

    def __init__(self, job: Job, encoding: str) -> None:
        self._job, self._encoding = job, encoding
        self._id = (b"res_%b%010d" % (PREFIX, next(_number))).decode()
        self._count = self._size = 0

    async def write(self, data: str | bytes) -> None:
        self._size += len(data)
        if full := self._write(data, self._encoding, True):
            await full.relieved()

    def close(self) -> None:
        self._write("", "utf8", False)
        text = b'{"final_status":"success","result_id":"%b","result_size":%d,"completed_at":"%b"}'
        self._job.result = text % (self._id.encode(), self._size, _clock())

    def _write(self, data: str | bytes, encoding: str, more: bool) -> Connection | None:
        chunk = Chunk(self._id, self._count, data, encoding, more)
        self._count += 1
        return self._job.emit(b"result_chunk", _encode(chunk))


class Floor:
    """The runtime of the floor: all sessions and jobs."""

    def __init__(self) -> None:
        host = Host(partial(asyncio.sleep, 0), asyncio.Event, _stream, _authorize)
        self.agents = agents_of(host)
        self.jobs: list[Job] = []
        self.sessions: dict[str, Session] = {}
        self.keys: dict[str, Job] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def open(self, connection: Connection) -> Session:
        """Open a session for a new connection."""
        return Session(connection)

    def receive(self, connection: Connection, message: bytes) -> None:
        """Handle one message of a client."""
        inbound = _read(message)
        payload = _parse(inbound.payload)
        match inbound.type:
            case "job.submit":
                self._submit(connection.session, inbound.id, payload)
            case "session.list_jobs":
                self._list(connection.session, inbound.id, payload)
            case "job.subscribe":
                self._subscribe(connection.session, inbound.id, payload)
            case "session.hello":
                self._hello(connection, payload)

    def _hello(self, connection: Connection, hello: Any) -> None:
        resume = hello.get("resume")
        if resume is not None:
            connection.session = self.sessions[resume["session_id"]]
            connection.session.connection = connection
        session = connection.session
        self.sessions[session.id.decode()] = session
        welcome = {
            "runtime": {"name": "floor", "version": "1"},
            "session_id": session.id.decode(),
            "resume_token": "floor",
            "resume_window_sec": 600,
            "accepted_at": _clock().decode(),
            "capabilities": {
                "encodings": ["json"],
                "features": hello["capabilities"]["features"],
                "agents": [{"name": name, "versions": []} for name in self.agents],
            },
        }
        session.say(b"session.welcome", _encode(welcome))
        if resume is not None:
            session.pending += session.log[resume["last_event_seq"] :]

    def _submit(self, session: Session, request: str, submit: Any) -> None:
        name = submit["agent"]
        job = Job(session, name)
        if "idempotency_key" in submit:
            job = self.keys.setdefault(submit["idempotency_key"], job)
        self.jobs.append(job)
        accepted = (
            b'{"job_id":"%b","agent":"%b","lease":{},"accepted_at":"%b","trace_id":"%032x","request_id":"%b"}'
        )
        session.say(
            b"job.accepted", accepted % (job.id, name.encode(), _clock(), 1, request.encode()), job.id
        )
        task = asyncio.get_running_loop().create_task(self._run(job, submit["input"]))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, job: Job, input: Any) -> None:
        value = await self.agents[job.agent](job, input)
        text = b'{"final_status":"success","result":%b,"completed_at":"%b"}'
        job.end(job.result or text % (_encode(value), _clock()))

    def _subscribe(self, session: Session, request: str, subscribe: Any) -> None:
        job = next(job for job in reversed(self.jobs) if job.id == subscribe["job_id"].encode())
        job.observe(session)
        answer = (
            b'{"job_id":"%b","current_status":"running","agent":"%b","lease":{},"trace_id":"%032x",'
            b'"subscribed_from":%d,"replayed":false,"request_id":"%b"}'
        )
        values = (job.id, job.agent.encode(), 1, len(session.log), request.encode())
        session.say(b"job.subscribed", answer % values, job.id)

    def _list(self, session: Session, request: str, query: Any) -> None:
        start, limit = int(query.get("cursor") or 0), query["limit"]
        page: list[dict[str, object]] = [
            {
                "job_id": job.id.decode(),
                "agent": job.agent,
                "status": "success" if job.ended else "running",
                "lease": {},
                "parent_job_id": None,
                "created_at": job.created.decode(),
                "trace_id": "1" * 32,
                "last_event_seq": 1,
            }
            for job in self.jobs[start : start + limit]
        ]
        cursor = str(start + limit) if start + limit < len(self.jobs) else None
        jobs = {"request_id": request, "jobs": page, "next_cursor": cursor}
        session.say(b"session.jobs", _encode(jobs))


@asynccontextmanager
async def _stream(job: Job, encoding: str) -> AsyncIterator[Stream]:
    stream = Stream(job, encoding)
    yield stream
    stream.close()


async def _authorize(job: Job, capability: str, target: str) -> None:
    """Allow every operation."""


def _open_store(options: Options) -> Store | None:
    """Return a function that inserts messages into a table, with one transaction for each write."""
    if options.journal is None:
        return None
    database = sqlite3.connect(options.journal)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={'FULL' if options.sync == 'full' else 'NORMAL'}")
    database.execute("CREATE TABLE log (data BLOB)")

    def store(messages: Sequence[bytes]) -> None:
        database.executemany("INSERT INTO log VALUES (?)", [(message,) for message in messages])
        database.commit()

    return store


async def _serve(options: Options) -> None:
    floor, loop, store = Floor(), asyncio.get_running_loop(), _open_store(options)
    if options.stdio:
        connection = Connection(floor, lines=True, store=store)
        await loop.connect_read_pipe(lambda: Input(connection), sys.stdin)
        await loop.connect_write_pipe(lambda: connection, sys.stdout)
        await asyncio.Event().wait()
    server = await loop.create_server(lambda: Connection(floor, store=store), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(from_command_line()))
