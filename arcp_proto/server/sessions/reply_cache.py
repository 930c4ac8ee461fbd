"""The reply cache: answers to submits and subscribes, kept until they are known to have arrived (§6.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.wire import codec

ANSWERED: Final = 512
"""How many answered submits are remembered by request id; our client leaves at most 500 unanswered."""

_SMALL: Final = 512
"""Bytes of an answer from which on its spare memory is freed."""

NEVER: Final = 2**63
"""The number kept for an answer that was dropped unseen: no event shows that it has arrived."""


class Reply(msgspec.Struct, gc=False):
    """One answer. `after` is the event number behind which it was sent; `payload` holds no secret."""

    after: int
    request_id: str
    message_type: str
    job_id: JobId
    payload: bytes


class Replies:
    """The answers of one session, oldest first, within limits."""

    __slots__ = ("_answered", "_kept", "_size", "newest")

    def __init__(self) -> None:
        self.newest: Reply | None = None
        """The answer that was added last, even if it is kept no longer."""
        self._kept: list[Reply] = []
        self._size = 0
        self._answered: dict[str, tuple[int, JobId]] = {}

    def __iter__(self) -> Iterator[Reply]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of the payloads of the answers that are kept."""
        return self._size

    def add(self, reply: Reply, limits: Limits) -> None:
        """Keep an answer that was sent, and drop the oldest ones above the limits."""
        kept, answered, size = self._kept, self._answered, self._size + len(reply.payload)
        if len(reply.payload) > _SMALL:
            reply.payload = codec.compact(reply.payload)
        self.newest = reply
        kept.append(reply)
        if reply.message_type == "job.accepted":
            answered[reply.request_id] = (reply.after, reply.job_id)
            if len(answered) > ANSWERED:
                del answered[next(iter(answered))]
        while len(kept) > limits.max_session_replies or size > limits.max_session_reply_bytes:
            dropped = kept.pop(0)
            size -= len(dropped.payload)
            if dropped.request_id in answered:
                answered[dropped.request_id] = (NEVER, dropped.job_id)
        self._size = size

    def seen(self, seq: int) -> None:
        """Drop every answer sent before the event `seq`, which the client has."""
        while self._kept and self._kept[0].after < seq:
            self._size -= len(self._kept.pop(0).payload)
        arrived = [request_id for request_id, (after, _) in self._answered.items() if after < seq]
        for request_id in arrived:
            del self._answered[request_id]

    def accepted(self, request_id: str) -> JobId | None:
        """Return the job in the answer to a submit, while that may not have arrived; else None."""
        found = self._answered.get(request_id)
        return None if found is None else found[1]

    def is_kept(self, request_id: str) -> bool:
        """Return whether the answer to a request is kept, so that a resume replays it."""
        return any(reply.request_id == request_id for reply in self._kept)

    # Snapshots.

    def answered(self) -> list[tuple[str, int, JobId]]:
        """Return the request id, number and job of every submit whose answer may not have arrived."""
        return [(request_id, after, job_id) for request_id, (after, job_id) in self._answered.items()]

    def load(self, kept: list[Reply], answered: list[tuple[str, int, JobId]]) -> None:
        """Fill an empty cache from a snapshot."""
        self._kept.extend(kept)
        self._size = sum(len(reply.payload) for reply in kept)
        self._answered = {request_id: (after, job_id) for request_id, after, job_id in answered}
