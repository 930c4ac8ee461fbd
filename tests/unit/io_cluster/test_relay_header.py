"""arcp_io.cluster.relay_header and relay_handshake: the opening of a relayed connection."""

from __future__ import annotations

import hmac
import itertools
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_io.cluster import relay_handshake, relay_header
from arcp_io.cluster.relay_handshake import (
    ANSWER_BYTES,
    GREETING_BYTES,
    MAGIC,
    Answer,
    GatewayHandshake,
    OwnerHandshake,
)
from arcp_io.cluster.relay_header import (
    MAX_EXPIRES,
    MAX_GUEST,
    MAX_LINE_BYTES,
    MAX_PEER,
    MAX_PRINCIPAL,
    MAX_SHARD,
    MAX_TOKEN_ID,
    NONCE_BYTES,
    TAIL_BYTES,
    RelayForged,
    RelayHeader,
    RelayRefused,
    decode,
    encode,
    header_mac,
)
from arcp_io.server import auth
from arcp_proto import Ceiling, TokenScope
from arcp_proto.leases import MAX_SCOPE_BYTES
from arcp_proto.server.sessions import handshake
from fuzz import fuzz_relay, harness

KEY = b"K" * 32
OWNER = b"O" * 32
GATEWAY = b"G" * 32
HEADER = RelayHeader(7, 3, "alice", 1_800_000_000_000_000_000, True, "10.0.0.9:50000")

HEADER_TAIL = (
    "4747474747474747474747474747474747474747474747474747474747474747"
    "6dadeb7a4cf456f183a3c1a1398e8e4e60cdc3d01e78821755cbd0a3535ee1be"
)
ANSWER = "01919f782445379d48ebae5abdc917808e7a1b9e601103eaa596a3a9e5f4924ccf"

CEILING = Ceiling(agent="search", lease={"cost.budget": ["USD:5"]}, longest_expiry_sec=60)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
headers = st.builds(
    RelayHeader,
    shard=st.integers(0, MAX_SHARD),
    epoch=st.integers(1, 2**63 - 1),
    principal=st.none() | texts.filter(bool),
    expires=st.none() | st.integers(0, MAX_EXPIRES),
    secure=st.booleans(),
    peer=texts,
    throttled=st.booleans(),
    guest=st.none() | texts.filter(bool),
    scope=st.none()
    | st.builds(TokenScope, agents=st.none() | st.lists(texts).map(tuple), ceilings=st.just((CEILING,))),
    token_id=st.text(st.characters(max_codepoint=127), max_size=MAX_TOKEN_ID),
)


def sent(header: RelayHeader = HEADER, key: bytes = KEY, owner_nonce: bytes = OWNER) -> bytes:
    """Return the bytes of a header as a gateway sends them."""
    return encode(header, key=key, owner_nonce=owner_nonce, gateway_nonce=GATEWAY)


def signed(line: bytes) -> bytes:
    """Return a line with the tail that a process with the key would put behind it."""
    return line + GATEWAY + header_mac(line, KEY, OWNER, GATEWAY)


def changed(**fields: Any) -> bytes:
    """Return a signed header, some of whose fields have other values."""
    line = {"v": 1, **msgspec.structs.asdict(HEADER)} | fields
    return signed(msgspec.json.encode({name: value for name, value in line.items() if value != ...}) + b"\n")


def refusal(data: bytes) -> RelayRefused:
    """Return the error with which an owner refuses bytes."""
    with pytest.raises(RelayRefused) as caught:
        OwnerHandshake(KEY, OWNER).receive(data)
    return caught.value


@given(headers, st.binary(max_size=40), st.lists(st.integers(0, 400), max_size=8))
def test_a_header_arrives_however_its_bytes_are_cut(
    header: RelayHeader, rest: bytes, cuts: list[int]
) -> None:
    owner, data = OwnerHandshake(KEY, OWNER), sent(header) + rest
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found = [owner.receive(data[start:end]) for start, end in itertools.pairwise(places)]
    assert [each for each in found if each is not None] == [header]
    assert owner.rest == rest
    assert owner.signed


@given(headers, st.data())
def test_a_changed_byte_makes_a_header_invalid(header: RelayHeader, data: st.DataObject) -> None:
    message = bytearray(sent(header))
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(RelayForged):
        assert OwnerHandshake(KEY, OWNER).receive(bytes(message)) is None  # The newline may be lost.


def test_a_header_is_one_line_of_json() -> None:
    line, _, tail = sent(RelayHeader(7, 3, "a\nb", None, False, "h:1")).partition(b"\n")
    assert line == (
        b'{"v":1,"shard":7,"epoch":3,"principal":"a\\nb","expires":null,"secure":false,"peer":"h:1"}'
    )
    assert len(tail) == TAIL_BYTES


def test_the_bytes_of_version_1_stay_the_same() -> None:
    """Pin the bytes of version 1, with which nodes of two releases serve side by side."""
    owner, gateway = OwnerHandshake(KEY, OWNER), GatewayHandshake(HEADER, KEY, GATEWAY)
    said = gateway.receive(owner.greeting)
    assert owner.greeting == b"ARCPNODE" + OWNER
    assert said.partition(b"\n")[2].hex() == HEADER_TAIL
    owner.receive(said)
    assert owner.answer(Answer.NOT_OWNER).hex() == ANSWER


def test_a_header_without_a_guest_has_no_field_for_one() -> None:
    """Check the header that a node of a release without guests reads; it refuses one with the field."""
    assert b"guest" not in sent()
    visiting = msgspec.structs.replace(HEADER, guest="acme")
    assert sent(visiting).partition(b"\n")[0] == sent().partition(b"\n")[0][:-1] + b',"guest":"acme"}'
    assert OwnerHandshake(KEY, OWNER).receive(sent(visiting)) == visiting


def test_the_tenant_of_a_guest_is_covered_by_the_signature() -> None:
    visiting = sent(msgspec.structs.replace(HEADER, guest="acme"))
    for forged in (
        visiting.replace(b'"guest":"acme"', b'"guest":"evil"'),
        visiting.replace(b',"guest":"acme"', b""),
        sent().replace(b'"}\n', b'","guest":"acme"}\n'),
    ):
        assert forged not in (visiting, sent())
        assert isinstance(refusal(forged), RelayForged)


def test_a_line_that_is_too_long_is_refused_without_a_look_at_it() -> None:
    line = b" " * MAX_LINE_BYTES + sent().partition(b"\n")[0] + b"\n"
    tail = signed(line).removeprefix(line)
    with pytest.raises(RelayRefused, match="more than"):
        decode(line, tail, key=KEY, owner_nonce=OWNER)


def test_an_id_of_a_token_is_as_long_as_a_verifier_may_give_it() -> None:
    assert MAX_TOKEN_ID == auth.MAX_TOKEN_ID == handshake.MAX_TOKEN_ID


def test_the_longest_header_is_within_the_bound() -> None:
    texts = ("\1" * MAX_PRINCIPAL, "\1" * MAX_PEER, "\1" * MAX_GUEST)
    room = MAX_SCOPE_BYTES - len(msgspec.json.encode(TokenScope(agents=("",))))
    scope = TokenScope(agents=("\1" * (room // 6),))
    token_id = "\1" * MAX_TOKEN_ID
    longest = RelayHeader(
        MAX_SHARD, 2**63 - 1, texts[0], MAX_EXPIRES, False, texts[1], True, texts[2], scope, token_id
    )
    assert OwnerHandshake(KEY, OWNER).receive(sent(longest)) == longest


@pytest.mark.parametrize(
    ("given_time", "sent_time"), [(MAX_EXPIRES + 1, MAX_EXPIRES), (10**30, MAX_EXPIRES), (-1, 0)]
)
def test_a_time_outside_the_bounds_is_sent_as_the_nearest_one(given_time: int, sent_time: int) -> None:
    header = msgspec.structs.replace(HEADER, expires=given_time)
    found = OwnerHandshake(KEY, OWNER).receive(sent(header))
    assert found == msgspec.structs.replace(HEADER, expires=sent_time)


OUT_OF_BOUNDS: list[dict[str, Any]] = [
    {"shard": -1},
    {"shard": MAX_SHARD + 1},
    {"epoch": 0},
    {"principal": ""},
    {"principal": "a" * (MAX_PRINCIPAL + 1)},
    {"peer": "a" * (MAX_PEER + 1)},
    {"guest": ""},
    {"guest": "a" * (MAX_GUEST + 1)},
    {"token_id": "a" * (MAX_TOKEN_ID + 1)},
    {"token_id": "é"},
    {"scope": TokenScope(agents=("a" * MAX_SCOPE_BYTES,))},
    {"scope": TokenScope(ceilings=(Ceiling(lease={"zork": ["*"]}),))},
]


@pytest.mark.parametrize(
    "fields", [*OUT_OF_BOUNDS, {"epoch": 2**63}, {"principal": "\ud800"}, {"guest": "\ud800"}], ids=str
)
def test_a_header_out_of_bounds_is_not_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        sent(msgspec.structs.replace(HEADER, **fields))


@pytest.mark.parametrize(
    "fields",
    [*OUT_OF_BOUNDS, {"epoch": 2**63}, {"epoch": 2**64 - 1}, {"expires": -1}, {"expires": 2**63}],
    ids=str,
)
def test_a_signed_header_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    assert "out of bounds" in str(refusal(changed(**fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"shard": "7"},
        {"shard": 7.5},
        {"shard": True},
        {"epoch": None},
        {"principal": 1},
        {"secure": 1},
        {"secure": ...},
        {"peer": None},
        {"peer": ...},
        {"guest": True},
        {"guest": ["a"]},
        {"v": ...},
        {"v": "1"},
        {"token": "t"},
    ],
    ids=str,
)
def test_a_signed_header_with_other_fields_is_refused(fields: dict[str, Any]) -> None:
    assert "not a JSON object" in str(refusal(changed(**fields)))


@pytest.mark.parametrize("version", [0, 2, -1, 2**40])
def test_a_signed_header_of_another_version_is_refused_and_may_be_answered(version: int) -> None:
    owner = OwnerHandshake(KEY, OWNER)
    with pytest.raises(RelayRefused, match="version 1") as caught:
        owner.receive(changed(v=version, new="field"))
    assert not isinstance(caught.value, RelayForged)
    assert owner.signed
    assert owner.answer(Answer.BAD_HEADER)[0] == Answer.BAD_HEADER


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[1]\n", b"null\n", b"\xff\n", b"[" * 9000 + b"\n"])
def test_a_signed_line_without_a_header_is_refused(line: bytes) -> None:
    assert "not a JSON object" in str(refusal(signed(line)))


def test_a_header_that_is_signed_with_another_key_is_forged() -> None:
    assert isinstance(refusal(sent(key=b"k" * 32)), RelayForged)


def test_a_header_of_another_connection_is_forged() -> None:
    replayed = sent(owner_nonce=b"o" * 32)
    assert isinstance(refusal(replayed), RelayForged)


def test_an_answer_is_not_valid_as_the_signature_of_a_header() -> None:
    owner = OwnerHandshake(KEY, OWNER)
    owner.receive(sent())
    mac = owner.answer(Answer.ACCEPTED)[1:]
    assert isinstance(refusal(sent()[: -len(mac)] + mac), RelayForged)


def test_bytes_without_a_line_are_refused_at_the_bound() -> None:
    owner = OwnerHandshake(KEY, OWNER)
    assert owner.receive(b"a" * (MAX_LINE_BYTES - 1)) is None
    with pytest.raises(RelayForged, match="no header ends"):
        owner.receive(b"a")
    assert isinstance(refusal(b"a" * MAX_LINE_BYTES + b"\n"), RelayForged)
    assert isinstance(refusal(b"a" * (MAX_LINE_BYTES - 1) + b"\n" + b"t" * TAIL_BYTES), RelayForged)


def test_both_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    class Compared:
        digest = hmac.digest

        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return hmac.compare_digest(one, other)

    monkeypatch.setattr(relay_header, "hmac", Compared)
    monkeypatch.setattr(relay_handshake, "hmac", Compared)
    owner, gateway = OwnerHandshake(KEY, OWNER), GatewayHandshake(HEADER, KEY, GATEWAY)
    owner.receive(gateway.receive(owner.greeting))
    gateway.receive(owner.answer(Answer.ACCEPTED))
    assert [(one == other, len(one)) for one, other in compared] == [(True, 32), (True, 32)]


@given(headers, st.sampled_from(Answer), st.binary(max_size=40), st.integers(1, 120))
def test_an_answer_arrives_however_its_bytes_are_cut(
    header: RelayHeader, answer: Answer, rest: bytes, step: int
) -> None:
    owner, gateway = OwnerHandshake(KEY, OWNER), GatewayHandshake(header, KEY, GATEWAY)
    assert len(owner.greeting) == GREETING_BYTES
    written = b"".join(gateway.receive(piece) for piece in cut(owner.greeting, step))
    assert gateway.answer is None
    assert owner.receive(written) == header
    data = owner.answer(answer) + rest
    assert [gateway.receive(piece) for piece in cut(data, step)] == [b""] * len(cut(data, step))
    assert (gateway.answer, gateway.rest) == (answer, rest)


@pytest.mark.parametrize("place", range(ANSWER_BYTES))
def test_a_changed_answer_is_forged(place: int) -> None:
    owner, gateway = OwnerHandshake(KEY, OWNER), GatewayHandshake(HEADER, KEY, GATEWAY)
    owner.receive(gateway.receive(owner.greeting))
    answer = bytearray(owner.answer(Answer.ACCEPTED))
    answer[place] ^= 1
    with pytest.raises(RelayForged, match="not signed"):
        gateway.receive(bytes(answer))
    assert gateway.answer is None


def test_a_recorded_answer_is_forged() -> None:
    owner, gateway = OwnerHandshake(KEY, OWNER), GatewayHandshake(HEADER, KEY, GATEWAY)
    owner.receive(gateway.receive(owner.greeting))
    again = GatewayHandshake(HEADER, KEY, b"g" * 32)
    again.receive(owner.greeting)
    with pytest.raises(RelayForged):
        again.receive(owner.answer(Answer.ACCEPTED))


def test_an_unknown_answer_means_to_try_again() -> None:
    owner, gateway = OwnerHandshake(KEY, OWNER), GatewayHandshake(HEADER, KEY, GATEWAY)
    owner.receive(gateway.receive(owner.greeting))
    gateway.receive(owner.answer(99))
    assert gateway.answer is Answer.TRY_AGAIN


@pytest.mark.parametrize("data", [b"H", b"HTTP/1.1 400 Bad Request\r\n", MAGIC[:-1] + b"x", b"\x16\x03\x01"])
def test_another_greeting_than_that_of_a_node_is_refused_at_once(data: bytes) -> None:
    gateway = GatewayHandshake(HEADER, KEY, GATEWAY)
    with pytest.raises(RelayForged, match="not a node"):
        gateway.receive(data)


def test_no_error_shows_a_key_or_received_bytes() -> None:
    for data in (
        sent(key=b"k" * 32),
        changed(principal="hunter2" * 400),
        signed(b"hunter2\n"),
        b"hunter2" * 6000,
    ):
        error = refusal(data)
        texts = [repr(error), repr(error.__cause__)]
        assert not [text for text in texts if "hunter2" in text or "KKK" in text or "OOO" in text]


def test_no_handshake_shows_its_key() -> None:
    for side in (OwnerHandshake(KEY, OWNER), GatewayHandshake(HEADER, KEY, GATEWAY)):
        assert "KKK" not in repr(side)


def test_nonces_and_keys_have_the_size_of_a_digest() -> None:
    assert NONCE_BYTES == len(OWNER) == relay_header.KEY_BYTES == relay_header.MAC_BYTES


@pytest.mark.parametrize(("name", "data"), list(harness.seeds(fuzz_relay.CORPUS)))
def test_corpus(name: str, data: bytes) -> None:
    fuzz_relay.check(data)


def test_random_edits_of_the_corpus() -> None:
    harness.edit(fuzz_relay.check, fuzz_relay.CORPUS, fuzz_relay.WORDS, seed=1, runs=300)


def cut(data: bytes, step: int) -> list[bytes]:
    """Return bytes in pieces of one size."""
    return [data[at : at + step] for at in range(0, len(data), step)]
