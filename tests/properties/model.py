"""The model of one connection: the frames above its cursor, and one answer to each request, in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from arcp_proto import Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.errors import ErrorCode, ensure
from tests.reference.wire import FRAME, RESULT_FRAME
from tests.unit.world import Frame, Peer

from .streams import Line, Token

ANSWERS: Final = (
    *("session.error", "job.accepted", "job.cancelled", "job.error", "job.subscribed", "session.jobs"),
)


@dataclass
class Asked:
    """A request without an answer so far, and the types and codes that its answer may have."""

    message_type: str
    may: tuple[str, ...]
    check: Callable[[Frame], None] | None = None
    after: int = 0
    """The `event_seq` of the last event before the request."""
    payload: dict[str, Any] = field(default_factory=dict)
    cap: str = ""
    """The limit that the request would exceed."""


@dataclass
class Attempt:
    """A resume in progress."""

    token: str
    session_id: str | None
    cursor: int
    replies: bool
    bearer: bool
    lines: bool
    """The resume comes over stdio."""


@dataclass
class Client:
    """A client at the end of one connection, and the frames that it has received there."""

    peer: Peer
    quirk: str
    features: tuple[str, ...]
    anonymous: bool = False
    attempt: Attempt | None = None
    line: Line | None = None
    token: Token | None = None
    cursor: int = 0
    resumed: bool = False
    replies: bool = False
    honest: bool = True
    """The resume began at the last event that was received, so the runtime can repeat all later answers."""
    whole: bool = True
    """The runtime keeps enough answers for a resume to replay all of them."""
    proved: bool = False
    expires: int | None = None
    lied: bool = False
    """The client acknowledged events that it had not received: it may miss some of them."""
    ever_slow: bool = False
    erred: bool = False
    """The client has sent an error, which the runtime does not answer with an error."""
    unread: bool = False
    """The driver of the client does not read."""
    torn: bool = False
    """The client has sent the beginning of a line, which makes its next message unreadable."""
    checked: int = 0
    vetted: int = 0
    last: int = 0
    stamp: str = ""
    nonces: list[str] = field(default_factory=list)
    """The nonces of the pings that the client received."""
    ids: dict[str, None] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    loose: dict[str, None] = field(default_factory=dict)
    """Requests that may be answered or not, and whose answers are not checked."""

    @property
    def open(self) -> bool:
        return self.peer.connection.phase is Phase.OPEN

    @property
    def number(self) -> int:
        return connection_state(self.peer.connection).number

    @property
    def reads_long_frames(self) -> bool:
        """Whether the transport is WebSocket, and the peer is not the PyPI client."""
        session = connection_state(self.peer.connection).session
        pypi = session is not None and session.quirk.name == "pypi"
        return connection_state(self.peer.connection).framing is Framing.MESSAGES and not pypi

    def see(self) -> None:
        """Check the frames that have come since the last call, and raise for those that are not allowed."""
        frames, raw = self.peer.frames, self.peer.raw
        while self.checked < len(frames):
            long = "result" in frames[self.checked].get("payload", {}) and self.reads_long_frames
            ensure(len(raw[self.checked]) <= (RESULT_FRAME if long else FRAME + 1), "a frame is too large")
            self._see(frames[self.checked], raw[self.checked].rstrip(b"\n"), first=self.checked == 0)
            self.checked += 1

    def vet(self, persisted: int) -> None:
        """Raise if an event was sent before its records were durable."""
        for frame in self.peer.frames[self.vetted :]:
            needs = 0 if self.line is None else self.line.needs.get(frame.get("event_seq", 0), 0)
            ensure(needs <= persisted, "an event was sent before it was durable")
        self.vetted = len(self.peer.frames)

    def see_end(self) -> None:
        """Raise unless the last frame of a refused connection is an error with the code of the refusal."""
        closing = self.peer.closing
        if closing is not None and closing.reason in list(ErrorCode) and not closing.abort:
            told = [
                frame["payload"]["code"] for frame in self.peer.frames if frame["type"] == "session.error"
            ]
            last = bool(told) and self.peer.frames[-1]["type"] == "session.error"
            ensure(self.erred or (last and told[-1] == closing.reason), "a refused connection got no error")

    def _see(self, frame: Frame, raw: bytes, *, first: bool) -> None:
        message_type, payload = frame["type"], frame["payload"]
        refusal = message_type == "job.error" and "event_seq" not in frame
        ensure(frame["arcp"] == "1.1" and isinstance(payload, dict), "the frame is not an envelope")
        ensure(
            not first or message_type in ("session.welcome", "session.error"),
            "a connection may not begin with this message",
        )
        ensure(
            frame["session_id"] == self.peer.frames[0]["session_id"],
            "a frame names another session",
        )
        if not refusal:  # The id of a refusal may be that of the request.
            ensure(frame["id"] not in self.ids, "an id was used twice")
            self.ids[frame["id"]] = None
        if "event_seq" in frame:
            self._see_number(frame["event_seq"], raw, frame)
        if message_type in ANSWERS:
            self._see_answer(frame)
        match message_type:
            case "session.welcome":
                self._see_welcome(frame)
            case "session.ping":
                self.nonces.append(payload["nonce"])

    def _see_welcome(self, frame: Frame) -> None:
        payload, line = frame["payload"], self.line
        ensure(line is not None and self.token is not None, "an unexpected welcome")
        if line is None or self.token is None:
            return
        ensure(frame["session_id"] == line.session_id, "the welcome names another session")
        known = [token.text for token in line.tokens]
        ensure(payload["resume_token"] not in known, "a token was given twice")
        ensure(payload.get("replies", False) == self.replies, "`replies` is not that of the resume")
        features = payload["capabilities"]["features"]
        ensure(sorted(features) == sorted(line.features), "the welcome lists other features")
        self.token.text = payload["resume_token"]
        line.welcomed = True

    def _see_number(self, number: int, raw: bytes, frame: Frame) -> None:
        line = self.line
        ensure(line is not None, "an event arrived without a session")
        if line is None:
            return
        before = self.last or self.cursor
        ensure(number == before + 1 or (self.lied and number > before), "numbers have a gap or repeat")
        if line.over or line.blind:  # The judge has not seen the first one.
            line.frames.setdefault(number, raw)
        ensure(line.frames.get(number) == raw, "a replayed frame differs from the first one")
        self.last = number
        line.received = max(line.received, number)
        payload = frame["payload"]
        current = number in line.current  # Events of a history keep their original time.
        if current:
            stamp = payload.get("ts") or payload.get("completed_at") or ""
            again = frame["type"] in ("job.result", "job.error")  # A repeated end keeps its original time.
            ensure(
                stamp >= self.stamp or not stamp or again or line.unsteady,
                "time goes back",
            )
            self.stamp = self.stamp if again else stamp or self.stamp
        strict = not self.resumed or (self.replies and self.honest and self.whole and not line.skipped)
        if frame["type"] == "job.event" and current and strict:
            job_id = frame["job_id"]
            ensure(
                job_id in line.accepted or not line.is_home(job_id),
                "an event before its acceptance",
            )

    def _see_answer(self, frame: Frame) -> None:
        message_type, payload = frame["type"], frame["payload"]
        request_id = payload.get("request_id") or payload.get("details", {}).get("request_id")
        if "event_seq" in frame and message_type != "job.cancelled":
            return
        asked = self.asked.get(request_id or "")
        if message_type == "job.accepted" and self.line is not None:
            self.line.outstanding.pop(request_id, None)
            if self.quirk != "pypi" or self.line.is_home(frame["job_id"]):
                self.line.accepted[frame["job_id"]] = None
        if asked is None:
            replayed = self.replies and message_type in ("job.accepted", "job.subscribed")
            cancelled = message_type == "job.cancelled" and self.resumed
            ours = request_id is not None and request_id.startswith("ask") and request_id not in self.loose
            ensure(not ours or replayed or cancelled, f"this {message_type} answers no request")
            return
        given = payload["code"] if message_type.endswith("error") else message_type
        if message_type == "job.accepted" and self.quirk == "pypi" and message_type not in asked.may:
            return  # The next frame refuses the submit.
        ensure(given in asked.may, f"{asked.message_type} was answered by {given}, not {asked.may}")
        if asked.cap and given == "INTERNAL_ERROR":
            told = payload["details"]["limit"]
            ensure(told == asked.cap, f"refused for {told}, and not {asked.cap}")
        if message_type != "job.cancelled" and not self.lied:
            before = self.last or self.cursor
            ensure(before == asked.after, f"answered after event {before}, and not {asked.after}")
        if asked.message_type == "job.submit":
            first = next(key for key, one in self.asked.items() if one.message_type == "job.submit")
            ensure(first == request_id or self.replies, "submits are answered in another order")
        if asked.check is not None and given == message_type:
            asked.check(frame)
        del self.asked[request_id or ""]

    def give_up(self) -> None:
        """Stop waiting for the answers of a closed connection: its requests may be sent again."""
        if self.open or not self.asked:
            return
        for request_id, asked in self.asked.items():
            self.loose[request_id] = None
            if asked.message_type == "job.submit" and self.line is not None and not self.line.skipped:
                self.line.outstanding[request_id] = asked.payload
        self.asked.clear()
