"""Runs of numbered envelopes: they equal the envelopes that are written one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.ids import JobId, SessionId, event_id_prefix
from arcp_proto.secret import Secret
from arcp_proto.server.credentials.model import Rotated
from arcp_proto.wire import codec
from arcp_proto.wire.credential import Credential
from arcp_proto.wire.envelopes import AT_ONCE, FEW, Entry, Envelopes

SESSION = SessionId("sess_1")
PREFIX = event_id_prefix(SESSION).encode()
EXTENSIONS = b'{"x%b":{"event_seq":0,"percent":"%d%%"}}'
HEADS = (
    codec.event_head("job.event", JobId("job_1"), "a" * 32, EXTENSIONS),
    codec.event_head("job.event", JobId("job_2"), "a" * 32),
    codec.event_head("job.result", JobId("job_%b%d"), None),
)
PLACES = st.one_of(
    st.integers(0, 3), st.integers(970, 1_030), st.integers(10**6 - 30, 10**6), st.just(2**63 - 100)
)


def one_by_one(entries: list[Entry], after: int, size: int, positions: bool = False) -> list[bytes]:
    """Return the same envelopes as `envelopes_of`, by a simple loop."""
    made: list[bytes] = []
    for number, entry in enumerate(entries, after + 1):
        payload = entry.payload if entry.rotated is None else entry.rotated.complete(entry.payload)
        tail = f',"job_seq":{entry.position}}}}}' if positions and entry.position else "}}"
        made.append(codec.event_envelope(entry.head, PREFIX, b"sess_1", number, payload, tail.encode()))
        size -= len(made[-1])
        if size <= 0:
            break
    return made


def envelopes_of(entries: list[Entry], after: int, size: int, positions: bool = False) -> list[bytes]:
    return Envelopes(SESSION, positions=positions).of(entries, after, size)


def entry_of(kind: int, payload: bytes, position: int = 0) -> Entry:
    return Entry(HEADS[kind], payload, position)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=40)), min_size=1, max_size=20),
    st.integers(1, 20),
    st.one_of(st.integers(0, 3_000), st.integers(10**10 - 20, 10**10 + 20)),
    st.integers(1, 20_000),
)
def test_envelopes_of_a_run_equal_single_ones(
    runs: list[tuple[int, bytes]], repeated: int, after: int, size: int
) -> None:
    entries = [entry_of(kind, payload) for kind, payload in runs for _ in range(repeated)]
    assert envelopes_of(entries, after, size) == one_by_one(entries, after, size)


@given(
    st.lists(
        st.tuples(st.integers(0, 1), PLACES, st.integers(0, 2), st.integers(1, 80)), min_size=1, max_size=5
    ),
    st.integers(0, 3_000),
    st.booleans(),
)
def test_envelopes_hold_positions_in_any_order(
    runs: list[tuple[int, int, int, int]], after: int, positions: bool
) -> None:
    """Take runs of positions that begin anywhere and rise by a step: 1 as in a job, else repeats or gaps."""
    entries = [
        Entry(HEADS[kind], b"{", begin + step * number)
        for kind, begin, step, count in runs
        for number in range(count)
    ]
    assert envelopes_of(entries, after, 10**6, positions) == one_by_one(entries, after, 10**6, positions)


@pytest.mark.parametrize("begin", [1, 950, 990, 1_000, 123_450])
def test_envelopes_of_a_run_hold_their_positions(begin: int) -> None:
    entries = [entry_of(0, b'{"a":1', begin + number) for number in range(AT_ONCE)]
    told = [json.loads(envelope)["payload"] for envelope in envelopes_of(entries, 0, 10**6, True)]
    assert told == [{"a": 1, "job_seq": begin + number} for number in range(AT_ONCE)]


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 990, 1_995])
def test_a_run_of_one_job_shares_its_head(kind: int, after: int) -> None:
    entries = [entry_of(kind, b'{"n":%d' % number) for number in range(AT_ONCE + FEW)]
    envelopes = envelopes_of(entries, after, 10**6)
    assert envelopes == one_by_one(entries, after, 10**6)
    assert [codec.decode_envelope(envelope).event_seq for envelope in envelopes] == list(
        range(after + 1, after + 1 + len(entries))
    )


@pytest.mark.parametrize("sizes", [[10] * 40, [10, *[5_000] * 20], [5_000, *[10] * 40]])
@pytest.mark.parametrize("size", [1, 300, 6_000, 12_000, 10**6])
def test_a_run_stops_at_the_limit_of_bytes(sizes: list[int], size: int) -> None:
    entries = [entry_of(0, b"x" * length) for length in sizes]
    assert envelopes_of(entries, 0, size) == one_by_one(entries, 0, size)


@pytest.mark.parametrize("place", [0, 3, 9])
def test_the_value_of_a_rotated_credential_is_added(place: int) -> None:
    rotated = Rotated(Credential("cred_1", "bearer", Secret("new"), "https://e"))
    entries = [entry_of(0, b'{"body":{"id":1}') for _ in range(10)]
    entries[place] = Entry(HEADS[0], b'{"body":{"id":1}', rotated=rotated)
    envelopes = envelopes_of(entries, 0, 10**6)
    assert envelopes == one_by_one(entries, 0, 10**6)
    assert b'"value":"new"' in envelopes[place]
