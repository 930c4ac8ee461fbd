"""What clients were promised: 1, 2, 3, …, their jobs' own events in order and one end, one answer each."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Final

from arcp_proto.connection import Phase
from arcp_proto.errors import ErrorCode, ensure
from arcp_proto.ids import JobId
from arcp_proto.limits import KIB
from tests.unit.world import Frame, Peer

FRAME: Final = 60 * KIB
ANSWERS: Final = ("session.error", "job.accepted", "job.cancelled", "job.error")
ENDS: Final = {"cancelled": "CANCELLED", "timed_out": "TIMEOUT"}
"""How a peer that gets every end but an error as `job.result` reads the code."""


@dataclass
class Client:
    """A client, and what it has seen."""

    peer: Peer
    quirk: str
    features: tuple[str, ...]
    principal: str = ""
    lied: bool = False
    """It acknowledged what it had not received: it may miss some."""
    ever_slow: bool = False
    erred: bool = False
    """It has sent an error, which no error answers."""
    unread: bool = False
    """Its driver does not read."""
    torn: bool = False
    """It has sent the beginning of a line: what it says next cannot be read."""
    checked: int = 0
    last: int = 0
    stamp: str = ""
    ids: dict[str, None] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    """Requests without an answer so far: id to type."""
    accepted: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[int]] = field(default_factory=dict)
    chunks: dict[str, list[bytes]] = field(default_factory=dict)
    complete: dict[str, bool] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        return self.peer.connection.phase is Phase.OPEN

    def see(self) -> None:
        """Look at what has come since the last time; raises for what was never promised."""
        frames, raw = self.peer.frames, self.peer.raw
        while self.checked < len(frames):
            frame = frames[self.checked]
            ensure(len(raw[self.checked]) <= FRAME + 1, "a frame is too large")
            self._see(frame, first=self.checked == 0)
            self.checked += 1

    def see_end(self) -> None:
        """Whoever is refused is told why, and nothing after it."""
        closing = self.peer.closing
        if closing is not None and closing.reason in list(ErrorCode) and not closing.abort:
            told = [
                frame["payload"]["code"] for frame in self.peer.frames if frame["type"] == "session.error"
            ]
            last = bool(told) and self.peer.frames[-1]["type"] == "session.error"
            ensure(self.erred or (last and told[-1] == closing.reason), "it was refused without a word")

    def _see(self, frame: Frame, *, first: bool) -> None:
        message_type, payload = frame["type"], frame["payload"]
        refusal = message_type == "job.error" and "event_seq" not in frame
        ensure(frame["arcp"] == "1.1" and isinstance(payload, dict), "this is no envelope")
        ensure(not first or message_type in ("session.welcome", "session.error"), "it does not begin so")
        ensure(frame["session_id"] == self.peer.frames[0]["session_id"], "this is another session's")
        if not refusal:  # Its id may be the request's.
            ensure(frame["id"] not in self.ids, "an id was used twice")
            self.ids[frame["id"]] = None
        if "event_seq" in frame:
            self._see_number(frame["event_seq"], payload.get("ts") or payload.get("completed_at") or "")
        if message_type in ANSWERS:
            request_id = payload.get("request_id") or payload.get("details", {}).get("request_id")
            self.asked.pop(request_id, None)
        match message_type:
            case "job.accepted":
                ensure(frame["job_id"] not in self.accepted, "a job was accepted twice")
                self.accepted[frame["job_id"]] = payload["agent"]
            case "job.event":
                self._see_event(frame["job_id"], payload)
            case "job.result":
                self._see_end(frame["job_id"], ENDS.get(payload["final_status"], "success"))
            case "job.error" if not refusal:
                self._see_end(frame["job_id"], payload["code"])

    def _see_number(self, number: int, stamp: str) -> None:
        ensure(number == self.last + 1 or (self.lied and number > self.last), "numbers have a gap, or repeat")
        ensure(stamp >= self.stamp or not stamp, "time goes back")
        self.last, self.stamp = number, stamp or self.stamp

    def _see_event(self, job_id: str, payload: dict[str, Any]) -> None:
        ensure(
            job_id in self.accepted and job_id not in self.ends, "an event before its job, or after its end"
        )
        body = payload["body"]
        match payload["kind"]:
            case "thought":
                self._see_marker(job_id, int(body["text"]))
            case "progress":
                ensure("progress" in self.features, "progress was not negotiated")
                self._see_marker(job_id, body["current"])
            case "metric":
                self._see_marker(job_id, int(body["name"]))
            case "x-vendor.a.b":
                self._see_marker(job_id, body["n"])
            case "result_chunk":
                self._see_chunk(job_id, body)
            case kind:
                raise AssertionError(f"nobody emitted {kind}")

    def _see_marker(self, job_id: str, marker: int) -> None:
        self.seen.setdefault(job_id, []).append(marker)

    def _see_chunk(self, job_id: str, body: dict[str, Any]) -> None:
        ensure("result_chunk" in self.features, "chunks were not negotiated")
        chunks = self.chunks.setdefault(job_id, [])
        ensure(body["chunk_seq"] == len(chunks) or self.lied, "a chunk is missing")
        ensure(job_id not in self.complete, "a chunk came after the last")
        data = body["data"]
        chunks.append(base64.b64decode(data) if body["encoding"] == "base64" else data.encode())
        if not body["more"]:
            self.complete[job_id] = True

    def _see_end(self, job_id: str, code: str) -> None:
        ensure(job_id in self.accepted and job_id not in self.ends, "an end without a job, or a second one")
        ensure(
            code != "success" or (job_id in self.complete) == (job_id in self.chunks), "chunks without an end"
        )
        self.ends[job_id] = code


@dataclass
class Work:
    """One accepted job, as its client may expect it."""

    job_id: JobId
    home: Client
    deadline: int | None = None
    """Monotonic, by its max_runtime_sec."""
    grace_at: int | None = None
    markers: list[int] = field(default_factory=list)
    """Events that were emitted while the client was connected."""
    written: list[bytes] = field(default_factory=list)
    binary: bool | None = None
    outcomes: tuple[str, ...] = ()
    """Codes that its end may have, or success: what came first decided."""
    ended: bool = False
    stopped: bool = False

    def fix(self, *codes: str) -> None:
        """How it ends, unless that was decided before."""
        self.outcomes = self.outcomes or codes

    def check(self) -> None:
        """What the client has seen of it is the beginning of what there was."""
        home = self.home
        seen, code = home.seen.get(self.job_id, []), home.ends.get(self.job_id)
        ensure(code is None or code in self.outcomes, f"it ended as {code}, not as {self.outcomes}")
        if home.lied:
            return
        ensure(seen == self.markers[: len(seen)], "its events came in another order, or some did not")
        if code == "success" and self.binary is not None and "result_chunk" in home.features:
            whole = b"".join(home.chunks.get(self.job_id, []))
            ensure(whole == b"".join(self.written), "its result came otherwise")

    def check_all(self) -> None:
        """The client has seen everything."""
        home = self.home
        ensure(self.job_id in home.accepted, "nobody told that it was accepted")
        ensure(home.lied or home.seen.get(self.job_id, []) == self.markers, "an event did not come")
        ensure(
            home.lied or self.ended == (self.job_id in home.ends), "it ended, and nobody told, or the reverse"
        )
