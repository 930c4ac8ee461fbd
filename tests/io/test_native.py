"""The streams of each loop, alone: what a transport asks of them and what they report."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from arcp_io.drivers.loop import Loop, current, open_loop
from arcp_io.drivers.transport import ByteStream
from tests.io.conftest import on_every_loop
from tests.io.test_leaks import nothing_left
from tests.io.test_limits import until

pytestmark = pytest.mark.anyio

LARGE = 32 * 1024 * 1024
"""More than any system holds for a socket or a pipe."""


class Recorder:
    """Takes the place of a transport."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.size = 0
        self.writes = 0
        self.reasons: list[str] = []
        self.stays_open = False
        """Whether the stream stays open for writing when the peer has ended its direction."""

    def received(self, data: bytes) -> None:
        self.size += len(data)

    def written(self) -> None:
        self.writes += 1

    def received_eof(self) -> bool:
        self.reasons.append("the peer ended the stream")
        if not self.stays_open:
            self.stream.close()
        return self.stays_open

    def ended(self, reason: str) -> None:
        self.reasons.append(reason)
        self.stream.close()


class Far:
    """The other end: something to read and something to write, neither of which blocks."""

    def __init__(self, reading: socket.socket | int, writing: socket.socket | int) -> None:
        self.ends = (reading, writing)
        for end in self.ends:
            if isinstance(end, socket.socket):
                end.setblocking(False)
            else:
                os.set_blocking(end, False)

    def receive(self, size: int) -> bytes:
        end = self.ends[0]
        return os.read(end, size) if isinstance(end, int) else end.recv(size)

    def send(self, data: bytes) -> int:
        end = self.ends[1]
        return os.write(end, data) if isinstance(end, int) else end.send(data)

    def at_end(self) -> bool:
        """Return whether the peer has ended its direction, and everything before was received."""
        try:
            return self.receive(1) == b""
        except BlockingIOError:
            return False

    def shut_down(self) -> None:
        end = self.ends[1]
        if isinstance(end, int):
            os.close(end)
            self.ends = (self.ends[0],) * 2
        else:
            end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for end in dict.fromkeys(self.ends):
            if isinstance(end, int):
                os.close(end)
            else:
                end.close()
        self.ends = (-1, -1)


@asynccontextmanager
async def sockets(loop: Loop) -> AsyncIterator[tuple[Recorder, Far]]:
    """Yield a recorder of one end of a connection, and the other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        recorder = await loop.connect("127.0.0.1", port, None, Recorder)
        accepted, _ = listener.accept()
    with accepted:
        yield recorder, Far(accepted, accepted)


@asynccontextmanager
async def pipes(loop: Loop) -> AsyncIterator[tuple[Recorder, Far]]:
    """Yield a recorder of one end of two pipes, one for each direction, and the other end."""
    near_reading, far_writing = os.pipe()
    far_reading, near_writing = os.pipe()
    far = Far(far_reading, far_writing)
    try:
        yield await loop.open_pipes(near_reading, near_writing, Recorder), far
    finally:
        if far.ends != (-1, -1):
            far.close()


both = pytest.mark.parametrize("pair", [sockets, pipes], ids=["socket", "pipes"])


@on_every_loop
@both
async def test_a_write_that_is_not_taken_at_once_is_reported(pair: Any) -> None:
    async with nothing_left(), open_loop() as loop, pair(loop) as (recorder, far):
        assert recorder.stream.write(b"small")
        assert not recorder.stream.write(bytes(LARGE))
        assert await read(far, 1000) == b"small" + bytes(995)
        assert recorder.writes == 0
        await read(far, LARGE - 995)
        await until(lambda: recorder.writes == 1)
        assert recorder.stream.write(b"small")
        assert recorder.writes == 1


@on_every_loop
@both
async def test_a_write_that_is_not_taken_at_once_is_sent_again_and_again(pair: Any) -> None:
    """Write twice; the second write begins after the sender of the first has ended, and is sent whole."""
    async with open_loop() as loop, pair(loop) as (recorder, far):
        for _ in range(2):
            recorder.writes = 0
            assert not recorder.stream.write(bytes(LARGE))
            assert len(await read(far, LARGE)) == LARGE
            await until(lambda: recorder.writes == 1)
            await anyio.sleep(0.01)


@on_every_loop
@both
async def test_a_paused_stream_reads_next_to_nothing(pair: Any) -> None:
    async with nothing_left(), open_loop() as loop, pair(loop) as (recorder, far):
        recorder.stream.pause()
        sent = 0
        for _ in range(200):
            try:
                sent += far.send(bytes(65536))
            except BlockingIOError:
                await anyio.sleep(0.001)
        assert recorder.size <= 256 * 1024
        assert recorder.size < sent
        recorder.stream.resume()
        await until(lambda: recorder.size == sent)


@on_every_loop
@both
async def test_the_end_of_the_peer(pair: Any) -> None:
    async with nothing_left(), open_loop() as loop, pair(loop) as (recorder, far):
        far.send(b"last")
        far.shut_down()
        await until(lambda: recorder.reasons != [])
        assert (recorder.size, recorder.reasons[0]) == (4, "the peer ended the stream")


@on_every_loop
async def test_a_socket_stays_open_for_writing_after_the_end_of_the_peer() -> None:
    async with nothing_left(), open_loop() as loop, sockets(loop) as (recorder, far):
        recorder.stays_open = True
        far.shut_down()
        await until(lambda: recorder.reasons != [])
        assert not recorder.stream.write(bytes(LARGE))
        assert len(await read(far, LARGE)) == LARGE
        await until(lambda: recorder.writes == 1)
        recorder.stream.end()
        await until(far.at_end)
        assert recorder.reasons == ["the peer ended the stream"]
        recorder.stream.close()
        await until(lambda: len(recorder.reasons) > 1)


@on_every_loop
async def test_a_socket_that_stays_open_for_writing_is_closed_with_its_loop() -> None:
    async with nothing_left(), AsyncExitStack() as stack:
        async with open_loop() as loop:
            recorder, far = await stack.enter_async_context(sockets(loop))
            recorder.stays_open = True
            far.shut_down()
            await until(lambda: recorder.reasons != [])
        assert len(recorder.reasons) > 1


@on_every_loop
async def test_another_receiver_gets_the_reports_of_a_stream() -> None:
    async with nothing_left(), open_loop() as loop, sockets(loop) as (first, far):
        second = Recorder(first.stream)
        first.stream.transport = second
        far.send(b"data")
        await until(lambda: second.size == 4)
        assert not first.stream.write(bytes(LARGE))
        await read(far, LARGE)
        await until(lambda: second.writes == 1)
        far.shut_down()
        await until(lambda: second.reasons != [])
        assert (first.size, first.writes, first.reasons) == (0, 0, [])


@on_every_loop
@pytest.mark.parametrize("size", [5, LARGE])
async def test_the_first_bytes_may_be_written_before_the_tls_handshake(
    size: int, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    accepted: list[Recorder] = []

    def accept(stream: ByteStream, peer: str) -> Recorder:
        accepted.append(Recorder(stream))
        assert not stream.write(bytes(size))
        return accepted[0]

    async with nothing_left(), open_loop() as loop:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        listening = await loop.listen(listener, server_tls, accept)
        recorder = await loop.connect("127.0.0.1", listener.getsockname()[1], client_tls, Recorder)
        await until(lambda: recorder.size == size)
        await until(lambda: accepted[0].writes == 1)
        recorder.stream.close()
        await until(lambda: accepted[0].reasons != [])
        listening.close()


@on_every_loop
@both
async def test_a_peer_that_is_gone_is_noticed_by_a_write(pair: Any) -> None:
    async with nothing_left(), open_loop() as loop, pair(loop) as (recorder, far):
        recorder.stream.pause()
        await anyio.wait_all_tasks_blocked()
        far.close()
        with anyio.fail_after(20):
            while not recorder.reasons:
                recorder.stream.write(b"anybody?")
                await anyio.sleep(0.001)


@on_every_loop
@both
async def test_an_open_stream_is_closed_with_its_loop(pair: Any) -> None:
    async with nothing_left(), AsyncExitStack() as stack:
        async with open_loop() as loop:
            recorder, _ = await stack.enter_async_context(pair(loop))
            assert not recorder.stream.write(bytes(LARGE))
        assert recorder.reasons


@on_every_loop
async def test_pipes_without_a_reader_from_the_beginning() -> None:
    async with nothing_left(), open_loop() as loop:
        reading, far_writing = os.pipe()
        far_reading, writing = os.pipe()
        os.close(far_reading)
        recorder = await loop.open_pipes(reading, writing, Recorder)
        with anyio.fail_after(20):
            while not recorder.reasons:
                recorder.stream.write(b"anybody?")
                await anyio.sleep(0.001)
        os.close(far_writing)


async def test_which_loop_runs(anyio_backend: str) -> None:
    assert current() == anyio_backend
    async with open_loop() as loop:
        assert loop.name == anyio_backend


@on_every_loop
async def test_the_timer_is_one_and_the_last() -> None:
    calls = []
    async with nothing_left(), open_loop() as loop:
        loop.arm(3600, lambda: calls.append("late"))
        loop.arm(0.001, lambda: calls.append("soon"))
        await until(lambda: calls == ["soon"])
        loop.arm(0.001, lambda: calls.append("never"))
        loop.arm(None, lambda: None)
        loop.call_soon(lambda: calls.append("turn"))
        assert calls == ["soon"]
        await until(lambda: len(calls) > 1)
        await anyio.sleep(0.02)
        assert calls == ["soon", "turn"]
        loop.arm(3600, lambda: None)


@on_every_loop
async def test_tasks_are_cancelled_waited_for_and_watched() -> None:
    ended = []

    async def sleep() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("asleep")

    async def fail() -> None:
        raise LookupError("a task has failed")

    async with nothing_left():
        with pytest.raises(LookupError, match="a task has failed"):
            async with open_loop() as loop:
                task = loop.start(sleep, "a task")
                await loop.checkpoint()
                assert not task.done()
                loop.cancel(task)
                await loop.wait(task)
                assert task.done()
                assert ended == ["asleep"]
                loop.start(sleep, "another")
                await loop.checkpoint()
                loop.start(fail, "a third")
                await anyio.sleep_forever()
        assert ended == ["asleep", "asleep"]


@on_every_loop
async def test_a_task_that_is_cancelled_before_it_begins_is_over() -> None:
    async def never() -> None:
        await anyio.sleep_forever()

    async with nothing_left(), open_loop() as loop:
        task = loop.start(never, "a task")
        loop.cancel(task)
        await loop.wait(task)
        await loop.checkpoint()
        assert task.done()
        loop.start(never, "another that ends with the loop")


async def read(far: Far, size: int) -> bytes:
    """Read that much from the other end."""
    data = bytearray()
    for _ in range(20_000):
        try:
            data += far.receive(min(size - len(data), 1 << 20))
        except BlockingIOError:
            await anyio.sleep(0.001)
        if len(data) == size:
            return bytes(data)
    raise AssertionError(f"only {len(data)} bytes came")


@pytest.mark.only_on("asyncio", "uvloop")
async def test_the_loop_of_a_native_test_is_not_started_by_anyio() -> None:
    """See tests/loops.py: anyio does not know its loop in a callback of these, as in programs of users."""
    raised: list[BaseException] = []

    def callback() -> None:
        try:
            anyio.CancelScope()
        except RuntimeError as error:
            raised.append(error)

    async with open_loop() as loop:
        loop.call_soon(callback)
        await loop.checkpoint()
        await loop.checkpoint()
    assert len(raised) == 1
