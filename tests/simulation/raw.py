"""Raw clients, which send valid messages, invalid messages and garbage, and obey as few rules as they can."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.features import Feature

from .leases import draw_lease
from .network import Link
from .plan import Actor
from .told import decode_frame

if TYPE_CHECKING:
    from .world import World

GARBAGE: Final = (b"{", b"[]", b"{}", b"\xff\xfe", b'{"type":5}', b"[" * 70, b"null", b"", b'{"type":"zork"}')
SOME_TIME: Final = "2026-01-01T00:00:00Z"


class RawClient:
    """A client that sends and decodes JSON, without the client of this package."""

    def __init__(self, world: World, number: int, actor: Actor) -> None:
        self.world = world
        self.number = number
        self.actor = actor
        self.link: Link | None = None
        self.open = False
        self.tokens: list[str] = []
        """Resume tokens of the last session, oldest first."""
        self.last = 0
        self.acked = 0
        self.said: list[str] = []
        """Ids of the submits."""
        self.reads = True
        self._rest = b""
        self._count = 0

    # As a socket.

    def takes(self) -> bool:
        return self.reads or self.world.healed

    def receive(self, data: bytes) -> None:
        if not self.actor.lines:
            self._message(data)
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        for message in whole:
            self._message(message)

    def ended(self, reason: str) -> None:
        if self.link is not None:
            self.link.up.end()
        self.link, self.open, self._rest = None, False, b""

    def written(self) -> None:
        """Ignore that the buffer has room: a raw client never waits for that."""

    def _message(self, data: bytes) -> None:
        frame = decode_frame(data)
        payload = frame.payload
        match frame.type:
            case "session.welcome":
                self.open = True
                self.tokens.append(payload["resume_token"])
                self.world.loot.append((self.actor.principal, payload["resume_token"]))
            case "job.accepted":
                self.world.known.append(payload["job_id"])
            case "session.ping" if self.world.healed or self.world.chance(70):
                self.say(
                    "session.pong", {"ping_nonce": payload["nonce"], "received_at": "2026-01-01T00:00:00Z"}
                )
            case _:
                pass
        if frame.event_seq is not None and frame.event_seq == self.last + 1:
            self.last = frame.event_seq

    # Actions.

    def connect(self) -> Link | None:
        """Return the link of this client, which is opened if there is none."""
        if self.link is None:
            self._rest, self.reads = b"", True
            self.link = self.world.dial(self, self.actor.lines, honest=False)
        return self.link

    def drop(self) -> None:
        """Reset the link."""
        if self.link is not None:
            self.link.reset("the client is gone")

    def send(self, data: bytes) -> None:
        """Send bytes."""
        if self.link is not None and not self.link.over and not self.link.up.closing:
            self.link.up.write([data + b"\n"] if self.actor.lines else [data])

    def say(self, kind: str, payload: Any, **envelope: Any) -> str:
        """Send a message and return its id."""
        self._count += 1
        message_id = str(envelope.pop("id", f"raw{self.number}-{self._count}"))
        text = {"arcp": "1.1", "id": message_id, "type": kind, "payload": payload, **envelope}
        self.send(json.dumps(text, separators=(",", ":")).encode())
        return message_id

    def lie(self, what: int, b: int, c: int) -> None:
        """Do one of the actions of EARLY or OPEN."""
        names = OPEN if self.open else ((*EARLY, *OPEN) if what % 8 == 0 else EARLY)
        if self.connect() is not None:
            names[what // 8 % len(names)](self, b, c)

    def hello(self, b: int, c: int) -> None:
        """Send a hello of the own principal, now and then with an invalid bearer token."""
        bearer = f"token of {self.actor.principal}" if b % 8 else "wrong"
        self.tokens, self.last, self.acked = [], 0, 0
        self.say("session.hello", self._hello(bearer))

    def resume(self, b: int, c: int) -> None:
        """Resume the own session, in one of three forms, from the last event number or from another."""
        if not self.tokens:
            self.hello(b, c)
            return
        token = self.tokens[-1] if b % 4 else self.tokens[b // 4 % len(self.tokens)]
        cursor = self.last
        if c % 8 == 7:
            cursor = self.last + 1 + c // 8 % 5
        elif c % 8 == 6:
            cursor = max(0, self.last - c // 8 % 5)
        self._resume(token, cursor, b // 16 % 3, replies=bool(c & 32))

    def _resume(self, token: str, cursor: int, form: int, *, replies: bool = False) -> None:
        self.last = cursor
        asked = {"resume_token": self.world.relabelled(token), "last_event_seq": cursor}
        if replies:
            asked["replies"] = True
        hello = self._hello(f"token of {self.actor.principal}")
        if form == 0:
            self.say("session.hello", {**hello, "resume": asked})
        elif form == 1:
            self.say("session.hello", {**hello, **{k: v for k, v in asked.items() if k != "replies"}})
        else:
            self.say("session.resume", {**asked, **({"auth": hello["auth"]} if cursor % 2 else {})})

    def come_back(self, token: str, cursor: int, form: int) -> None:
        """Resume with this token, as the own principal."""
        self._resume(token, cursor, form)

    def steal(self, b: int, c: int) -> None:
        """Resume with a token of another principal; the bearer token is the own one."""
        others = [token for owner, token in self.world.loot if owner != self.actor.principal]
        if others:
            self._resume(others[b % len(others)], c % 4, c // 4 % 2)
        else:
            self._resume("rt_nothing", 0, c % 3)

    def _hello(self, bearer: str) -> dict[str, Any]:
        features = [*self.actor.features, *([Feature.POSITIONS] if self.actor.positions else [])]
        return {
            "client": {"name": "raw", "version": "1"},
            "auth": {"scheme": "bearer", "token": bearer},
            "capabilities": {"encodings": ["json"], "features": features},
        }

    def submit(self, b: int, c: int) -> None:
        """Submit a job or several, now and then with a key, or with an id that was used before."""
        for number in range(1 if c % 16 else 6):
            payload: dict[str, Any] = {
                "agent": ("good", "late", "deaf", "endless", "absent")[(b + number) % 5]
            }
            payload["input"] = {"label": "raw"}
            if b % 4 == 0:
                payload["idempotency_key"] = f"k{b // 4 % 3}"
                payload["input"] = {"label": f"key {c // 16 % 3}"}
                payload["agent"] = ("good", "deaf")[b // 4 % 2]
            if b % 16 == 3:
                payload["max_runtime_sec"] = (1, 5, 60, 0)[b // 16 % 4]
            if b % 32 == 5 and self.said:
                self.say("job.submit", payload, id=self.said[-1])
            else:
                self.said.append(self.say("job.submit", payload))

    def submit_lease(self, b: int, c: int) -> None:
        """Submit a job with a valid lease or with an invalid one."""
        if not self.open or self.connect() is None:
            return
        lease: dict[str, Any] = dict(draw_lease(b // 8))
        odd: dict[str, Any] = {"tool.call": "*", "cost.budget": ["USD:-1"], "fs.read": ["a"], "zork": ["*"]}
        name = list(odd)[c % 4]
        payload: dict[str, Any] = {
            "agent": ("good", "late", "deaf", "endless")[b % 4],
            "input": {"label": "raw"},
            "lease_request": {**lease, name: odd[name]} if c % 16 < 6 else lease,
        }
        if c % 32 == 9:
            payload["lease_constraints"] = {"expires_at": ("never", "2020-01-01T00:00:00Z", 5)[b % 3]}
        self.said.append(self.say("job.submit", payload))

    def cancel(self, b: int, c: int) -> None:
        """Cancel a known job, or several."""
        known = self.world.known
        for number in range(1 if c % 16 else 5):
            job_id = known[(b + number) % len(known)] if known and b % 8 else "job_absent"
            self.say("job.cancel", {"job_id": job_id, "reason": "x" * (c % 40)})

    def subscribe(self, b: int, c: int) -> None:
        """Subscribe to a known job."""
        known = self.world.known
        payload: dict[str, Any] = {"job_id": known[b % len(known)] if known and b % 8 else "job_absent"}
        if c & 1:
            payload["history"] = True
        if c & 2:
            payload["from_event_seq" if c & 128 else "from_job_seq"] = c // 4 % 12
        self.say("job.subscribe", payload)

    def unsubscribe(self, b: int, c: int) -> None:
        known = self.world.known
        self.say("job.unsubscribe", {"job_id": known[b % len(known)] if known else "job_absent"})

    def list_jobs(self, b: int, c: int) -> None:
        """List jobs, now and then with a forged cursor."""
        payload: dict[str, Any] = {"limit": (1, 2, 100, 5000, -1)[b % 5]}
        if b % 8 == 1:
            payload["cursor"] = "forged"
        if c & 1:
            payload["filter"] = {"status": [("running", "success", "zork")[c // 2 % 3]]}
        self.say("session.list_jobs", payload)

    def ack(self, b: int, c: int) -> None:
        """Acknowledge the last event, or an earlier number, or one that was not given."""
        seq = self.last
        if c % 8 == 7:
            seq += 1 + b % 4
        elif c % 8 == 6:
            seq = max(0, seq - b % 4)
        elif c % 16 == 5:
            seq = -1
        self.say("session.ack", {"last_processed_seq": seq})

    def garbage(self, b: int, c: int) -> None:
        self.send(GARBAGE[b % len(GARBAGE)])

    def unknown(self, b: int, c: int) -> None:
        kinds = ("zork", "job.event", "session.welcome", "session.error", "job.submit", "session.pong")
        self.say(kinds[b % len(kinds)], (None, {}, {"agent": 5}, {"reason": ["x"]})[c % 4])

    def twice(self, b: int, c: int) -> None:
        """Send a second hello, or a resume, on a live connection."""
        if b & 1 and self.tokens:
            self._resume(self.tokens[-1], self.last, c % 3)
        else:
            self.say("session.hello", self._hello(f"token of {self.actor.principal}"))

    def ping(self, b: int, c: int) -> None:
        self.say("session.ping", {"nonce": "n" * (c % 5), "sent_at": SOME_TIME})

    def close(self, b: int, c: int) -> None:
        self.say("session.bye" if b & 1 else "session.close", {"reason": "r"})

    def leave(self, b: int, c: int) -> None:
        self.drop()

    def stop_reading(self, b: int, c: int) -> None:
        self.reads = False

    def read_again(self, b: int, c: int) -> None:
        self.reads = True
        if self.link is not None:
            self.link.down.read_on()

    def heal(self) -> None:
        """Read all data from now on."""
        self.read_again(0, 0)


Act = Callable[[RawClient, int, int], None]
EARLY: Final[tuple[Act, ...]] = (
    *(RawClient.hello, RawClient.hello, RawClient.resume, RawClient.resume, RawClient.resume),
    *(RawClient.resume, RawClient.steal, RawClient.garbage, RawClient.submit, RawClient.unknown),
)
OPEN: Final[tuple[Act, ...]] = (
    *(RawClient.submit, RawClient.submit, RawClient.cancel, RawClient.subscribe, RawClient.subscribe),
    *(RawClient.unsubscribe, RawClient.list_jobs, RawClient.ack, RawClient.ack, RawClient.garbage),
    *(RawClient.unknown, RawClient.twice, RawClient.ping, RawClient.close, RawClient.leave, RawClient.leave),
    *(RawClient.stop_reading, RawClient.read_again, RawClient.submit, RawClient.ack),
)
