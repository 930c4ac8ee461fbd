"""The README's loop over selectors, as it stands there, runs jobs for clients on plain sockets."""

from __future__ import annotations

import json
import re
import runpy
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, Final, NamedTuple

import pytest

README: Final = Path(__file__).parents[2] / "README.md"
TIMEOUT: Final = 30
"""Seconds after which a server that says nothing is taken for dead."""


class Client(NamedTuple):
    """A socket that speaks lines."""

    transport: socket.socket
    lines: BinaryIO

    def send(self, message_type: str, **payload: Any) -> None:
        """One envelope, its id its type."""
        envelope = {"arcp": "1.1", "id": message_type, "type": message_type, "payload": payload}
        self.transport.sendall(json.dumps(envelope).encode() + b"\n")

    def hello(self, token: str) -> None:
        """Say who it is."""
        auth = {"scheme": "bearer", "token": token}
        capabilities = {"encodings": ["json"], "features": ["ack", "heartbeat"]}
        self.send("session.hello", client={"name": "c", "version": "1"}, auth=auth, capabilities=capabilities)

    def receive(self, *message_types: str) -> list[dict[str, Any]]:
        """The payloads of the next envelopes, which have to be of these types."""
        frames = [json.loads(next(self.lines)) for _ in message_types]
        assert [frame["type"] for frame in frames] == list(message_types)
        return [frame["payload"] for frame in frames]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Where the example listens, in a thread; it has to end when its listener is closed."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    [example] = [block for block in blocks if "import" in block and "selectors" in block]
    module = tmp_path / "any_loop.py"
    module.write_text(example)
    serve = runpy.run_path(str(module), run_name="any_loop")["serve"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening: tuple[str, int] = listener.getsockname()
        thread = Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with connected(listening) as last:
            last.hello("s3cret")
            last.receive("session.welcome")
            yield listening
            listener.close()
    thread.join(TIMEOUT)  # It looks when the last client goes, if not before.
    assert not thread.is_alive()


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[Client]:
    """A client that has said nothing yet."""
    with socket.create_connection(address, TIMEOUT) as transport, transport.makefile("rb") as lines:
        yield Client(transport, lines)


def test_the_loop_in_the_readme_runs_a_job(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.hello("s3cret")
        [welcome] = client.receive("session.welcome")
        assert [agent["name"] for agent in welcome["capabilities"]["agents"]] == ["echo"]
        client.send("job.submit", agent="echo", input={"x": 1})
        accepted, event, result = client.receive("job.accepted", "job.event", "job.result")
        assert accepted["request_id"] == "job.submit"
        assert event["kind"] == "log"
        assert result["result"] == {"echo": {"x": 1}}
        client.send("session.close", reason="done")
        client.receive("session.closed")
        assert next(client.lines, b"") == b""


def test_the_loop_in_the_readme_asks_for_the_token(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.hello("wrong")
        [error] = client.receive("session.error")
        assert error["code"] == "UNAUTHENTICATED"
        assert next(client.lines, b"") == b""


def test_the_loop_in_the_readme_serves_several_and_survives_who_is_gone(address: tuple[str, int]) -> None:
    with connected(address) as first, connected(address) as second:
        first.hello("s3cret")
        second.hello("s3cret")
        first.receive("session.welcome")
        second.receive("session.welcome")
        first.send("job.submit", agent="echo", input=1)
        first.transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.lines.close()  # The last reference: what follows is a reset.
        first.transport.close()
        second.send("job.submit", agent="echo", input=2)
        *_, result = second.receive("job.accepted", "job.event", "job.result")
        assert result["result"] == {"echo": 2}
