"""The frames of a link between a runtime and an agent's process on another machine.

A frame is a byte for its kind, the length of its payload in four bytes, the most significant first, and the
payload. The end at the worker begins with HELLO; the answer is ORDER or REFUSED. From then on DATA carries
the bytes of the agent's pipes (see `agents.isolation.protocol`), and both ends send BEAT at every heartbeat.
CLOSE closes the pipe to the agent, and KILL has everything killed. The end at the worker sends EOF at the end
of the pipe from the agent, and last ENDED, once nothing of the agent is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec

VERSION: Final = 1
"""The version of the frames and messages of a link."""
HEAD: Final = 5
"""Bytes in front of a payload."""
MAX_DATA: Final = 64 * 1024
"""Bytes of the payload of a frame to the runtime, at most."""
MAX_HELLO: Final = 1024
"""Bytes of the payload of the first frame to the runtime, at most."""
SILENT_BEATS: Final = 3
"""Heartbeats without a byte after which an end gives a link up."""


class Kind(IntEnum):
    """The kinds of frames."""

    HELLO = 1
    ORDER = 2
    REFUSED = 3
    DATA = 4
    BEAT = 5
    CLOSE = 6
    KILL = 7
    EOF = 8
    ENDED = 9


KINDS: Final = {kind.value: kind for kind in Kind}


class Hello(msgspec.Struct, forbid_unknown_fields=True):
    """The first message of the end at the worker."""

    v: int
    release: str
    """The release of arcp-io at the worker."""
    ticket: str
    """The ticket, in hexadecimal."""

    def __repr__(self) -> str:
        return f"<Hello {self.v} {self.release}>"


class Ended(msgspec.Struct, forbid_unknown_fields=True):
    """The last message of the end at the worker, once the agent's process has ended."""

    code: int | None
    """The exit code, or minus the number of a signal; None if it was killed by the end at the worker."""
    whole: bool
    """Whether nothing that the process has started is left, as far as the system can tell."""


def framed(kind: Kind, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return bytes((kind,)) + len(payload).to_bytes(4, "big") + payload


class Splitter:
    """Splits received bytes into frames whose payloads have at most `limit` bytes; None: of any length."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._data = bytearray()

    def split(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Yield the frames that received bytes complete; raises ValueError for bytes that are not frames."""
        self._data += data
        while len(self._data) >= HEAD:
            kind = KINDS.get(self._data[0])
            size = int.from_bytes(self._data[1:HEAD], "big")
            if kind is None:
                raise ValueError("the bytes are not a link's")
            if self.limit is not None and size > self.limit:
                raise ValueError("a frame is too long")
            if len(self._data) < HEAD + size:
                return
            payload = bytes(self._data[HEAD : HEAD + size])
            del self._data[: HEAD + size]
            yield kind, payload
