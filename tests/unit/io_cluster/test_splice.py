"""arcp_io.cluster.splice: bytes between two simulated streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arcp_io.cluster.splice import (
    ENDING_LOOKS,
    MAX_FIRST_BYTES,
    STALLED_LOOKS,
    WINDOW,
    Splice,
    Splices,
)
from arcp_io.drivers.loop import READ_SIZE
from arcp_io.drivers.transport import Receiver


class Stream:
    """A stream that finishes a write at once or, while `full`, when `take` is called."""

    transport: Receiver

    def __init__(self) -> None:
        self.full = False
        self.unfinished = b""
        self.written = b""
        self.largest = 0
        self.paused = False
        self.ending: list[str] = []

    def write(self, data: bytes) -> bool:
        assert data
        assert not self.unfinished, "one write at a time"
        assert not self.ending, "no write after the end"
        if self.full:
            self.unfinished = data
            self.largest = max(self.largest, len(data))
        else:
            self.written += data
        return not self.full

    def take(self) -> None:
        """Finish the write in progress."""
        self.written += self.unfinished
        self.unfinished = b""
        self.transport.written()

    def pause(self) -> None:
        assert not self.paused
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False

    def end(self) -> None:
        self.ending.append("end")

    def close(self) -> None:
        assert not self.unfinished, "closed in order only after the last write"
        self.ending.append("close")

    def abort(self) -> None:
        self.ending.append("abort")


class Loop:
    """A loop that only notes the names of tasks."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def start(self, run: Callable[[], Any], name: str) -> Any:
        self.tasks.append(name)
        return self

    def done(self) -> bool:
        return False


class Stand:
    """A splice of two streams."""

    def __init__(self, first: bytes = b"", rest: bytes = b"", *, joined: bool = True) -> None:
        self.loop = Loop()
        self.splices = Splices(self.loop)  # One task serves all splices.
        self.client, self.owner = Stream(), Stream()
        self.splice = self.splices.begin(self.client, first)
        if joined:
            self.join(rest)

    def join(self, rest: bytes = b"", *, writing: bool = False) -> None:
        self.owner.pause()
        self.splice.join(self.owner, rest, 7, 3, writing=writing)


def test_bytes_go_both_ways() -> None:
    stand = Stand(b"first", b"rest")
    stand.client.transport.received(b" of the client")
    stand.owner.transport.received(b" of the owner")
    assert stand.owner.written == b"first of the client"
    assert stand.client.written == b"rest of the owner"
    assert not stand.client.paused and not stand.owner.paused


def test_a_client_is_not_read_before_its_owner_is_known() -> None:
    stand = Stand(b"first", joined=False)
    assert stand.client.paused
    stand.client.transport.received(b" on the way")
    stand.join()
    assert stand.owner.written == b"first on the way"
    assert not stand.client.paused


def test_first_bytes_go_out_when_an_earlier_write_has_finished() -> None:
    stand = Stand(b"first", joined=False)
    stand.join(writing=True)
    assert stand.owner.written == b""
    stand.owner.transport.written()
    assert stand.owner.written == b"first"
    assert not stand.client.paused


def test_bytes_for_a_client_wait_for_an_earlier_write() -> None:
    client, owner = Stream(), Stream()
    splice = Splice(client, b"", lambda _: None, writing=True)
    owner.pause()
    splice.join(owner, b"rest", 7, 3, writing=False)
    owner.transport.received(b" and more")
    assert client.written == b""
    client.transport.written()
    assert client.written == b"rest and more"


def test_too_many_first_bytes_are_refused() -> None:
    Stand(bytes(MAX_FIRST_BYTES), joined=False)
    with pytest.raises(ValueError, match="before it is relayed"):
        Stand(bytes(MAX_FIRST_BYTES + 1))


@pytest.mark.parametrize("slow", ["client", "owner"])
def test_a_side_is_not_read_while_the_other_one_is_slow(slow: str) -> None:
    stand = Stand()
    sink, source = (getattr(stand, name) for name in (slow, "owner" if slow == "client" else "client"))
    sink.full = True
    sent = 0
    while not source.paused:
        source.transport.received(bytes(1000))
        sent += 1000
    assert WINDOW <= sent < WINDOW + 1000
    assert not sink.paused
    sink.take()
    assert len(sink.unfinished) == sent - 1000
    sink.take()
    assert not source.paused
    assert len(sink.written) == sent


def test_a_side_is_not_read_from_the_window_on() -> None:
    stand = Stand()
    stand.client.full = True
    stand.owner.transport.received(b"in progress")
    stand.owner.transport.received(bytes(WINDOW - 12))
    assert not stand.owner.paused
    stand.owner.transport.received(b"x")
    assert stand.owner.paused
    stand.client.take()
    assert not stand.owner.paused
    stand.owner.transport.received(bytes(WINDOW))
    stand.client.take()
    assert stand.owner.paused


def test_small_writes_that_are_not_taken_at_once_do_not_pause() -> None:
    stand = Stand()
    stand.client.full = True
    for _ in range(3):
        stand.owner.transport.received(b"event")
    assert not stand.owner.paused
    stand.client.take()
    assert stand.client.unfinished == b"eventevent"


@pytest.mark.parametrize("first", ["client", "owner"])
def test_the_end_of_one_direction_is_passed_on_and_the_other_one_continues(first: str) -> None:
    stand = Stand()
    one, other = (getattr(stand, name) for name in (first, "owner" if first == "client" else "client"))
    one.transport.received(b"last")
    assert one.transport.received_eof()
    assert other.written == b"last" and other.ending == ["end"] and one.ending == []
    other.transport.received(b"answer")
    assert one.written == b"answer"
    assert not other.transport.received_eof()
    assert one.ending == ["end", "close"] and other.ending == ["end", "close"]
    assert stand.splice.over and len(stand.splices) == 0


def test_an_end_waits_for_the_bytes_before_it() -> None:
    stand = Stand()
    stand.client.full = True
    stand.owner.transport.received(b"a close frame")
    assert stand.owner.transport.received_eof()
    assert stand.client.ending == []
    stand.client.take()
    assert stand.client.written == b"a close frame" and stand.client.ending == ["end"]


def test_the_end_of_a_client_without_an_owner_is_passed_on_later() -> None:
    stand = Stand(b"first", joined=False)
    assert stand.client.transport.received_eof()
    stand.join()
    assert stand.owner.written == b"first" and stand.owner.ending == ["end"]


@pytest.mark.parametrize("broken", ["client", "owner"])
def test_a_broken_side_aborts_the_other_one(broken: str) -> None:
    stand = Stand()
    one, other = (getattr(stand, name) for name in (broken, "owner" if broken == "client" else "client"))
    other.full = True
    one.transport.received(b"half a frame")
    one.transport.ended("the stream broke")
    assert other.ending == ["abort"]
    assert stand.splice.over and len(stand.splices) == 0
    one.transport.ended("the stream was closed")
    other.transport.ended("the stream was closed")


def test_a_stream_that_closes_at_its_end_is_not_broken() -> None:
    stand = Stand()
    stand.owner.full = True
    stand.client.transport.received(b"last")
    stand.client.transport.received_eof()
    stand.client.transport.ended("the stream was closed")  # TLS reports this at its end.
    stand.owner.transport.received(b"too late")
    assert stand.owner.ending == [] and stand.client.written == b""
    stand.owner.take()
    assert stand.owner.written == b"last" and stand.owner.ending == ["end", "close"]
    assert stand.splice.over


def test_a_client_without_an_owner_gets_last_bytes() -> None:
    stand = Stand(b"first", joined=False)
    stand.splice.refuse(b"a close frame")
    assert stand.client.written == b"a close frame" and stand.client.ending == ["end"]
    assert not stand.client.paused
    stand.client.transport.received(b"its answer")
    assert not stand.client.transport.received_eof()
    assert stand.client.ending == ["end", "close"]
    assert stand.splice.over


def test_a_client_that_left_before_its_owner_came_closes_it() -> None:
    stand = Stand(joined=False)
    stand.client.transport.ended("the stream broke")
    stand.join()
    assert stand.owner.ending == ["abort"]


def test_a_write_without_progress_cuts_the_splice() -> None:
    stand = Stand()
    stand.client.full = True
    stand.owner.transport.received(b"event")
    for _ in range(STALLED_LOOKS - 1):
        stand.splices.look()
    stand.client.take()
    stand.owner.transport.received(b"event")
    for _ in range(STALLED_LOOKS - 1):
        stand.splices.look()
    assert not stand.splice.over
    stand.splices.look()
    assert stand.client.ending == stand.owner.ending == ["abort"]


def test_a_side_that_does_not_end_after_the_other_one_is_cut() -> None:
    stand = Stand()
    stand.owner.transport.received_eof()
    for _ in range(ENDING_LOOKS - 1):
        stand.splices.look()
    assert stand.client.ending == ["end"]
    stand.splices.look()
    assert stand.client.ending == ["end", "abort"]


def test_an_idle_splice_stays() -> None:
    stand = Stand()
    for _ in range(100):
        stand.splices.look()
    assert not stand.splice.over


def test_splices_to_earlier_owners_are_cut() -> None:
    stand = Stand()
    waiting = stand.splices.begin(Stream(), b"")
    stand.splices.cut({7: 3})
    assert not stand.splice.over
    stand.splices.cut({7: 4})
    assert stand.splice.over and not waiting.over
    other = Stand()
    other.splices.cut({})
    assert other.splice.over


def test_all_splices_are_closed_and_one_task_looks_at_them() -> None:
    stand = Stand()
    stand.splices.begin(Stream(), b"first")
    assert len(stand.splices) == 2
    stand.splices.close()
    assert len(stand.splices) == 0
    assert stand.loop.tasks == ["arcp splices"]


class SpliceMachine(RuleBasedStateMachine):
    """Two streams that receive, fill, take and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stand: Stand
        self.sent = {"client": b"", "owner": b""}
        self.ended = {"client": False, "owner": False}
        self.serial = 0

    def stream(self, name: str) -> Stream:
        return self.stand.client if name == "client" else self.stand.owner

    def data(self, size: int) -> bytes:
        self.serial += 1
        return (b"%d," % self.serial * (size // 2 + 1))[:size]

    @initialize(first=st.integers(0, MAX_FIRST_BYTES), rest=st.integers(0, READ_SIZE), full=st.booleans())
    def begin(self, first: int, rest: int, full: bool) -> None:
        self.sent = {"client": self.data(first), "owner": self.data(rest)}
        self.stand = Stand(self.sent["client"], joined=False)
        self.stand.owner.full = full
        self.stand.join(self.sent["owner"])

    @rule(name=st.sampled_from(["client", "owner"]), size=st.integers(1, READ_SIZE))
    def receive(self, name: str, size: int) -> None:
        stream = self.stream(name)
        if not (stream.paused or self.ended[name] or self.stand.splice.over):
            data = self.data(size)
            self.sent[name] += data
            stream.transport.received(data)

    @rule(name=st.sampled_from(["client", "owner"]), full=st.booleans())
    def fill(self, name: str, full: bool) -> None:
        self.stream(name).full = full

    @rule(name=st.sampled_from(["client", "owner"]))
    def take(self, name: str) -> None:
        if self.stream(name).unfinished:
            self.stream(name).take()

    @precondition(lambda self: not self.stand.splice.over)
    @rule(name=st.sampled_from(["client", "owner"]))
    def end(self, name: str) -> None:
        if not self.ended[name] and not self.stream(name).paused:
            self.ended[name] = True
            self.stream(name).transport.received_eof()

    @invariant()
    def check(self) -> None:
        for name, other in (("client", "owner"), ("owner", "client")):
            sink, source = self.stream(other), self.stream(name)
            assert self.sent[name].startswith(sink.written + sink.unfinished)
            held = len(self.sent[name]) - len(sink.written)
            assert held < MAX_FIRST_BYTES + WINDOW + READ_SIZE
            if not self.stand.splice.over and not self.ended[name]:
                assert source.paused == (held >= WINDOW)
            if sink.ending:
                assert self.ended[name]
                assert sink.written == self.sent[name]

    def teardown(self) -> None:
        if not hasattr(self, "stand"):
            return
        while self.stand.client.unfinished or self.stand.owner.unfinished:
            for name in ("client", "owner"):
                self.take(name)
        for name in ("client", "owner"):
            self.stream(name).full = False
            if not self.stand.splice.over:
                self.end(name)
        assert self.stand.owner.written == self.sent["client"]
        assert self.stand.client.written == self.sent["owner"]
        assert self.stand.splice.over


TestSpliceMachine = SpliceMachine.TestCase
