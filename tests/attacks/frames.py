"""Messages that are none, or lie about what they are (§5, §12)."""

from __future__ import annotations

import json
from typing import Any, Final

from websockets.frames import Frame, Opcode

from arcp_proto.engine.endpoint import state_of
from tests.attacks.place import Place
from tests.attacks.rows import DENIED, Frames, Row, Stories, code_of, run


def submit(input: str, more: str = "") -> bytes:
    """Return a submit whose input is this text."""
    return f'{{"type":"job.submit","id":"x","payload":{{"agent":"puppet","input":{input}{more}}}}}'.encode()


def envelope(**fields: Any) -> bytes:
    return json.dumps({"arcp": "1.1", "id": "x", "type": "session.ping", "payload": {}, **fields}).encode()


HUGE: Final = "9" * 5_000

NO_TYPES: Final[list[Any]] = [7, None, ["job.submit"], {}]
NO_PAYLOADS: Final[list[Any]] = [[], "x", 7, {"agent": {}}, {}, {"agent": "puppet", "max_runtime_sec": []}]
WRONG_NUMBERS: Final[list[Any]] = [1, -1, 2**63, 10**30, 1.5, "x", [], True]

ROWS: Final[list[Row]] = [
    Frames(
        "text that is not JSON",
        [b"", b" ", b"hello", b"{", b"\x00", b'{"type":"session.ping"', b"{'type': 1}"],
    ),
    Frames(
        "what is JSON and no envelope", [b"[]", b"null", b"7", b'"session.ping"', b"{}", b'{"payload":{}}']
    ),
    Frames(
        "more than one envelope, or something behind it",
        [envelope() + envelope(), envelope() + b",", b"\xef\xbb\xbf" + envelope(), envelope() + b"\x00"],
    ),
    Frames(
        "JSON that is too deep",
        [
            b"[" * 50_000,
            b'{"a":' * 10_000,
            submit("[" * 1_000 + "]" * 1_000),
            submit("[" * 200 + "]" * 200),
            submit('{"a":' * 100 + "0" + "}" * 100),
        ],
    ),
    Frames(
        "more objects and lists than a message holds, wherever they stand",
        [
            submit("[" + "[]," * 100_000 + "[]]"),
            submit("[" + '{"":0},' * 100_000 + "0]"),
            submit("1", ',"lease_request":[' + ("[" * 50 + "]" * 50 + ",") * 2_000 + "0]"),
            b'{"type":"job.subscribe","id":"x","payload":{"job_id":[' + b"[]," * 100_000 + b"[]]}}",
            b'{"type":"session.ping","id":"x","extensions":{"x":[' + b"[]," * 100_000 + b"[]]}}",
        ],
        early=False,
    ),
    Frames(
        "more statuses in a filter than there are",
        [
            envelope(type="session.list_jobs", payload={"filter": {"status": ["success"] * 17}}),
            envelope(type="session.list_jobs", payload={"filter": {"status": ["x"] * 300_000}}),
        ],
        early=False,
    ),
    Frames(
        "malformed numbers, and numbers that cannot be held",
        [
            submit(text)
            for text in ("NaN", "Infinity", "-Infinity", "[1e400]", "-1e999", "0x10", "01", ".5", HUGE)
        ],
    ),
    Frames("lone surrogates", [submit('"\\ud800"'), submit('{"\\udfff":1}'), submit('"\\ud800\\ud800"')]),
    Frames(
        "unknown types, and types that only a runtime sends",
        [
            envelope(type=kind)
            for kind in (
                "x",
                "session.welcome",
                "job.accepted",
                "job.event",
                "__init__",
                "JOB.SUBMIT",
                "job.submit ",
            )
        ],
    ),
    Frames(
        "envelope fields of other types",
        [envelope(type=kind) for kind in NO_TYPES] + [envelope(id="i" * 257), envelope(id="i" * 60_000)],
    ),
    Frames(
        "another version",
        [envelope(arcp="2.0"), envelope(arcp="0.9"), envelope(arcp="11"), envelope(arcp="x")],
    ),
    Frames(
        "payloads of other types",
        [envelope(type="job.submit", payload=payload) for payload in NO_PAYLOADS],
        early=False,
    ),
    Frames(
        "acks of numbers that were never given",
        [envelope(type="session.ack", payload={"last_processed_seq": number}) for number in WRONG_NUMBERS],
        early=False,
    ),
    Frames(
        "a second hello, a resume of what is there",
        [
            envelope(type="session.hello", payload={"auth": {"scheme": "bearer", "token": "victim/t0ken"}}),
            envelope(type="session.hello", payload={"auth": {"scheme": "anonymous"}}),
            envelope(type="session.resume", payload={"resume_token": "rt_x", "last_event_seq": 0}),
        ],
        early=False,
    ),
]

STORIES: Final = Stories()


@STORIES.story(
    "a submit whose lease_request stands there twice", "what is answered is what holds", "a wider one"
)
async def duplicate_keys_in_a_lease(place: Place) -> None:
    async with place.session() as peer:
        leases = ('{"fs.read":["/a"],"fs.read":["/b"]}', '{"fs.read":["/c"],"fs.read":["/d"]}')
        twice = ",".join(f'"lease_request":{lease}' for lease in leases)
        steps = json.dumps([["authorize", "fs.read", path] for path in ("/a", "/b", "/c", "/d")])
        await peer.send_bytes(submit(steps, "," + twice))
        accepted = await peer.receive()
        (end,) = await peer.until("job.result", "job.error")
        granted = accepted["payload"]["lease"]["fs.read"]
        assert len(granted) == 1
        assert end["payload"]["result"] == [
            "ok" if [path] == granted else DENIED for path in ("/a", "/b", "/c", "/d")
        ]


@STORIES.story(
    "binary messages: no UTF-8, no JSON, a ping", "INVALID_REQUEST, INVALID_REQUEST, pong", "an end"
)
async def binary_messages(place: Place) -> None:
    async with place.session() as peer:
        for data in (b"\xff\xfe\x00", b"\x00" * 100, b"\xc3\x28"):
            await peer.send_bytes(data, binary=True)
            assert code_of(await peer.receive()) == "INVALID_REQUEST"
        ping = envelope(payload={"nonce": "b", "sent_at": ""})
        await peer.send_bytes(ping, binary=True)
        assert (await peer.receive())["payload"]["ping_nonce"] == "b"
        await peer.send_bytes(b'{"type":"job.submit","payload":{"agent":"\xff"}}')
        assert code_of(await peer.receive()) == "INVALID_REQUEST"


@STORIES.story("more than ten unreadable messages a second", "INVALID_REQUEST for each, then 1008", "a job")
async def garbage_without_end(place: Place) -> None:
    async with place.session() as peer:
        for _ in range(40):
            await peer.send_bytes(b"garbage")
        told, code = await peer.ended()
        assert code == 1008
        assert {code_of(message) for message in told} == {"INVALID_REQUEST"}
        assert len(told) <= 12


@STORIES.story("an object of 100,000 names, and a list as long", "both come back as they were", "a pause")
async def messages_with_very_many_parts(place: Place) -> None:
    async with place.session() as peer:
        for many in ({f"{number:x}": 0 for number in range(100_000)}, [0] * 100_000):
            accepted, _, end = await run(peer, "leaky", many)
            assert accepted["type"] == "job.accepted"
            assert code_of(end) == "INTERNAL_ERROR"


@STORIES.story("a trace whose headers would hold more headers", "they are left out", "a line of them")
async def headers_in_a_trace(place: Place) -> None:
    async with place.session() as peer:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        tried = [(f"{trace}\r\nX: y", "a=b"), (trace, "a=b\r\nX: y"), (trace, "a=\u20ac"), (trace, "x" * 513)]
        for parent, state in tried:
            extensions = {"x-vendor.opentelemetry.tracecontext": {"traceparent": parent, "tracestate": state}}
            asked = {"agent": "puppet", "input": [["headers"]]}
            answer = await peer.ask("job.submit", asked, extensions=extensions)
            end = (await peer.until("job.result"))[-1]
            assert end["payload"]["result"] == [["traceparent"]]
            assert "X: y" not in json.dumps([answer, end])
            answer = await peer.ask("job.submit", {"agent": "puppet"}, trace_id=parent)
            assert (answer["trace_id"].isalnum(), len(answer["trace_id"])) == (True, 32)
            await peer.until("job.result")


@STORIES.story("a submit right behind a close, and behind a hello that is refused", "the end", "a job")
async def requests_behind_the_end(place: Place) -> None:
    def together(*messages: bytes) -> bytes:
        return b"".join(Frame(Opcode.TEXT, message).serialize(mask=True) for message in messages)

    async with place.session() as peer:
        close = envelope(type="session.close", payload={"reason": "bye"})
        await peer.stream.send(together(close, submit("[]")))
        told, code = await peer.ended()
        assert ([message["type"] for message in told], code) == (["session.closed"], 1000)
    async with place.connected() as stranger:
        hello = envelope(
            type="session.hello", payload={"auth": {"scheme": "bearer", "token": f"{peer.principal}/wrong"}}
        )
        await stranger.stream.send(together(hello, submit("[]"), submit("[]")))
        (answer,), code = await stranger.ended()
        assert (code_of(answer), code) == ("UNAUTHENTICATED", 1008)
    jobs = [
        job for job in state_of(place.server.runtime).jobs.values() if job.terms.principal == peer.principal
    ]
    assert jobs == []


@STORIES.story(
    "the victim's session_id, job_id and event_seq in the envelope", "only the connection counts", "his"
)
async def names_of_others_in_the_envelope(place: Place) -> None:
    async with place.session() as peer:
        names = {"session_id": place.victim.welcome["session_id"], "job_id": place.job_id, "event_seq": 1}
        answer = await peer.ask("job.submit", {"agent": "puppet", "parent_job_id": place.job_id}, **names)
        assert answer["type"] == "job.accepted"
        assert answer["session_id"] == peer.welcome["session_id"]
        assert answer["job_id"] != place.job_id
        await peer.until("job.result")
        (entry,) = (await peer.ask("session.list_jobs", {}, **names))["payload"]["jobs"]
        assert (entry["job_id"], entry.get("parent_job_id")) == (answer["job_id"], None)
        assert code_of(await peer.ask("job.cancel", {}, **names)) == "JOB_NOT_FOUND"


ROWS.extend(STORIES)
