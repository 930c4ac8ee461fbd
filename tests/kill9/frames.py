"""The frames of a WebSocket, read off a stream of bytes: just what a witness needs."""

from __future__ import annotations

from typing import Final

TEXT: Final = 1
"""The opcode of the messages that matter; ours are never fragmented."""
HEAD_END: Final = b"\r\n\r\n"


class FrameReader:
    """One direction of one connection: first a head of HTTP, then frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._shaken = False
        self.head = b""
        """The head, once it is complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """Add what has come; returns the text messages that are complete."""
        self._buffer += data
        if not self._shaken:
            end = self._buffer.find(HEAD_END)
            if end < 0:
                return []
            self.head = bytes(self._buffer[:end])
            del self._buffer[: end + len(HEAD_END)]
            self._shaken = True
        messages = []
        while (frame := self._next()) is not None:
            opcode, payload = frame
            if opcode == TEXT:
                messages.append(payload)
        return messages

    def _next(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, masked, size, at = buffer[0] & 15, buffer[1] & 128, buffer[1] & 127, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < at + width:
                return None
            size = int.from_bytes(buffer[at : at + width], "big")
            at += width
        key = bytes(buffer[at : at + 4]) if masked else bytes(4)
        at += 4 if masked else 0
        if len(buffer) < at + size:
            return None
        payload = bytes(buffer[at : at + size])
        del buffer[: at + size]
        return opcode, unmask(payload, key) if masked else payload


def unmask(payload: bytes, key: bytes) -> bytes:
    """Apply a mask of four bytes."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
