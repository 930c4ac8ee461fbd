"""What the client has asked and was not answered yet, and which of it an answer is for (§12)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from .errors import ErrorCode
from .ids import JobId, RequestId


class RequestKind(StrEnum):
    """The requests that are answered, by their message type."""

    SUBMIT = "job.submit"
    CANCEL = "job.cancel"


class Outstanding(NamedTuple):
    """One request without an answer; `job_id` is what it is about, None for a submit."""

    id: RequestId
    kind: RequestKind
    job_id: JobId | None = None


ONLY_ANSWERS: Final[Mapping[str, RequestKind]] = {
    ErrorCode.AGENT_NOT_AVAILABLE: RequestKind.SUBMIT,
    ErrorCode.AGENT_VERSION_NOT_AVAILABLE: RequestKind.SUBMIT,
    ErrorCode.DUPLICATE_KEY: RequestKind.SUBMIT,
    ErrorCode.JOB_NOT_FOUND: RequestKind.CANCEL,
}
"""Codes that can answer one kind of request only."""

ABOUT_A_JOB: Final = (ErrorCode.JOB_NOT_FOUND, ErrorCode.INVALID_REQUEST, ErrorCode.PERMISSION_DENIED)
"""Codes by which peers refuse, in the name of an accepted job, a request about it."""


class Requests:
    """Outstanding requests, oldest first. Every `take` removes what it returns; None if nothing fits."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[RequestId, Outstanding] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, request: Outstanding) -> None:
        """A request was sent."""
        self._open[request.id] = request

    def take(self, request_id: str, kind: RequestKind | None = None) -> Outstanding | None:
        """The request that an answer names, if it is of the kind that such an answer is for."""
        request = self._open.get(RequestId(request_id))
        if request is None or kind not in (None, request.kind):
            return None
        return self._remove(request)

    def take_submit(self) -> Outstanding | None:
        """The oldest submit."""
        return self._take_oldest(RequestKind.SUBMIT)

    def take_cancel(self, job_id: JobId) -> Outstanding | None:
        """The oldest cancel of a job."""
        return self._take_oldest(RequestKind.CANCEL, job_id)

    def take_refused(self, code: str, job_id: JobId | None) -> Outstanding | None:
        """The oldest request that an error without a request's id can answer.

        An error that names a job is for a request about that job; if there is none, the name is one that
        the peer made up for a refused submit. One that names nothing is for a submit before a cancel: peers
        refuse a cancel by its job or its code, and some answer none before its job has stopped.
        """
        kind = ONLY_ANSWERS.get(code)
        if job_id is None:
            submit = self.take_submit() if kind is None else None
            return self._take_oldest(kind) if submit is None else submit
        named = None if kind is RequestKind.SUBMIT else self.take_cancel(job_id)
        if named is not None or kind is RequestKind.CANCEL:
            return named
        return self.take_submit()

    def take_about(self, code: str, job_id: JobId) -> Outstanding | None:
        """The request that a `job.error` of a running job answers; None when it is the job's own end."""
        if code == ErrorCode.DUPLICATE_KEY:
            return self.take_submit()
        return self.take_cancel(job_id) if code in ABOUT_A_JOB else None

    def _take_oldest(self, kind: RequestKind | None, job_id: JobId | None = None) -> Outstanding | None:
        for request in self._open.values():
            if kind in (None, request.kind) and job_id in (None, request.job_id):
                return self._remove(request)
        return None

    def _remove(self, request: Outstanding) -> Outstanding:
        del self._open[request.id]
        return request
