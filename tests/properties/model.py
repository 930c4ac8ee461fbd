"""What one connection was promised: the frames above its cursor, its answers in their place, one each."""

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
    """A request that has no answer so far: the types and codes that its answer may have."""

    message_type: str
    may: tuple[str, ...]
    check: Callable[[Frame], None] | None = None
    after: int = 0
    """The number of the last event before it."""
    payload: dict[str, Any] = field(default_factory=dict)
    cap: str = ""
    """The limit that it would pass."""


@dataclass
class Attempt:
    """A resume that is under way."""

    token: str
    session_id: str | None
    cursor: int
    replies: bool
    bearer: bool
    lines: bool
    """It comes over stdio."""


@dataclass
class Client:
    """A client at the end of one transport, and what it has seen there."""

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
    """It resumed with what it had, so that whatever was answered before can be answered again."""
    whole: bool = True
    """No answer is dropped because there were many."""
    proved: bool = False
    expires: int | None = None
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
    vetted: int = 0
    last: int = 0
    stamp: str = ""
    nonces: list[str] = field(default_factory=list)
    """Of the pings that it got."""
    ids: dict[str, None] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    loose: dict[str, None] = field(default_factory=dict)
    """Requests of which nobody knows whether, and how, they are answered."""

    @property
    def open(self) -> bool:
        return self.peer.connection.phase is Phase.OPEN

    @property
    def number(self) -> int:
        return connection_state(self.peer.connection).number

    @property
    def reads_long_frames(self) -> bool:
        """Whether its transport is WebSocket, and it is not the PyPI peer."""
        session = connection_state(self.peer.connection).session
        pypi = session is not None and session.quirk.name == "pypi"
        return connection_state(self.peer.connection).framing is Framing.MESSAGES and not pypi

    def see(self) -> None:
        """Look at what has come since the last time; raises for what was never promised."""
        frames, raw = self.peer.frames, self.peer.raw
        while self.checked < len(frames):
            long = "result" in frames[self.checked].get("payload", {}) and self.reads_long_frames
            ensure(len(raw[self.checked]) <= (RESULT_FRAME if long else FRAME + 1), "a frame is too large")
            self._see(frames[self.checked], raw[self.checked].rstrip(b"\n"), first=self.checked == 0)
            self.checked += 1

    def vet(self, persisted: int) -> None:
        """Nothing has come before its records were durable."""
        for frame in self.peer.frames[self.vetted :]:
            needs = 0 if self.line is None else self.line.needs.get(frame.get("event_seq", 0), 0)
            ensure(needs <= persisted, "an event was sent before it was durable")
        self.vetted = len(self.peer.frames)

    def see_end(self) -> None:
        """Whoever is refused is told why, and nothing after it."""
        closing = self.peer.closing
        if closing is not None and closing.reason in list(ErrorCode) and not closing.abort:
            told = [
                frame["payload"]["code"] for frame in self.peer.frames if frame["type"] == "session.error"
            ]
            last = bool(told) and self.peer.frames[-1]["type"] == "session.error"
            ensure(self.erred or (last and told[-1] == closing.reason), "it was refused without a word")

    def _see(self, frame: Frame, raw: bytes, *, first: bool) -> None:
        message_type, payload = frame["type"], frame["payload"]
        refusal = message_type == "job.error" and "event_seq" not in frame
        ensure(frame["arcp"] == "1.1" and isinstance(payload, dict), "this is no envelope")
        ensure(not first or message_type in ("session.welcome", "session.error"), "it does not begin so")
        ensure(frame["session_id"] == self.peer.frames[0]["session_id"], "this is another session's")
        if not refusal:  # Its id may be the request's.
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
        ensure(line is not None and self.token is not None, "welcomed, and nobody knows")
        if line is None or self.token is None:
            return
        ensure(frame["session_id"] == line.session_id, "another session's welcome")
        known = [token.text for token in line.tokens]
        ensure(payload["resume_token"] not in known, "a token was given twice")
        ensure(payload.get("replies", False) == self.replies, "answers are promised, or not")
        features = payload["capabilities"]["features"]
        ensure(sorted(features) == sorted(line.features), "the session negotiated something else")
        self.token.text = payload["resume_token"]
        line.welcomed = True

    def _see_number(self, number: int, raw: bytes, frame: Frame) -> None:
        line = self.line
        ensure(line is not None, "a number without a session")
        if line is None:
            return
        before = self.last or self.cursor
        ensure(number == before + 1 or (self.lied and number > before), "numbers have a gap, or repeat")
        if line.over or line.blind:  # It ended, or something was evicted, before anybody could look.
            line.frames.setdefault(number, raw)
        ensure(line.frames.get(number) == raw, "a frame is not what it was the first time")
        self.last = number
        line.received = max(line.received, number)
        payload = frame["payload"]
        current = number in line.current  # History has its original time.
        if current:
            stamp = payload.get("ts") or payload.get("completed_at") or ""
            again = frame["type"] in ("job.result", "job.error")  # An end once more has that of the first.
            ensure(stamp >= self.stamp or not stamp or again or line.unsteady, "time goes back")
            self.stamp = self.stamp if again else stamp or self.stamp
        strict = not self.resumed or (self.replies and self.honest and self.whole and not line.skipped)
        if frame["type"] == "job.event" and current and strict:
            job_id = frame["job_id"]
            ensure(job_id in line.accepted or not line.is_home(job_id), "an event before its job")

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
            ensure(not ours or replayed or cancelled, f"nobody asked for this {message_type}")
            return
        given = payload["code"] if message_type.endswith("error") else message_type
        if message_type == "job.accepted" and self.quirk == "pypi" and message_type not in asked.may:
            return  # It is refused with the next frame.
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
        """What was asked on a connection that is over may be answered there, or asked again elsewhere."""
        if self.open or not self.asked:
            return
        for request_id, asked in self.asked.items():
            self.loose[request_id] = None
            if asked.message_type == "job.submit" and self.line is not None and not self.line.skipped:
                self.line.outstanding[request_id] = asked.payload
        self.asked.clear()
