"""Records: they are written as bytes, read again, and hold no secret."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from arcp_proto.ids import JobId, SessionId
from arcp_proto.server.journal import records
from arcp_proto.server.journal.records import RECORD_VERSION, Record, decode_record, encode_record
from arcp_proto.server.runtime import Runtime
from tests.unit.world import CONFIG, SEED, START, UNIX, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True)


def busy() -> tuple[World, list[Peer]]:
    """Return a world in which most kinds of records were made, and its clients."""
    world = World(JOURNAL)
    peer, other = world.client(), world.client()
    job = peer.submit(lease_request={"cost.budget": ["USD:1"]}, max_runtime_sec=3, idempotency_key="k")
    world.emit(job)
    other.send("job.subscribe", {"job_id": job, "history": True})
    peer.send("session.ack", {"last_processed_seq": 1})
    other.submit(idempotency_key="other")
    world.resumed(peer)
    peer.cancel(job)
    world.stopped(job)
    return world, [peer, other]


def test_the_record_version_is_pinned() -> None:
    assert RECORD_VERSION == 5


def test_records_can_be_written_and_read_again() -> None:
    world, _ = busy()
    made: list[Any] = [*world.records, *world.runtime.snapshot()]
    assert len(dict.fromkeys(type(record) for record in made)) >= 10
    for record in made:
        data = encode_record(record)
        assert isinstance(data, bytes)
        assert decode_record(data) == record


def test_records_that_were_read_again_restore_the_same() -> None:
    world, _ = busy()
    read = [decode_record(encode_record(record)) for record in world.records]
    one, other = (
        Runtime.restore(JOURNAL, made, seed=SEED, now=START, unix=UNIX).snapshot()
        for made in (world.records, read)
    )
    assert one == other


def test_records_can_be_written_as_json_too() -> None:
    world, _ = busy()
    made: list[Any] = [*world.records, *world.runtime.snapshot()]
    assert msgspec.json.decode(msgspec.json.encode(made), type=list[Record]) == made


@pytest.mark.parametrize("data", [b"", b"\x80", b"zork", b'{"type":"JobForgotten"}', b"\x81\xa4type\xa4Zork"])
def test_bytes_that_are_not_a_record_raise(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_record(data)


def test_every_record_has_a_tag() -> None:
    tags = [shape.__struct_config__.tag for shape in get_args(Record)]
    assert tags == [shape.__name__.removesuffix("Record") for shape in get_args(Record)]
    assert len(dict.fromkeys(tags)) == len(tags)


def test_unknown_fields_of_a_record_are_ignored() -> None:
    data = msgspec.msgpack.encode({"type": "JobForgotten", "job_id": "job_1", "later": 5})
    assert decode_record(data) == records.JobForgotten(JobId("job_1"))


def test_no_record_holds_a_secret() -> None:
    world, peers = busy()
    written = b"".join(encode_record(record) for record in [*world.records, *world.runtime.snapshot()])
    for peer in peers:
        assert peer.token.encode() not in written
    assert b"tok-alice" not in written
    assert SessionId(peers[0].session_id).encode() in written
