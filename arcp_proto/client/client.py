"""The client side of ARCP, without I/O: one session at a time, over as many connections as it takes.

`dial`, `connect` and the commands of the user (`submit`, `cancel`, `subscribe`, `unsubscribe`, `list_jobs`,
`mark_processed`, `stopped_iterating`, `close`, `detach`, `dial_failed`) are followed by `take`; the reports
of a transport (`receive`, `lost` and others of the `Connection`) and `handle_timer` take by themselves. All
messages of a runtime come out as events, and never raise. A command raises `LocalProtocolError` before it
changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from arcp_proto.close_codes import CloseCode
from arcp_proto.engine.connection import Connection
from arcp_proto.engine.endpoint import Endpoint
from arcp_proto.engine.machine import cut
from arcp_proto.engine.output import SessionClosed
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import JobId, Monotonic, RequestId, SessionId
from arcp_proto.secret import Secret
from arcp_proto.wire import codec, messages, reading
from arcp_proto.wire.framing import Framing
from arcp_proto.wire.result_chunks import ChunkReader

from . import commands, flow, resuming
from .config import ClientConfig, check_config
from .pending import Outstanding, RequestKind
from .session import ClientSession
from .state import ClientState
from .stored_session import Resumption


class Client(Endpoint[ClientState]):
    """The client side of the protocol, as its host calls it."""

    __slots__ = ()

    def __init__(
        self,
        config: ClientConfig,
        *,
        seed: bytes,
        now: int,
        unix: int,
        resumption: Resumption | None = None,
    ) -> None:
        """Create a client; `seed` is 32 random bytes, `now` monotonic and `unix` wall-clock nanoseconds.

        The first `connect` goes on with the session of a `resumption`; requests made before it wait.
        Raises LocalProtocolError for a wrong seed, an unknown feature, a name or version that is too long.
        """
        check_config(config)
        session = None
        if resumption is not None:
            session = ClientSession.of_resumption(resumption, config.limits, Monotonic(now))
        super().__init__(ClientState(config, seed=seed, now=now, unix=unix, session=session))

    # Queries.

    @property
    def session_id(self) -> SessionId | None:
        """The id of the session, attached or not."""
        return None if self._state.session is None else self._state.session.id

    @property
    def features(self) -> frozenset[str]:
        """The features that were negotiated for the session (§6.2)."""
        return self._state.features

    @property
    def agents(self) -> list[messages.AgentEntry]:
        """The runtime's agents, as the last welcome listed them (§7.5)."""
        return [] if self._state.session is None else self._state.session.agents

    @property
    def cursor(self) -> int:
        """The highest number of the session up to which all events are processed (§6.5)."""
        return 0 if self._state.session is None else self._state.session.cursor

    def resumption(self) -> Resumption | None:
        """Return what another process needs to continue the session; None without a session to continue.

        It changes by `Welcomed`, by the answers to submit and subscribe, by the ends of jobs and by
        `mark_processed`.
        """
        return None if self._state.session is None else self._state.session.resumption()

    # Commands of the user.

    def connect(
        self,
        token: Secret | None,
        framing: Framing = Framing.MESSAGES,
        *,
        secure: bool = False,
        peer: str = "",
        now: int,
    ) -> Connection:
        """Say hello on an open transport to a runtime, with a bearer token, or anonymously without one.

        `Welcomed` follows, or `ConnectionEnded`; a session that was detached is resumed. Raises
        LocalProtocolError while one is in use.
        """
        state = self._state
        if state.connection is not None:
            raise LocalProtocolError("a connection is already in use")
        peer_entry = messages.Peer(state.config.name, state.config.version)
        resume = resuming.resume_of(state, state.session)
        hello = commands.hello(peer_entry, state.config.features, token, resume)
        state.enter(now, "connect", token, framing.value, secure, peer)
        connection = state.add_connection(framing, secure=secure, peer=peer, phase=Phase.AWAITING_WELCOME)
        state.connection, state.left = connection, False
        connection.send(hello)
        state.arm_after(TimerKind.HELLO, connection.number, state.limits.hello_timeout_sec)
        if state.session is not None and state.config.resume:
            resuming.watch(state)
        state.done()
        return state.handles[connection]

    def dial(self, *, now: int) -> None:
        """Ask for transports until a first session is open: a `Dial` follows, and one after each failure.

        A refusal that is not retryable (§12) ends it, and so do `give_up_sec` without success: then no Dial
        follows a failed attempt. A retryable one puts the next attempt off by the `retry_after_ms` of its
        details. Raises LocalProtocolError while a connection is in use.
        """
        state = self._state
        if state.connection is not None:
            raise LocalProtocolError("a connection is already in use")
        state.enter(now, "dial")
        state.opening, state.left, state.failure = True, False, None
        resuming.watch(state)
        state.request(state.reconnecting.dial(state.now, state.draw))
        state.done()

    def dial_failed(self, reason: str = "", *, now: int) -> None:
        """Note that the transport of a `Dial` could not be opened: another Dial follows, unless given up."""
        state = self._state
        state.enter(now, "dial_failed", reason)
        if state.connection is None and not state.left:
            if state.session is not None and state.config.resume:
                resuming.watch(state)
                state.request(state.reconnecting.dial(state.now, state.draw))
            elif state.opening:
                resuming.not_opened(state)
        state.done()

    def submit(
        self,
        agent: str,
        input: Any = None,
        lease_request: Mapping[str, Sequence[str]] | None = None,
        expires_at: str | None = None,
        idempotency_key: str | None = None,
        max_runtime_sec: int | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        *,
        now: int,
    ) -> RequestId:
        """Ask for a job (§7.1); `JobAccepted` or `RequestRefused` answers.

        `expires_at` bounds the lease. Raises LocalProtocolError without a session, for what JSON cannot say
        or a frame cannot hold, when too much is unanswered or unfinished, and for a budget, an expiry, models
        or a version of the agent whose feature the runtime did not negotiate (§6.2) and would not enforce.
        While the session is detached the submit waits; if the runtime that is found then did not negotiate
        such a feature, it is refused as NOT_NEGOTIATED and not sent. One without a key whose answer was lost
        with its connection is refused as CONNECTION_LOST, unless the runtime repeats its answers.
        """
        state = self._state
        session = self._asking(following=1)
        trace_id, extensions = commands.trace(traceparent, tracestate)
        minted = trace_id is None
        terms = (lease_request, expires_at, idempotency_key, max_runtime_sec)
        message = commands.submit(agent, input, *terms)
        commands.check_negotiated(session, message)
        size = commands.check_size(state, session, message, extensions=extensions)
        state.enter(now, "submit", agent, input, *terms, traceparent, tracestate)
        request = Outstanding(
            state.fresh_request_id(),
            RequestKind.SUBMIT,
            message=message,
            trace_id=trace_id or state.entropy.bits("client", "trace").hex(),
            minted=minted,
            key=idempotency_key,
            extensions=extensions,
            size=size,
        )
        return self._ask(request)

    def cancel(self, job_id: JobId, reason: str = "", *, now: int) -> RequestId:
        """Ask for the end of a job (§7.4); `CancelAcknowledged` or `RequestRefused` answers.

        `JobEnded` follows. Raises LocalProtocolError without a session, and when too much is unanswered.
        """
        state = self._state
        session = self._asking()
        message = commands.cancel(job_id, reason)
        size = commands.check_size(state, session, message, job_id)
        state.enter(now, "cancel", job_id, reason)
        return self._ask(self._about(RequestKind.CANCEL, job_id, message, size))

    def subscribe(
        self, job_id: JobId, after: int | None = None, history: bool = False, *, now: int
    ) -> RequestId:
        """Observe a job (§7.6), with `history` also its events above the position `after`.

        For a runtime that tells no positions `after` is a number of the session that submitted the job.
        `Subscribed` or `RequestRefused` answers. Raises LocalProtocolError without a session, when the
        runtime does not offer it, and when too much is unanswered or followed.
        """
        state = self._state
        session = self._asking(following=1)
        message = commands.subscribe(job_id, after, history)
        commands.check_negotiated(session, message)
        size = commands.check_size(state, session, message, job_id)
        state.enter(now, "subscribe", job_id, after, history)
        request = self._about(RequestKind.SUBSCRIBE, job_id, message, size)
        return self._ask(request)

    def unsubscribe(self, job_id: JobId, *, now: int) -> None:
        """Observe a job no longer (§7.6): nothing more comes of it, unless it is one of ours or a child.

        A client that goes on with a stored session knows a child by its announcement, or because the process
        before knew and followed it. Nothing more comes of other children, of which an earlier process has
        processed the announcement.

        Raises LocalProtocolError without a session.
        """
        state = self._state
        session = self._asking()
        message = messages.Unsubscribe(job_id)
        commands.check_size(state, session, message, job_id)
        state.enter(now, "unsubscribe", job_id)
        resuming.unsubscribe(state, session, message)
        state.done()

    def list_jobs(
        self,
        status: Sequence[str] | None = None,
        agent: str | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        *,
        now: int,
    ) -> RequestId:
        """Ask for a page of jobs (§6.6), from the `next_cursor` of another on; times are RFC 3339.

        `JobsListed` or `RequestRefused` answers. Raises LocalProtocolError without a session, when the
        runtime does not offer it, and when too much is unanswered.
        """
        state = self._state
        session = self._asking()
        which = (status, agent, created_after, created_before, limit, cursor)
        message = commands.list_jobs(*which)
        commands.check_negotiated(session, message)
        size = commands.check_size(state, session, message)
        state.enter(now, "list_jobs", *which)
        return self._ask(self._about(RequestKind.LIST, None, message, size))

    def describe(self, job_id: JobId, input: bool = False, *, now: int) -> RequestId:
        """Ask for one look at a job, with its `input` or without; `JobDescribed` or `RequestRefused` answers.

        Raises LocalProtocolError without a session, when the runtime does not offer it, and when too much is
        unanswered.
        """
        state = self._state
        session = self._asking()
        message = reading.Describe(job_id, input)
        commands.check_negotiated(session, message)
        size = commands.check_size(state, session, message, job_id)
        state.enter(now, "describe", job_id, input)
        return self._ask(self._about(RequestKind.DESCRIBE, job_id, message, size))

    def read_events(
        self,
        job_id: JobId,
        after: int = 0,
        most: int | None = None,
        wait_sec: float = 0.0,
        kinds: Sequence[str] | None = None,
        *,
        now: int,
    ) -> RequestId:
        """Ask for the events of a job above a position; `EventsRead` or `RequestRefused` answers.

        The answer has at most `most` events, of these `kinds` and the terminal. If there are none, it comes
        with the next one, or after `wait_sec` seconds, of which a runtime may allow fewer. It changes nothing
        of what the session follows. Raises LocalProtocolError without a session, when the runtime does not
        offer it, when too much is unanswered, and for values out of range.
        """
        state = self._state
        session = self._asking()
        message = reading.read_events(job_id, after, most, wait_sec, kinds)
        commands.check_negotiated(session, message)
        size = commands.check_size(state, session, message, job_id)
        state.enter(now, "read_events", job_id, after, most, wait_sec, message.kinds)
        return self._ask(self._about(RequestKind.READ, job_id, message, size))

    def mark_processed(self, job_id: JobId, receipt: int, *, now: int) -> None:
        """Note that the user has done with the events of a job, up to one of them: acks tell of it (§6.5).

        `receipt` is that of a `JobEvent` or a `JobEnded` of the job. It stands for those of the same job
        that were handed out before, too; a second call, or one after the end of the session, is harmless.
        """
        state = self._state
        state.enter(now, "mark_processed", job_id, receipt)
        if state.session is not None:
            flow.mark_processed(state, state.session, job_id, receipt)
        state.done()

    def stopped_iterating(self, job_id: JobId, receipt: int, *, now: int) -> None:
        """Note that the user takes no more events of a job for now; `receipt` is that of the last one taken.

        The user may have failed with that event. So it counts as processed only after five seconds in which
        the session stays open, and `MarkedProcessed` says so; `mark_processed` still marks it at once.
        """
        state = self._state
        state.enter(now, "stopped_iterating", job_id, receipt)
        if state.session is not None:
            flow.stopped_iterating(state, state.session, job_id, receipt)
        state.done()

    def stream_result(self, job_id: JobId, *, now: int) -> tuple[ChunkReader, str | bytes]:
        """Leave the chunks of a job's result (§8.4) to the user, which reads them from its events.

        From now on the client joins and holds none of them, so that a result of any size takes no memory
        here, and `JobEnded.result` is None unless the result came inline. Returns the reader of the chunks
        that follow and the data of earlier ones, whose events have a `chunk_seq` below `reader.due`.
        """
        state = self._state
        state.enter(now, "stream_result", job_id)
        session = state.session
        released: tuple[ChunkReader, str | bytes] = ChunkReader(), ""
        if session is not None and job_id in session.jobs:
            released = session.assembly.release(job_id)
        state.done()
        return released

    def close(self, reason: str = "", *, now: int) -> None:
        """Say `session.close`; `ConnectionEnded` follows, at the latest after `close_wait_sec`. Jobs go on.

        Without a welcome it follows at once, and of a session that is detached `SessionClosed`; it is resumed
        no more. A second call is harmless. Raises LocalProtocolError without a connection or a session.
        """
        state = self._state
        connection, session = state.connection, state.session
        if connection is None and session is None:
            raise LocalProtocolError("no connection is in use")
        message = messages.Close(cut(reason))
        codec.encode_checked(message)
        state.enter(now, "close", reason)
        if session is not None and session.attached and connection is not None:
            state.say_close(connection, session, message)
        else:
            if session is not None:
                resuming.close(state, session, "the session was closed")
            state.opening = False
            if connection is not None:
                state.close_connection(
                    connection, CloseCode.NORMAL_CLOSURE, "closed before the welcome", flush=False
                )
            if session is not None:
                state.happened(SessionClosed(message.reason))
        state.done()

    def detach(self, *, now: int) -> None:
        """Drop the connection, and make no other: the session is detached, its jobs go on (§6.3).

        `resumption` still returns the data for another process; open requests are not answered.
        """
        state = self._state
        state.enter(now, "detach")
        state.left, state.opening = True, False
        state.timers.disarm(TimerKind.GIVE_UP, 0)
        if state.session is not None:
            flow.forget_stopped(state, state.session)
        if state.connection is not None:
            state.close_connection(state.connection, CloseCode.GOING_AWAY, "the session was left", flush=True)
        state.done()

    # Below: steps of the above.

    def _asking(self, following: int = 0) -> ClientSession:
        """Return the session for a request that makes it follow a number of further jobs.

        Raises LocalProtocolError without a session, and when too much is unanswered or followed.
        """
        state = self._state
        session = state.session
        if session is None or state.left:
            raise LocalProtocolError("no session is open")
        if session.closing:
            raise LocalProtocolError("the session is being closed")
        if len(session.requests) >= state.limits.max_pending_requests:
            raise LocalProtocolError(f"{state.limits.max_pending_requests} requests wait for their answers")
        if following and len(session.jobs) + len(session.requests) >= state.limits.max_total_running_jobs:
            raise LocalProtocolError(f"{state.limits.max_total_running_jobs} jobs are unfinished")
        return session

    def _about(
        self, kind: RequestKind, job_id: JobId | None, message: msgspec.Struct, size: int
    ) -> Outstanding:
        """Return a request of another kind than submit, with an id of its own."""
        state = self._state
        return Outstanding(state.fresh_request_id(), kind, job_id, message, size=size)

    def _ask(self, request: Outstanding) -> RequestId:
        """Send a checked request, and end the command."""
        self._state.ask(request)
        self._state.done()
        return request.id
