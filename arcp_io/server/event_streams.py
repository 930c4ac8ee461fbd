"""Jobs as server-sent events over HTTP: `GET /jobs/{job_id}/events`, with a bearer token.

    id: 7
    event: log
    data: {"job_id": "job_01J...", "job_seq": 7, "kind": "log", "ts": "...", "body": {...}}

The id is the position of the event in its job, so a client that comes back says in `Last-Event-ID` what it
has, and gets what follows: none is lost, and none comes twice. The data is a line of `arcp-io events --json`.
The last event of a job has the kind `end`; a client that comes back after it gets 204, by which a browser's
EventSource stops.

A stream reads as any observation does (`Server.observe`): it needs no session, and keeps nothing in the
runtime.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl

import anyio
from websockets.datastructures import Headers

from arcp_io.drivers.ws_admission import Admission
from arcp_io.errors import ConnectionLost, HistoryCut, JobNotFound, PermissionDenied
from arcp_io.event_records import END, end_record, event_record
from arcp_io.observation import Observation
from arcp_proto import JobEvent, Secret

from .auth import TemporarilyUnavailable, Verified, holds_token, verify
from .event_stream import EventStream, block_of
from .hosted import Hosted
from .http_scope import (
    CLEAR,
    NO_HEADERS,
    Receive,
    Scope,
    Send,
    headers_of,
    is_local,
    is_private,
    path_of,
    peer_of,
    query_of,
    respond,
)
from .server import Server

if TYPE_CHECKING:
    from arcp_io.app import App

logger = logging.getLogger("arcp_io")

MOST_STREAMS: Final = 1_000
"""Streams of all principals, and requests whose tokens are verified."""
MOST_OF_PRINCIPAL: Final = 64
"""Streams of one principal."""
MOST_KINDS: Final = 16
"""Kinds of events that a request names."""
MAX_POSITION: Final = 2**63 - 1
CUT: Final = "history_cut"
"""The kind of the record that tells of events that are no longer kept."""
TOLD: Final = (429, 503)
"""Statuses that stand in the log of the operator; refusals of a Host and an Origin stand there too."""
AGAIN: Final[Mapping[str, str]] = {"Retry-After": "1"}
_ROUTE: Final = re.compile(r"/jobs/([!-.0-~]{1,200})/events")
_INVALID: Final[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
_PREFLIGHT: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Methods": "GET",
    "Access-Control-Allow-Headers": "Authorization, Last-Event-ID, Cache-Control",
    "Access-Control-Max-Age": "600",
}


def streamed_job(path: str) -> str | None:
    """Return the id of the job whose events a path names; None for any other path."""
    found = _ROUTE.fullmatch(path)
    return None if found is None else found[1]


class _Answer(Exception):
    """The answer to a request that gets no stream."""

    def __init__(
        self, status: int, text: str = "", headers: Mapping[str, str] = NO_HEADERS, *, foreign: bool = False
    ) -> None:
        """Take a status, a reason and headers; a `foreign` web page may not read them."""
        super().__init__(text)
        self.status = status
        self.text = f"{text}\n" if text else ""
        self.headers = headers
        self.foreign = foreign


class _Wanted(NamedTuple):
    """The events that a request asks for: those above a position, of some kinds."""

    position: int
    kinds: list[str] | None


class EventStreams:
    """The streams of an ASGI application: which requests get one, and how many there are."""

    def __init__(
        self,
        app: App,
        hosted: Hosted,
        admission: Admission,
        refused: Callable[[int, str], object],
        *,
        allow_plain: bool,
    ) -> None:
        """Answer for the jobs of an App that is hosted, under the rules for admission of its WebSockets.

        `refused` is called with the status and the reason of a refusal that the operator can do something
        about.
        """
        self._app = app
        self._hosted = hosted
        self._admission = admission
        self._refused = refused
        self._allow_plain = allow_plain
        self._open = 0
        self._of_principal: dict[str, int] = {}

    async def answer(self, job_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for the events of a job, with a stream or with a refusal."""
        headers = headers_of(scope)
        shared = _shared_with(headers)
        try:
            self._admit(scope, headers)
            wanted = _wanted(scope, headers)
            with self._place():
                server = await self._server()
                verified = await self._authenticate(server, headers, peer_of(scope))
                with self._place_of(verified.principal):
                    _check_job(server, job_id, wanted.position, verified.principal)
                    observation = server.observe(
                        job_id, wanted.position, kinds=wanted.kinds, principal=verified.principal
                    )
                    stream = EventStream(receive, send, expires_ns=verified.expires_ns)
                    with server.tokens.on_revoked(partial(self._end_if_revoked, stream, verified.token_id)):
                        await stream.run(partial(write_events, observation), shared)
        except _Answer as answer:
            if answer.status in TOLD or answer.text.startswith(CLEAR):
                self._refused(answer.status, f"the events of a job: {answer.text.strip()}")
            fields = answer.headers if answer.foreign else {**shared, **answer.headers}
            with suppress(OSError):  # The client may be gone.
                await respond(send, answer.status, answer.text, fields)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Check where a request comes from, and its method, before anything else is looked at."""
        if self._admission.refuses(headers, path_of(scope)):
            raise _Answer(403, "the Host or the Origin of the request is not allowed", foreign=True)
        if scope["method"] == "OPTIONS" and "Origin" in headers:
            raise _Answer(204, headers=_PREFLIGHT)
        if scope["method"] != "GET":
            raise _Answer(405, "the method is GET", {"Allow": "GET"})
        if not (self._allow_plain or is_private(scope) or is_local(scope)):
            raise _Answer(403, CLEAR)

    async def _server(self) -> Server:
        try:
            server = await self._hosted.use()
        except Exception:
            raise _Answer(503, self._hosted.trouble, AGAIN) from None
        if (refusal := server.refusal()) is not None:
            raise _Answer(503, refusal[1], AGAIN)
        return server

    async def _authenticate(self, server: Server, headers: Headers, peer: str) -> Verified:
        """Return the principal of the bearer token of a request (§6.1)."""
        scheme, _, token = (headers.get_all("Authorization") or [""])[-1].partition(" ")
        verifier = self._app.verifier
        if verifier is None or scheme.lower() != "bearer" or not token.strip():
            server.tokens.refused(peer, "the scheme")
            raise _Answer(401, "a bearer token is required", {"WWW-Authenticate": "Bearer"})
        if server.tokens.throttles(peer):
            wait = {"Retry-After": str(-(-60 // self._app.limits.max_failed_authentications))}
            raise _Answer(429, "too many authentications have failed from where you are", wait)
        verified, failure = None, "no answer"
        with anyio.move_on_after(self._app.limits.authentication_timeout_sec):
            try:
                verified = await verify(verifier, Secret(token.strip()))
                failure = ""
            except TemporarilyUnavailable as error:
                failure = "the verifier"
                logger.info("a token could not be verified: %s", error)
            except Exception:
                failure = "the verifier"
                logger.exception("the verifier failed (App.verifier)")
        if failure:
            server.tokens.refused(peer, failure)
            raise _Answer(503, "the token could not be verified: try again", AGAIN)
        if verified is not None and time.time_ns() < (verified.expires_ns or inf):
            return verified
        server.tokens.refused(peer, "the token" if verified is None else "expired")
        raise _Answer(401, "the token is not valid", _INVALID)

    def _end_if_revoked(self, stream: EventStream, token_id: str) -> None:
        """End a stream whose bearer token the verifier does not hold any longer."""
        try:
            held = holds_token(self._app.verifier, token_id)
        except Exception:
            logger.exception("the verifier failed (App.verifier)")
        else:
            if not held:
                stream.end()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a request, as long as it lasts."""
        if self._open >= MOST_STREAMS:
            raise _Answer(503, "there are too many streams", AGAIN)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    @contextmanager
    def _place_of(self, principal: str) -> Iterator[None]:
        """Count a stream of a principal, as long as it lasts."""
        count = self._of_principal.get(principal, 0)
        if count >= MOST_OF_PRINCIPAL:
            raise _Answer(429, f"a principal has at most {MOST_OF_PRINCIPAL} streams", AGAIN)
        self._of_principal[principal] = count + 1
        try:
            yield
        finally:
            self._of_principal[principal] -= 1
            if not self._of_principal[principal]:
                del self._of_principal[principal]


async def write_events(observation: Observation, stream: EventStream) -> None:
    """Write the events of a job to a stream, and its end.

    It returns early when the job may be read no longer, or the runtime ends.
    """
    begun = False
    try:
        while True:
            try:
                async for event in observation:
                    if not begun:
                        begun = True
                        await _tell_start(observation, stream)
                    await stream.say(_event_block(event))
            except HistoryCut as cut:
                begun = True
                await _tell_cut(observation.job_id, cut.details["history_from"], stream)
            else:
                break
    except (JobNotFound, PermissionDenied, ConnectionLost):
        return
    if observation.end is not None:
        end = observation.end
        if not begun:
            await _tell_start(observation, stream)
        await stream.say(block_of(end_record(end), event=END, number=str(end.job_seq)))


async def _tell_start(observation: Observation, stream: EventStream) -> None:
    """Tell that the beginning of what was asked for is no longer kept, if that is so."""
    if observation.history_from is not None:
        await _tell_cut(observation.job_id, observation.history_from, stream)


async def _tell_cut(job_id: str, history_from: int, stream: EventStream) -> None:
    """Tell that events before a position are no longer kept; a client that comes back now goes on there."""
    position = history_from - 1
    record = {"job_id": job_id, "job_seq": position, "kind": CUT, "body": {"history_from": history_from}}
    await stream.say(block_of(record, event=CUT, number=str(position)))


def _event_block(event: JobEvent) -> bytes:
    return block_of(event_record(event), event=event.kind, number=str(event.job_seq))


def _check_job(server: Server, job_id: str, position: int, principal: str) -> None:
    """Check that a principal may observe a job above a position."""
    try:
        described = server.describe(job_id, principal=principal)
    except PermissionDenied as error:
        raise _Answer(403, error.message) from None
    if described is None:
        raise _Answer(404, "no such job")
    if position > described.job_seq:
        raise _Answer(400, f"position {position} is above the last event, {described.job_seq}")
    if described.end is not None and position == described.job_seq:
        raise _Answer(204)


def _wanted(scope: Scope, headers: Headers) -> _Wanted:
    """Return the events that a request asks for.

    Its query may hold `from` and `kind`, and nothing else: a token in a URL would be kept by logs.
    """
    position, kinds = 0, []
    for name, value in parse_qsl(query_of(scope), keep_blank_values=True):
        if name == "from":
            position = _position(value, "from")
        elif name == "kind" and value:
            kinds.append(value)
        else:
            raise _Answer(400, "the query may hold from and kind; the token is in the header Authorization")
    last = headers.get_all("Last-Event-ID")
    if last and last[-1]:
        position = _position(last[-1], "Last-Event-ID")
    if len(kinds) > MOST_KINDS:
        raise _Answer(400, f"a request names at most {MOST_KINDS} kinds")
    return _Wanted(position, kinds or None)


def _position(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= MAX_POSITION):
        raise _Answer(400, f"{name} is the position of an event")
    return int(text)


def _shared_with(headers: Headers) -> dict[str, str]:
    """Return the headers that let a page of the admitted origin of a request read the answer."""
    origins = headers.get_all("Origin")
    if len(origins) != 1:
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": origins[0],
        "Access-Control-Expose-Headers": "Retry-After",
    }
