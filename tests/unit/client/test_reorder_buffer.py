"""Events of a job that arrive before the answer by which the client follows it."""

from __future__ import annotations

import msgspec

from arcp_proto.client.sequencer import Early
from arcp_proto.ids import JobId
from arcp_proto.wire.codec import Envelope

A, B = JobId("job_a"), JobId("job_b")


def event(seq: int) -> Envelope:
    return Envelope(type="job.event", event_seq=seq)


def test_the_buffer_keeps_the_messages_of_each_job_in_order() -> None:
    early = Early(10, 1000)
    assert early.count == 0
    assert all(early.hold(job, event(seq)) for seq, job in enumerate([A, B, A]))
    assert early.count == 3 and A in early and B in early
    assert [held.event_seq for held in early.take(A)] == [0, 2]
    assert A not in early
    assert early.take(A) == []
    assert list(early) == [B]
    assert [held.event_seq for held in early.take(B)] == [1]
    assert early.count == 0


def test_the_buffer_holds_no_more_messages_than_its_limit() -> None:
    early = Early(2, 1000)
    assert [early.hold(A, event(seq)) for seq in range(3)] == [True, True, False]
    early.take(A)
    assert early.hold(B, event(4))


def test_the_buffer_holds_no_more_bytes_than_its_limit() -> None:
    early = Early(10, 25)
    big = Envelope(type="job.event", event_seq=1, payload=msgspec.Raw(b"0123456789"))
    assert [early.hold(A, big) for _ in range(3)] == [True, True, False]
    early.take(A)
    assert early.hold(B, big)
