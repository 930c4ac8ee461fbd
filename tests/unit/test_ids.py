"""Ids: the digits of a ULID, and prefixes that never collide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcp_proto import ids
from arcp_proto.ids import SessionId

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BITS = st.binary(min_size=16, max_size=16)


def test_digits_of_known_bits() -> None:
    assert ids.crockford(bytes(16), 25) == "0" * 25
    assert ids.crockford(b"\xff" * 16, 25) == "Z" * 25
    assert ids.crockford(bytes([0b00001_000, 0b10_00011_0, 0b0100_0000]), 4) == "1234"


@given(BITS)
def test_digits_are_the_first_bits(bits: bytes) -> None:
    number = 0
    for digit in ids.crockford(bits, 25):
        number = number * 32 + ALPHABET.index(digit)
    assert number == int.from_bytes(bits, "big") >> 3


@given(BITS)
def test_a_ulid_has_26_characters_and_fits_128_bits(bits: bytes) -> None:
    ulid = ids.ulid(bits)
    assert len(ulid) == 26
    assert ulid[0] < "8"
    assert all(character in ALPHABET for character in ulid)


@given(BITS, BITS)
def test_ulids_differ_where_their_first_125_bits_do(one: bytes, other: bytes) -> None:
    same = int.from_bytes(one, "big") >> 3 == int.from_bytes(other, "big") >> 3
    assert (ids.ulid(one) == ids.ulid(other)) == same


def test_the_prefix_of_a_session_never_changes() -> None:
    """Pin the prefix from which later versions derive the ids of events, when they replay a journal."""
    assert ids.event_id_prefix(SessionId("sess_1")) == "05WFCSDE1Q7RWH6S"


@given(st.text(max_size=40), st.text(max_size=40))
def test_sessions_have_prefixes_of_their_own(one: str, other: str) -> None:
    prefixes = [ids.event_id_prefix(SessionId(name)) for name in (one, other)]
    assert (prefixes[0] == prefixes[1]) == (one == other)


@given(st.text(max_size=40), BITS)
def test_no_control_id_is_an_event_id(session_id: str, bits: bytes) -> None:
    event, control = ids.event_id_prefix(SessionId(session_id)), ids.control_id_prefix(bits)
    assert len(event) == len(control) == 16
    assert (event[0], control[0]) == ("0", "1")
    assert control[1:] == ids.crockford(bits, 15)


def test_a_second_is_a_thousand_milliseconds() -> None:
    assert ids.SECOND == 1000 * ids.MILLISECOND == 10**9
