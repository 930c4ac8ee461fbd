"""Many numbered envelopes at a time are as each by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto import wire
from arcp_proto.credentials import Credential, Rotated
from arcp_proto.envelopes import AT_ONCE, FEW, Envelopes
from arcp_proto.ids import JobId, SessionId, event_id_prefix
from arcp_proto.log import Entry
from arcp_proto.secret import Secret

SESSION = SessionId("sess_1")
PREFIX = event_id_prefix(SESSION).encode()
EXTENSIONS = b'{"x%b":{"event_seq":0,"percent":"%d%%"}}'
HEADS = (
    wire.event_head("job.event", JobId("job_1"), "a" * 32, EXTENSIONS),
    wire.event_head("job.event", JobId("job_1"), "a" * 32, EXTENSIONS, observed=True),
    wire.event_head("job.result", JobId("job_%b%d"), None),
)


def one_by_one(entries: list[Entry], after: int, size: int) -> list[bytes]:
    """The same, as simply as it can be said."""
    made: list[bytes] = []
    for number, entry in enumerate(entries, after + 1):
        payload = entry.payload if entry.rotated is None else entry.rotated.complete(entry.payload)
        made.append(wire.event_envelope(entry.head, PREFIX, b"sess_1", number, payload, entry.source))
        size -= len(made[-1])
        if size <= 0:
            break
    return made


def envelopes_of(entries: list[Entry], after: int, size: int) -> list[bytes]:
    return Envelopes(SESSION).of(entries, after, size)


def entry_of(kind: int, payload: bytes) -> Entry:
    return Entry.of(HEADS[kind], payload, 7 if kind == 1 else 0)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=40)), min_size=1, max_size=20),
    st.integers(1, 20),
    st.one_of(st.integers(0, 3_000), st.integers(10**10 - 20, 10**10 + 20)),
    st.integers(1, 20_000),
)
def test_they_are_as_each_by_itself(
    runs: list[tuple[int, bytes]], repeated: int, after: int, size: int
) -> None:
    entries = [entry_of(kind, payload) for kind, payload in runs for _ in range(repeated)]
    assert envelopes_of(entries, after, size) == one_by_one(entries, after, size)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 990, 1_995])
def test_a_run_of_one_job(kind: int, after: int) -> None:
    entries = [entry_of(kind, b'{"n":%d' % number) for number in range(AT_ONCE + FEW)]
    envelopes = envelopes_of(entries, after, 10**6)
    assert envelopes == one_by_one(entries, after, 10**6)
    assert [wire.decode_envelope(envelope).event_seq for envelope in envelopes] == list(
        range(after + 1, after + 1 + len(entries))
    )


@pytest.mark.parametrize("sizes", [[10] * 40, [10, *[5_000] * 20], [5_000, *[10] * 40]])
@pytest.mark.parametrize("size", [1, 300, 6_000, 12_000, 10**6])
def test_it_stops_once_there_are_so_many_bytes(sizes: list[int], size: int) -> None:
    entries = [entry_of(0, b"x" * length) for length in sizes]
    assert envelopes_of(entries, 0, size) == one_by_one(entries, 0, size)


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_value_that_is_valid_is_told(place: int) -> None:
    rotated = Rotated(Credential("cred_1", "bearer", Secret("new"), "https://e"))
    entries = [entry_of(0, b'{"body":{"id":1}') for _ in range(10)]
    entries[place] = Entry.of(HEADS[0], b'{"body":{"id":1}', 0, rotated)
    envelopes = envelopes_of(entries, 0, 10**6)
    assert envelopes == one_by_one(entries, 0, 10**6)
    assert b'"value":"new"' in envelopes[place]
