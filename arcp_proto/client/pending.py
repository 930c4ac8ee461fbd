"""The requests of a client that are not answered yet, and the search for the one an answer is for (§12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from arcp_proto.errors import ErrorCode
from arcp_proto.ids import JobId, RequestId
from arcp_proto.wire.messages import MessageType, Subscribe

K = TypeVar("K")
V = TypeVar("V")


class RequestKind(StrEnum):
    """The requests that are answered, by their message type."""

    SUBMIT = MessageType.JOB_SUBMIT
    CANCEL = MessageType.JOB_CANCEL
    SUBSCRIBE = MessageType.JOB_SUBSCRIBE
    LIST = MessageType.SESSION_LIST_JOBS
    DESCRIBE = MessageType.JOB_DESCRIBE
    READ = MessageType.JOB_READ


class Outstanding(msgspec.Struct):
    """One request without an answer; `job_id` is None for a submit or a list.

    `message`, with `trace_id` and `extensions`, is kept to send it again; None when it is not. `ours` says
    that the client asked by itself, and does not report the answer.
    """

    id: RequestId
    kind: RequestKind
    job_id: JobId | None = None
    message: msgspec.Struct | None = None
    trace_id: str | None = None
    """The trace id of a submit, 32 lower-case hex digits: some runtimes repeat it in the answer (§11)."""
    minted: bool = False
    """Whether the client drew the trace id, so that no other request has it."""
    key: str | None = None
    """The idempotency key of a submit (§7.2)."""
    extensions: bytes | None = None
    size: int = 0
    """Bytes of its envelope."""
    sent: bool = True
    """Whether it was sent, on a connection that may not have carried it."""
    ours: bool = False
    dropped: bool = False
    """A subscribe that was taken back before its answer."""
    history: bool = False
    """A subscribe that asks for history."""
    resent: bool = False
    """Whether it was sent on an earlier connection, too."""
    unsure: bool = False
    """A submit that was sent again, and may have been carried out and answered before."""
    number: int = 0
    """The place of the request among all of the client, from 1."""

    @property
    def repeatable(self) -> bool:
        """Whether any runtime does the same for it once or twice: for a submit only with a key (§7.2)."""
        return self.kind is not RequestKind.SUBMIT or self.key is not None


ONLY_ANSWERS: Final[Mapping[str, tuple[RequestKind, ...]]] = {
    ErrorCode.AGENT_NOT_AVAILABLE: (RequestKind.SUBMIT,),
    ErrorCode.AGENT_VERSION_NOT_AVAILABLE: (RequestKind.SUBMIT,),
    ErrorCode.DUPLICATE_KEY: (RequestKind.SUBMIT,),
    ErrorCode.JOB_NOT_FOUND: (RequestKind.CANCEL, RequestKind.SUBSCRIBE),
}
"""Codes that can answer these kinds of request only."""

ABOUT_A_JOB: Final = (ErrorCode.JOB_NOT_FOUND, ErrorCode.INVALID_REQUEST, ErrorCode.PERMISSION_DENIED)
"""Codes by which peers refuse, in the name of an accepted job, a request about it."""

OF_A_JOB: Final = (RequestKind.CANCEL, RequestKind.SUBSCRIBE)
"""Requests that are about a job."""

IN_ORDER: Final = (RequestKind.SUBMIT, RequestKind.SUBSCRIBE, RequestKind.LIST)
"""Requests that are answered in the order of their arrival; a cancel may wait until its job has stopped."""


class Requests:
    """Outstanding requests, oldest first. Every `take` removes what it returns; None if nothing fits.

    An answer that names no request is matched by what it carries: the trace id of a submit, the job of a
    cancel or a subscribe. Order decides only between requests that nothing else tells apart. The last
    `window` answers, answered submits and accepted jobs are remembered, so that what comes of them later
    answers nothing.
    """

    __slots__ = (
        "_accepted",
        "_answers",
        "_histories",
        "_open",
        "_traced",
        "_window",
        "asked",
        "echoes",
        "kept",
        "unsure",
    )

    def __init__(self, window: int = 500) -> None:
        self.asked = 0
        """The count of requests so far."""
        self.kept = 0
        """Bytes of the messages that are kept to be sent again."""
        self.unsure = 0
        """Submits that may have been carried out and answered before."""
        self.echoes = False
        """Whether the runtime has repeated a trace id that only one submit has."""
        self._open: dict[RequestId, Outstanding] = {}
        self._histories: dict[JobId, int] = {}
        self._answers: dict[tuple[str, str | None], None] = {}
        self._traced: dict[str, None] = {}
        """Trace ids of the last submits that were answered."""
        self._accepted: dict[JobId, str | None] = {}
        """The last jobs that were accepted, each with the key of its submit."""
        self._window = window

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Outstanding]:
        """Iterate over a copy, so that requests can be taken meanwhile."""
        return iter(list(self._open.values()))

    def add(self, request: Outstanding) -> None:
        """Add a request that was sent, or waits to be."""
        self.asked += 1
        request.number = self.asked
        self._open[request.id] = request
        request.history = isinstance(request.message, Subscribe) and request.message.history
        if request.message is not None:
            self.kept += request.size
        if request.history and request.job_id is not None:
            self._histories[request.job_id] = self._histories.get(request.job_id, 0) + 1

    def wants_history(self, job_id: JobId) -> bool:
        """Return whether a subscribe that asks for the history of a job is not answered."""
        return job_id in self._histories

    def observes(self, job_id: JobId, *, resent: bool = False) -> bool:
        """Return whether a subscribe of a job is not answered; with `resent` only one that was sent again."""
        return any(
            request.kind is RequestKind.SUBSCRIBE
            and request.job_id == job_id
            and not request.dropped
            and (request.resent or not resent)
            for request in self._open.values()
        )

    def doubt(self, request: Outstanding) -> None:
        """Note that a request is sent again, whose answer may have been lost."""
        request.resent = True
        if request.kind is RequestKind.SUBMIT and not request.unsure:
            request.unsure = True
            self.unsure += 1

    def take(self, request_id: str, kind: RequestKind | None = None) -> Outstanding | None:
        """Take the request that an answer names, if it is of the kind that such an answer is for."""
        request = self._open.get(RequestId(request_id))
        if request is None or kind not in (None, request.kind):
            return None
        return self._remove(request)

    def repeated(self, envelope_id: str, job_id: str | None) -> bool:
        """Return whether an answer that names no request has come before; a replayed one has."""
        if not envelope_id:
            return False
        key = (envelope_id, job_id)
        if key in self._answers:
            return True
        _remember(self._answers, key, None, self._window)
        return False

    def take_oldest(self, *kinds: RequestKind, job_id: JobId | None = None) -> Outstanding | None:
        """Take the oldest request of these kinds, or without kinds of any, about a job if one is given."""
        for request in self._open.values():
            if (not kinds or request.kind in kinds) and job_id in (None, request.job_id):
                return self._remove(request)
        return None

    def take_answered(
        self, kind: RequestKind, request_id: str | None, envelope_id: str, job_id: JobId | None = None
    ) -> Outstanding | None:
        """Take the request that an answer is for: the one that it names, or else the oldest of its kind.

        An answer that names no request, and has come before, is for none.
        """
        if request_id:
            return self.take(request_id, kind)
        return None if self.repeated(envelope_id, job_id) else self.take_oldest(kind, job_id=job_id)

    def take_accepted(self, job_id: JobId, trace_ids: Sequence[str]) -> Outstanding | None:
        """Take the submit that an acceptance of a job answers, which names no request.

        A job that was accepted before is accepted again for its key alone. `trace_ids` are those that the
        acceptance carries: the trace id of an open submit names it, that of an answered one belongs to a
        child of its job, which answers nothing. Without either it is for the oldest submit; with another
        trace id, from a runtime that repeats ours, for the oldest submit with a key (§7.2).
        """
        if job_id in self._accepted:
            key = self._accepted[job_id]
            return None if key is None else self._take_keyed(key)
        request = self._take_traced(trace_ids)
        if request is not None or any(trace_id in self._traced for trace_id in trace_ids):
            return request
        return self._take_keyed() if trace_ids and self.echoes else self.take_oldest(RequestKind.SUBMIT)

    def accepted(self, request: Outstanding, job_id: JobId, trace_ids: Sequence[str]) -> None:
        """Remember that a submit was answered by the acceptance of a job."""
        if request.minted and request.trace_id in trace_ids:
            self.echoes = True
        self._accepted.pop(job_id, None)
        _remember(self._accepted, job_id, request.key, self._window)

    def take_refused(
        self, code: str, job_id: JobId | None, trace_ids: Sequence[str] = ()
    ) -> Outstanding | None:
        """Take the request that an error without a request's id refuses.

        An error that names a job is for a request about that job; without one, the peer made the name up
        for a refused submit. An error that names nothing is for the oldest request that is answered in
        order, and for a cancel only if there is no other: peers refuse a cancel by its job or its code, and
        some do not answer a cancel before its job has stopped.
        """
        kinds = ONLY_ANSWERS.get(code)
        if kinds is not None and RequestKind.SUBMIT not in kinds:
            return self.take_oldest(*kinds, job_id=job_id)
        if job_id is not None and kinds is None:
            named = self.take_oldest(*OF_A_JOB, job_id=job_id)
            if named is not None:
                return named
        traced = self._take_traced(trace_ids)
        if traced is not None:
            return traced
        if self._is_of_another(trace_ids):
            return None
        if code == ErrorCode.DUPLICATE_KEY:
            return self._take_keyed()
        if job_id is not None or kinds is not None:
            return self.take_oldest(RequestKind.SUBMIT)
        return self.take_oldest(*IN_ORDER) or self.take_oldest()

    def take_about(self, code: str, job_id: JobId) -> Outstanding | None:
        """Take the request that a `job.error` of a known job answers; None when it is the job's own end."""
        if code == ErrorCode.DUPLICATE_KEY:
            return self._take_keyed(self._accepted.get(job_id))
        return self.take_oldest(*OF_A_JOB, job_id=job_id) if code in ABOUT_A_JOB else None

    def _is_of_another(self, trace_ids: Sequence[str]) -> bool:
        """Return whether trace ids that no open submit has belong to another job."""
        return any(trace_id in self._traced for trace_id in trace_ids) or (len(trace_ids) > 0 and self.echoes)

    def _take_traced(self, trace_ids: Sequence[str]) -> Outstanding | None:
        """Take the oldest submit that has one of these trace ids, the first of them first."""
        for trace_id in trace_ids:
            for request in self._open.values():
                if request.trace_id == trace_id:
                    return self._remove(request)
        return None

    def _take_keyed(self, key: str | None = None) -> Outstanding | None:
        """Take the oldest submit with this key, or with any."""
        for request in self._open.values():
            if request.key is not None and key in (None, request.key):
                return self._remove(request)
        return None

    def _remove(self, request: Outstanding) -> Outstanding:
        del self._open[request.id]
        if request.message is not None:
            self.kept -= request.size
        self.unsure -= request.unsure
        if request.trace_id is not None:
            _remember(self._traced, request.trace_id, None, self._window)
        if request.history and request.job_id is not None:
            count = self._histories.pop(request.job_id) - 1
            if count:
                self._histories[request.job_id] = count
        return request


def _remember(known: dict[K, V], key: K, value: V, most: int) -> None:
    """Add an entry, and drop the oldest one beyond `most`."""
    known[key] = value
    if len(known) > most:
        del known[next(iter(known))]
