"""Results of agents: inline or in chunks, and always in frames that each peer can read."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto import Framing
from arcp_proto.engine.output import StopJob
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.ids import JobId
from arcp_proto.limits import KIB, Limits
from arcp_proto.server.jobs.idempotency import key_bytes
from arcp_proto.wire import codec
from tests.unit.world import FEATURES, Frame, Peer, World

FRAME = 60 * KIB
LONG_FRAME = 1024 * KIB - KIB
NO_CHUNKS = tuple(name for name in FEATURES if name != "result_chunk")
GO_ID = "01972f3e-0000-7000-8000-000000000000"


def chunks_of(peer: Peer) -> list[Frame]:
    """Return the bodies of the chunks received, and check their order and their end."""
    bodies = [frame["payload"]["body"] for frame in peer.of("job.event")]
    assert [body["chunk_seq"] for body in bodies] == list(range(len(bodies)))
    assert len(dict.fromkeys(body["result_id"] for body in bodies)) == 1
    assert [body["more"] for body in bodies] == [True] * (len(bodies) - 1) + [False]
    return bodies


def narrow(world: World, **hello: Any) -> Peer:
    """Return a client over stdio, where a frame may not be long."""
    return world.client(framing=Framing.LINES, **hello)


def longest(peer: Peer) -> int:
    """Return the bytes of the longest frame, without the newline of a line."""
    return max(len(raw.rstrip(b"\n")) for raw in peer.raw)


def joined(bodies: list[Frame]) -> str:
    return "".join(body["data"] for body in bodies)


# Inline.


@pytest.mark.parametrize(
    "result",
    [{"x": 1}, [1, 2.5, None], "text", 0, False, 1.5, {}, [], "", "\u0000\u2028é😀", -(2**63), 2**64 - 1],
)
def test_a_small_result_is_inline(world: World, peer: Peer, job: JobId, result: Any) -> None:
    world.finish(job, result, "done")
    [end] = peer.about(job)
    assert end["type"] == "job.result"
    assert end["payload"] == {
        "final_status": "success",
        "completed_at": "2026-05-28T20:26:40.000Z",
        "result": result,
        "summary": "done",
    }


def test_an_agent_that_returns_none_has_no_result(world: World, peer: Peer) -> None:
    world.finish(peer.submit())
    assert peer.frames[-1]["payload"] == {
        "final_status": "success",
        "completed_at": "2026-05-28T20:26:40.000Z",
    }


def test_a_returned_tuple_is_a_list(world: World, peer: Peer) -> None:
    world.finish(peer.submit(), (1, (2,)))
    assert peer.frames[-1]["payload"]["result"] == [1, [2]]


# Too large for a frame.


def test_a_result_too_large_for_a_frame_comes_in_chunks(world: World) -> None:
    peer = narrow(world)
    result = {"text": "é" * 70_000, "n": list(range(100))}
    world.finish(peer.submit(), result, "big")
    bodies = chunks_of(peer)
    assert json.loads(joined(bodies)) == result
    assert all(body["encoding"] == "utf8" for body in bodies)
    end = peer.frames[-1]["payload"]
    assert end["result_id"] == bodies[0]["result_id"]
    assert end["result_size"] == len(joined(bodies).encode())
    assert (end["content_type"], end["summary"]) == ("application/json", "big")
    assert "result" not in end
    assert longest(peer) <= FRAME


def test_a_result_too_large_for_a_session_without_chunks_is_an_error(world: World) -> None:
    peer = narrow(world, features=NO_CHUNKS)
    job = peer.submit()
    world.finish(job, "x" * FRAME)
    [end] = peer.about(job)
    assert (end["type"], end["payload"]["code"]) == ("job.error", "INVALID_REQUEST")
    assert "result_chunk" in end["payload"]["message"]
    assert job not in world.state.running


@pytest.mark.parametrize(
    ("limits", "code", "details"),
    [
        (Limits(max_result_bytes=100_000), "INTERNAL_ERROR", None),
        (Limits(max_returned_value_bytes=100_000), "INVALID_REQUEST", {"limit": "returned", "max": 100_000}),
    ],
)
def test_a_returned_value_above_its_limit_is_an_error(limits: Limits, code: str, details: Any) -> None:
    world = World(limits=limits)
    peer = world.client()
    job = peer.submit()
    world.finish(job, "x" * 100_000)
    [end] = peer.about(job)
    assert "a returned value is at most 100000 bytes" in end["payload"]["message"]
    assert (end["payload"]["code"], end["payload"].get("details")) == (code, details)
    assert end["payload"]["retryable"] is (code == "INTERNAL_ERROR")
    assert world.all(StopJob) == []
    assert world.state.unfinished == {}


@pytest.mark.parametrize("size", [*range(58_500, 61_600, 61), 30_000])
@pytest.mark.parametrize("hello_id", ["plain", GO_ID])
def test_a_summary_counts_for_the_size_of_a_result(world: World, size: int, hello_id: str) -> None:
    """Check results around the limit: they are inline or in chunks, never too large and never lost."""
    peer = narrow(world, hello_id=hello_id)
    job = peer.submit()
    world.finish(job, "x" * size, "\x01" * 1000)
    end = peer.frames[-1]
    assert end["type"] == "job.result"
    text = end["payload"].get("result") or json.loads(joined(chunks_of(peer)))
    assert text == "x" * size
    assert longest(peer) <= FRAME


@pytest.mark.parametrize(("framing", "frame"), [(Framing.LINES, FRAME), (Framing.MESSAGES, LONG_FRAME)])
@pytest.mark.parametrize("features", [FEATURES, NO_CHUNKS])
def test_the_largest_inline_result_fits_a_frame(
    world: World, framing: Framing, frame: int, features: tuple[str, ...]
) -> None:
    peer = world.client(framing=framing, features=features)
    job = world.state.jobs[peer.submit()]
    room = world.state.result_limit(job, job.home)
    assert room == frame - codec.HEAD_BYTES
    overhead = len('{"final_status":"success","completed_at":"2026-05-28T20:26:40.000Z","result":""}')
    world.finish(peer.submit(), "x" * (room - overhead))
    assert peer.frames[-1]["payload"]["result"] == "x" * (room - overhead)
    assert frame - 200 < longest(peer) <= frame
    world.finish(peer.submit(), "x" * (room - overhead + 1))
    end = peer.frames[-1]
    if features == NO_CHUNKS:
        assert (end["type"], end["payload"]["code"]) == ("job.error", "INVALID_REQUEST")
    else:
        assert (end["type"], end["payload"]["result_size"]) == ("job.result", room - overhead + 3)
        assert json.loads(joined(chunks_of(peer))) == "x" * (room - overhead + 1)
    assert longest(peer) <= frame


@pytest.mark.parametrize("framing", Framing)
def test_a_peer_with_the_quirk_of_the_pypi_reader_gets_no_long_frame(world: World, framing: Framing) -> None:
    peer = world.client(framing=framing, agents=[])
    world.finish(peer.submit(), "x" * 100_000)
    assert peer.frames[-1]["payload"]["result_size"] == 100_002
    assert longest(peer) <= FRAME


def test_a_result_is_inline_in_long_frames_and_in_chunks_elsewhere() -> None:
    world = World(journal=True)
    home, wide, small = world.client(), world.client(), narrow(world)
    deaf = narrow(world, features=NO_CHUNKS)
    result = {"text": "é" * 50_000}
    job = home.submit(idempotency_key="k")
    for peer in (wide, small, deaf):
        peer.send("job.subscribe", {"job_id": job})
    world.emit(job)
    world.finish(job, result, "big")
    for peer in (home, wide):
        _, end = peer.about(job)
        assert (end["payload"]["result"], end["payload"]["summary"]) == (result, "big")
        assert "result_id" not in end["payload"]
    chunks = small.about(job)[1:-1]
    data = joined([frame["payload"]["body"] for frame in chunks])
    assert json.loads(data) == result
    assert [frame["payload"]["body"]["more"] for frame in chunks] == [True, True, False]
    end = small.frames[-1]["payload"]
    assert (end["result_id"], end["result_size"]) == (
        chunks[0]["payload"]["body"]["result_id"],
        len(data.encode()),
    )
    assert (end["content_type"], end["summary"]) == ("application/json", "big")
    assert deaf.frames[-1]["payload"] == end
    assert max(longest(small), longest(deaf)) <= FRAME
    # A later session gets chunks for any frame size; also after a restart, and by the key.
    world.restart()
    late, again = world.client(), world.client()
    late.send("job.subscribe", {"job_id": job, "history": True, "from_event_seq": 1})
    again.send("job.submit", {"agent": "echo", "input": None, "idempotency_key": "k"})
    world.advance(0.001)
    for peer in (late, again):
        chunks = [frame for frame in peer.about(job) if frame["payload"].get("kind") == "result_chunk"]
        assert json.loads(joined([frame["payload"]["body"] for frame in chunks])) == result
        assert peer.frames[-1]["payload"] == end
    resumed = world.resumed(home, 1)
    assert resumed.numbered == home.numbered[1:]  # The frames are the same bytes after the restart.
    assert world.resumed(small, 0).numbered[-4:] == small.numbered[-4:]


def test_a_session_with_long_frames_is_resumed_over_websocket_only(
    world: World, peer: Peer, job: JobId
) -> None:
    peer.drop()
    lines = world.connect(Framing.LINES)
    lines.hello(resume={"resume_token": peer.token, "last_event_seq": 0})
    assert lines.codes() == ["PERMISSION_DENIED"]
    again = world.resumed(peer)
    world.finish(job, "x" * 100_000)
    assert again.frames[-1]["payload"]["result"] == "x" * 100_000


def test_a_session_opened_over_stdio_has_no_long_frames(world: World) -> None:
    peer = narrow(world)
    job = peer.submit()
    again = world.connect()
    again.hello(resume={"resume_token": peer.token, "last_event_seq": 0})
    world.finish(job, "x" * 100_000)
    assert again.frames[-1]["payload"]["result_size"] == 100_002
    assert longest(again) <= FRAME


def test_a_long_result_takes_at_most_a_quarter_of_a_log_and_history() -> None:
    """Check that a result that a log cannot hold is sent in chunks, so that it is not lost."""
    world = World(limits=Limits(max_session_bytes=400_000))
    peer = world.client()
    for size, inline in ((99_000, True), (101_000, False)):
        world.finish(peer.submit(), "x" * size)
        assert ("result" in peer.frames[-1]["payload"]) is inline


def test_a_long_result_is_kept_and_counted_once(world: World, peer: Peer) -> None:
    job = peer.submit(idempotency_key="k")
    world.finish(job, "x" * 500_000)
    kept = world.state.jobs[job]
    assert kept.end is not None and len(kept.end.payload) < 500 and kept.end.inline is None
    assert 500_000 < kept.history.size < 510_000
    claim = world.state.keys.get(kept.terms.principal, "k")
    assert claim is not None and claim.ended is not None and len(claim.ended[1]) < 500
    peer.send("session.ack", {"last_processed_seq": 1})
    holdings = world.state.holdings
    assert holdings.of(kept.terms.principal) == (kept.history.events, kept.history.size)
    assert holdings.pinned_by(kept.terms.principal) == key_bytes("k", claim)


# Streamed.


def test_a_text_is_streamed_in_chunks(world: World, peer: Peer, job: JobId) -> None:
    for piece in ("one ", "", "two ", "😀"):
        world.write(job, piece)
    world.finish(job, summary="s")
    bodies = chunks_of(peer)
    assert [body["data"] for body in bodies] == ["one ", "two ", "😀", ""]
    end = peer.frames[-1]["payload"]
    assert (end["result_size"], end["summary"]) == (12, "s")
    assert "content_type" not in end and "result" not in end


def test_bytes_are_streamed_in_chunks(world: World, peer: Peer, job: JobId) -> None:
    data = bytes(range(256)) * 400
    world.write(job, data)
    world.finish(job)
    bodies = chunks_of(peer)
    assert b"".join(base64.b64decode(body["data"]) for body in bodies) == data
    assert {body["encoding"] for body in bodies} == {"base64"}
    assert peer.frames[-1]["payload"]["result_size"] == len(data)
    assert all(len(raw) <= FRAME for raw in peer.raw)


def test_an_empty_stream_has_one_empty_chunk(world: World, peer: Peer, job: JobId) -> None:
    world.write(job, b"")
    world.finish(job)
    assert [(body["data"], body["encoding"]) for body in chunks_of(peer)] == [("", "base64")]
    assert peer.frames[-1]["payload"]["result_size"] == 0


def test_a_stream_has_one_type(world: World, peer: Peer) -> None:
    text, data = peer.submit(), peer.submit()
    world.write(text, "x")
    world.write(data, b"x")
    with pytest.raises(LocalProtocolError, match="streamed as utf8: write str"):
        world.write(text, b"x")
    with pytest.raises(LocalProtocolError, match="streamed as base64: write bytes"):
        world.write(data, "x")
    with pytest.raises(LocalProtocolError, match="surrogate"):
        world.write(text, "\ud800")
    world.finish(text)
    assert peer.frames[-1]["payload"]["result_size"] == 1


def test_a_value_after_a_chunk_is_an_error(world: World, peer: Peer, job: JobId) -> None:
    world.write(job, "x")
    world.finish(job, {"x": 1})
    end = peer.frames[-1]
    assert (end["type"], end["payload"]["code"]) == ("job.error", "INVALID_REQUEST")
    assert not end["payload"]["retryable"]
    assert "mixed" in end["payload"]["message"]
    assert [frame["payload"]["body"]["more"] for frame in peer.of("job.event")] == [True]


def test_an_agent_that_fails_leaves_its_stream_open(world: World, peer: Peer, job: JobId) -> None:
    world.write(job, "x")
    world.fail(job)
    assert [frame["payload"]["body"]["more"] for frame in peer.of("job.event")] == [True]


def test_results_have_different_ids(world: World, peer: Peer) -> None:
    for _ in range(2):
        job = peer.submit()
        world.write(job, "x")
        world.finish(job)
    ids = [end["payload"]["result_id"] for end in peer.of("job.result")]
    assert ids[0] != ids[1] and all(result_id.startswith("res_") for result_id in ids)


# Streamed to a session without chunks.


@pytest.mark.parametrize(("piece", "value"), [("aé", "aéaé"), (b"\xff\x00", "/wD/AA==")])
def test_a_stream_that_fits_is_inline_for_a_session_without_chunks(
    world: World, piece: str | bytes, value: str
) -> None:
    peer = world.client(features=NO_CHUNKS)
    job = peer.submit()
    world.write(job, piece)
    world.write(job, piece)
    world.finish(job, summary="s")
    [end] = peer.about(job)
    assert end["event_seq"] == 1
    assert end["payload"]["result"] == value
    assert end["payload"]["summary"] == "s"
    assert "result_id" not in end["payload"]


@pytest.mark.parametrize("hello_id", ["plain", GO_ID])
@pytest.mark.parametrize("size", [20_000, 40_000, 59_000, 60_500, 61_440, 70_000])
def test_a_stream_too_large_for_a_session_without_chunks_is_an_error(
    world: World, size: int, hello_id: str
) -> None:
    peer = narrow(world, features=NO_CHUNKS, hello_id=hello_id)
    job = peer.submit()
    for _ in range(10):
        world.write(job, "x" * (size // 10))
    world.finish(job)
    [end] = peer.about(job)
    fits = size < (30_000 if hello_id == GO_ID else 61_000)
    assert end["type"] == ("job.result" if fits else "job.error")
    assert longest(peer) <= FRAME


def test_a_stream_succeeds_after_the_end_of_its_session() -> None:
    world = World(journal=True, resume_window_sec=0)
    peer = world.client(features=NO_CHUNKS)
    job = peer.submit()
    world.write(job, "x" * 50_000)
    peer.drop()
    world.write(job, "x" * 50_000)
    world.finish(job)
    assert world.state.jobs[job].status.value == "success"


def test_a_stream_above_its_limit_stays_refused() -> None:
    world = World(limits=Limits(max_result_bytes=4))
    job = world.client().submit()
    for _ in range(2):
        with pytest.raises(Denied):
            world.write(job, "12345")
    world.write(job, "1234")
    world.take()
    assert world.stops() == [job]


# The size of frames, with any result.


PIECE = st.one_of(
    st.text(max_size=50),
    st.builds(
        lambda character, count: character * count,
        st.sampled_from("x\x01é\u2028😀"),
        st.integers(1, 70_000),
    ),
)


@settings(max_examples=60)
@given(
    pieces=st.lists(PIECE, min_size=1, max_size=4),
    binary=st.booleans(),
    streamed=st.booleans(),
    features=st.sampled_from([FEATURES, NO_CHUNKS]),
    hello_id=st.sampled_from(["plain", GO_ID]),
    summary=st.sampled_from([None, "😀" * 1000, "\x02" * 1000]),
    traced=st.booleans(),
    framing=st.sampled_from(Framing),
)
def test_no_frame_is_ever_larger_than_its_session_reads(
    pieces: list[str],
    binary: bool,
    streamed: bool,
    features: tuple[str, ...],
    hello_id: str,
    summary: str | None,
    traced: bool,
    framing: Framing,
) -> None:
    world = World()
    peer = world.client(framing=framing, features=features, hello_id=hello_id)
    extensions = {}
    if traced:
        carried = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "x" * 512}
        extensions = {"x-vendor.opentelemetry.tracecontext": carried}
    peer.send("job.submit", {"agent": "echo"}, extensions=extensions)
    [job] = list(world.state.jobs)
    if streamed:
        for piece in pieces:
            world.write(job, piece.encode() if binary else piece)
        world.finish(job, summary=summary)
    else:
        world.finish(job, pieces, summary)
    assert longest(peer) <= (FRAME if framing is Framing.LINES else LONG_FRAME)
    end = peer.frames[-1]
    others = [raw for raw, frame in zip(peer.raw, peer.frames, strict=True) if frame is not end]
    assert max(map(len, others)) <= FRAME  # Only a result with its value is longer.
    whole = "".join(pieces)
    if end["type"] == "job.error":
        assert features == NO_CHUNKS
    elif "result_id" in end["payload"]:
        data = joined(chunks_of(peer))
        if streamed:
            whole_bytes = whole.encode()
            received = (
                b"".join(base64.b64decode(body["data"]) for body in chunks_of(peer))
                if binary
                else data.encode()
            )
            assert received == whole_bytes
            assert end["payload"]["result_size"] == len(whole_bytes)
        else:
            assert json.loads(data) == pieces
    elif not streamed:
        assert end["payload"]["result"] == pieces
    else:
        inline = end["payload"]["result"]
        assert (base64.b64decode(inline).decode() if binary else inline) == whole
    if hello_id == GO_ID and "result" in end["payload"]:
        assert end["payload"]["output"] == end["payload"]["result"]
