"""Principals among each other: jobs, sessions, tokens, cursors and keys of others (§6, §7)."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import anyio

from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import JobId
from tests.attacks.cheats import SECRET, oddities
from tests.attacks.place import CREDENTIALS, FEATURES, Place
from tests.attacks.rows import Stories, code_of, run
from tests.io.peers import Message

ROWS: Final = Stories()
story = ROWS.story
NOBODY: Final = "job_00000000000000000000000000"


def same(*answers: Message) -> bool:
    """Return whether answers are the same bytes but for what was asked for, and the ids of envelopes."""
    return len({json.dumps(_without_names(answer)) for answer in answers}) == 1


def _without_names(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    names = ("id", "request_id", "session_id", "job_id")
    return {name: "" if name in names else _without_names(inner) for name, inner in value.items()}


# Jobs of others.


@story("cancel of the victim's job, and of one that is not there", "JOB_NOT_FOUND, the same bytes", "an end")
async def cancel_by_a_stranger(place: Place) -> None:
    async with place.session() as peer:
        answers = [
            await peer.ask("job.cancel", {"job_id": job, "reason": "x"}) for job in (place.job_id, NOBODY)
        ]
        assert [code_of(answer) for answer in answers] == ["JOB_NOT_FOUND"] * 2
        assert same(*answers)
        assert peer.events == []


@story(
    "cancel by another session of the same principal", "PERMISSION_DENIED while the first one lives", "an end"
)
async def cancel_by_another_session(place: Place) -> None:
    async with place.session() as owner, place.session(owner.principal) as other:
        accepted = await owner.submit("victim")
        answer = await other.ask("job.cancel", {"job_id": accepted["job_id"]})
        assert code_of(answer) == "PERMISSION_DENIED"
        assert [event["type"] for event in await owner.pong()] in ([], ["job.event"])
        assert state_of(place.server.runtime).jobs[accepted["job_id"]].status == "running"


@story(
    "subscribe to the victim's job, to none, to ids of every kind",
    "JOB_NOT_FOUND, the same bytes",
    "an event",
)
async def subscribe_as_an_oracle(place: Place) -> None:
    async with place.session() as peer:
        jobs = [
            place.job_id,
            NOBODY,
            place.job_id.lower(),
            place.job_id[:-1],
            "*",
            "../" + place.job_id,
            "job_\n",
        ]
        for options in ({}, {"history": True}, {"history": True, "from_event_seq": 0}):
            answers = [await peer.ask("job.subscribe", {"job_id": job, **options}) for job in jobs]
            assert {code_of(answer) for answer in answers} == {"JOB_NOT_FOUND"}
            assert same(*answers)
        for job in jobs:
            await peer.send("job.unsubscribe", {"job_id": job})
        assert await peer.pong() == []
        assert peer.events == []
    told = [fact.facts["decision"] for fact in place.facts if fact.what == "subscription"]
    assert told[:2] == ["not visible", "unknown"]


@story("a listing, filtered as one likes", "an empty page", "a job of others")
async def a_listing_of_others(place: Place) -> None:
    async with place.session() as peer:
        for filter in (
            {},
            {"agent": "victim"},
            {"status": ["running"]},
            {"principal": "victim"},
            {"owner": "*"},
        ):
            answer = await peer.ask("session.list_jobs", {"filter": filter, "limit": 10**6})
            assert answer["payload"]["jobs"] == []
            assert answer["payload"]["next_cursor"] is None


@story("cursors made up, cut, changed, of another filter, of another principal", "INVALID_REQUEST", "a page")
async def forged_cursors(place: Place) -> None:
    async with place.session() as owner, place.session() as thief:
        for peer in (owner, thief):
            for _ in range(3):
                await run(peer, "puppet", [])
        page = await owner.ask("session.list_jobs", {"limit": 1})
        cursor = page["payload"]["next_cursor"]
        raw = base64.urlsafe_b64decode(cursor)
        forged = [
            *(
                "",
                "x",
                "0",
                cursor[:-4],
                cursor + "AAAA",
                cursor.swapcase(),
                cursor + "\n",
                "\ufffd",
                "=" * 400,
            ),
            *(
                base64.urlsafe_b64encode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).decode()
                for at in (0, 7, -1)
            ),
            base64.urlsafe_b64encode(bytes(len(raw))).decode(),
        ]
        answers = [await owner.ask("session.list_jobs", {"cursor": one, "limit": 1}) for one in forged if one]
        answers.append(
            await owner.ask("session.list_jobs", {"cursor": cursor, "filter": {"agent": "puppet"}})
        )
        answers.append(await thief.ask("session.list_jobs", {"cursor": cursor, "limit": 1}))
        assert {code_of(answer) for answer in answers} == {"INVALID_REQUEST"}
        assert same(*answers)
        second = await owner.ask("session.list_jobs", {"cursor": cursor, "limit": 1})
        assert len(second["payload"]["jobs"]) == 1


@story(
    "the victim's idempotency key, with his submit and with another", "a job of one's own", "the victim's job"
)
async def the_key_of_another(place: Place) -> None:
    async with place.session() as peer:
        lease = {"fs.read": ["/victims/**"]}
        key = {"idempotency_key": "the victim's key"}
        answer = await peer.submit("victim", lease_request={"fs.read": []}, **key)
        assert answer["type"] == "job.accepted"
        assert answer["job_id"] != place.job_id
        assert "details" not in answer["payload"]
        await peer.until("job.event")
        refused = await peer.submit("victim", lease_request={**lease, "fs.write": []}, **key)
        assert code_of(refused) == "DUPLICATE_KEY"
        assert refused["payload"]["details"]["job_id"] == answer["job_id"]


# Sessions of others.


async def resumed(place: Place, welcome: Message, cursor: Any, token: str | None, **more: Any) -> Message:
    """Return what a new connection is told that resumes a session."""
    async with place.connected() as peer:
        answer = await peer.resume(welcome, cursor, token=token, **more)
        if answer["type"] != "session.welcome":
            assert await peer.end() == 1008
        return answer


@story(
    "the victim's resume token with one's own bearer, and unknown tokens",
    "the same bytes for all",
    "a takeover",
)
async def a_stolen_resume_token(place: Place) -> None:
    mallory = f"{place.name()}/t0ken"
    session = place.victim.welcome
    nobody = {**session, "payload": {**session["payload"], "resume_token": "rt_" + "A" * 43}}
    wrong = {**session, "payload": {**session["payload"], "resume_token": ""}}
    cut = {
        **session,
        "payload": {**session["payload"], "resume_token": session["payload"]["resume_token"][:-1]},
    }
    answers = [await resumed(place, one, 0, mallory) for one in (session, nobody, wrong, cut)]
    assert {code_of(answer) for answer in answers} == {"RESUME_WINDOW_EXPIRED"}
    assert same(*answers)
    answers = [
        await resumed(place, nobody, 0, None),
        await resumed(place, {**session, "session_id": "x"}, 0, None),
    ]
    assert {code_of(answer) for answer in answers} == {"RESUME_WINDOW_EXPIRED"}
    assert [fact.what for fact in place.facts] == ["resume_refused"] * 6


@story("wrong tokens for a session that is detached", "RESUME_WINDOW_EXPIRED", "the end of the session")
async def wrong_tokens_end_nothing(place: Place) -> None:
    async with place.session() as owner:
        await run(owner, "puppet", [["log"]])
        welcome, token = owner.welcome, f"{owner.principal}/t0ken"
        await owner.drop()
    stranger = f"{place.name()}/t0ken"
    for number in range(5):
        wrong = {**welcome, "payload": {**welcome["payload"], "resume_token": f"rt_{number}"}}
        assert code_of(await resumed(place, wrong, 0, token)) == "RESUME_WINDOW_EXPIRED"
        assert code_of(await resumed(place, welcome, 0, stranger)) == "RESUME_WINDOW_EXPIRED"
    async with place.connected() as peer:
        assert (await peer.resume(welcome, 0, token=token))["session_id"] == welcome["session_id"]
        assert [event["event_seq"] for event in await peer.until_event(2)] == [1, 2]


@story("an old resume token, after a newer one was proven", "RESUME_WINDOW_EXPIRED", "a takeover")
async def a_resume_token_that_was_used(place: Place) -> None:
    async with place.session() as owner:
        first, token = owner.welcome, f"{owner.principal}/t0ken"
        await owner.drop()
        async with place.connected() as second:
            welcome = await second.resume(first, 0, token=token)
            await second.drop()
            async with place.connected() as third:
                assert (await third.resume(welcome, 0, token=token))["type"] == "session.welcome"
                for bearer in (token, None):
                    assert code_of(await resumed(place, first, 0, bearer)) == "RESUME_WINDOW_EXPIRED"
                await run(third, "puppet", [])


@story(
    "one resume token on six connections at once",
    "one has it; the others are superseded or refused",
    "a copy",
)
async def resumes_at_once(place: Place) -> None:
    async with place.session() as owner:
        accepted = await owner.submit("puppet", [["sleep", 0.3], ["log"], ["log"]])
        welcome, token = owner.welcome, f"{owner.principal}/t0ken"
        await owner.drop()
    held: list[list[Message]] = []
    codes: list[Any] = []

    async def race() -> None:
        async with place.connected() as peer:
            answer = await peer.resume(welcome, 0, token=token)
            if answer["type"] != "session.welcome":
                codes.append(code_of(answer))
                return
            with anyio.move_on_after(1.5):
                told, _ = await peer.ended()
                codes.append(code_of(told[-1]))
                return
            held.append(peer.events)

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(race)
    assert len(held) == 1
    assert set(codes) <= {"UNAUTHENTICATED", "RESUME_WINDOW_EXPIRED"}
    assert [event["event_seq"] for event in held[0]] == [1, 2, 3]
    assert {event["job_id"] for event in held[0]} == {accepted["job_id"]}


@story(
    "resumes beyond the last event, below zero, with no number", "INVALID_REQUEST", "a change for the owner"
)
async def cursors_that_lie(place: Place) -> None:
    async with place.session() as owner:
        await run(owner, "puppet", [["log"]])
        welcome, token = owner.welcome, f"{owner.principal}/t0ken"
        lies: list[Any] = [3, 2**62, -1, 2**63, 1.5, "x", [], {}]
        for cursor in lies:
            answer = await resumed(place, welcome, cursor, token)
            assert code_of(answer) == "INVALID_REQUEST", cursor
        await run(owner, "puppet", [])
        await owner.drop()
        async with place.connected() as peer:
            assert (await peer.resume(welcome, 0, token=token))["type"] == "session.welcome"
            assert len(await peer.until_event(3)) == 3


@story("acks beyond the last event, below zero, backwards", "INVALID_REQUEST, or nothing", "an event lost")
async def acks_that_lie(place: Place) -> None:
    async with place.session() as owner:
        await run(owner, "puppet", [["log"]] * 5)
        await owner.send("session.ack", {"last_processed_seq": 2})
        for number in (7, 2**62, -1, 10**30):
            answer = await owner.ask("session.ack", {"last_processed_seq": number})
            assert code_of(answer) == "INVALID_REQUEST"
        await owner.send("session.ack", {"last_processed_seq": 1})
        await owner.send("session.ack", {"last_processed_seq": 0})
        assert await owner.pong() == []
        token = f"{owner.principal}/t0ken"
        await owner.drop()
        async with place.connected() as peer:
            assert (await peer.resume(owner.welcome, 2, token=token))["type"] == "session.welcome"
            assert [event["event_seq"] for event in await peer.until_event(4)] == [3, 4, 5, 6]


# Authentication.


@story(
    "hellos without a token, with none of ours, with another scheme",
    "UNAUTHENTICATED, the same bytes",
    "a session",
)
async def guessed_tokens(place: Place) -> None:
    async with place.other() as server:
        answers = []
        for auth in (
            {"scheme": "bearer", "token": "victim/t0ke"},
            {"scheme": "bearer", "token": "victim/t0ken "},
            {"scheme": "bearer", "token": "unknown/wrong"},
            {"scheme": "bearer", "token": "\u0000"},
            {"scheme": "bearer", "token": "x" * 10_000},
        ):
            async with place.connected(server) as peer:
                await peer.send("session.hello", {"auth": auth})
                told, code = await peer.ended()
                assert code == 1008
                answers += told
        assert {code_of(answer) for answer in answers} == {"UNAUTHENTICATED"}
        assert same(*answers)
        for scheme in ("anonymous", "none", "basic", "Bearer", "", "x" * 500):
            async with place.connected(server) as peer:
                await peer.send("session.hello", {"auth": {"scheme": scheme, "token": "victim/t0ken"}})
                (answer,), code = await peer.ended()
                assert (code_of(answer), code) == ("UNAUTHENTICATED", 1008), scheme
        assert not state_of(server.runtime).sessions
    assert {fact.what for fact in place.facts} == {"authentication_failed"}
    assert "t0ke" not in repr(place.facts)


@story("requests before the hello", "INVALID_REQUEST, then the end", "a job")
async def requests_before_the_hello(place: Place) -> None:
    for kind, payload in (
        ("job.submit", {"agent": "puppet"}),
        ("job.subscribe", {"job_id": place.job_id, "history": True}),
        ("session.list_jobs", {}),
        ("session.ping", {"nonce": "n"}),
        ("session.close", {}),
        ("session.ack", {"last_processed_seq": 0}),
    ):
        async with place.connected() as peer:
            await peer.send(kind, payload)
            (answer,), code = await peer.ended()
            assert (code_of(answer), code) == ("INVALID_REQUEST", 1008)


@story(
    "a session that asks for credentials in clear text",
    "they are not offered, a job that needs them is refused, and no job has any",
    "a value",
)
async def credentials_over_an_insecure_connection(place: Place) -> None:
    async with place.connected() as peer:
        await peer.enter(place.name(), [*FEATURES, CREDENTIALS])
        assert CREDENTIALS not in peer.welcome["payload"]["capabilities"]["features"]
        refused = await peer.submit("victim", lease_request={"model.use": ["*"]})
        assert code_of(refused) == "PERMISSION_DENIED"
        accepted = await peer.submit("victim", lease_request={"fs.read": ["/**"]})
        subscribed = await peer.ask("job.subscribe", {"job_id": accepted["job_id"]})
        page = await peer.ask("session.list_jobs", {})
        answers = [accepted["payload"], subscribed["payload"], *page["payload"]["jobs"]]
        assert [answer.get("credentials") for answer in answers] == [None] * 3


# Agents that do not end as they should.


@story("an agent that goes on when its job is over", "JobOver for each call", "an event behind the end")
async def an_agent_after_the_end_of_its_job(place: Place) -> None:
    async with place.session() as peer:
        _, events, end = await run(
            peer, "ghost", None, lease_request={"tool.call": ["*"], "fs.read": ["/**"]}
        )
        assert end["payload"]["result"] == "gone"
        while not {"log", "tool", "authorize"} <= set(place.late):
            await anyio.sleep(0.01)
        assert await peer.pong() == []
        assert events == [] or {event["payload"]["kind"] for event in events} <= {
            "log",
            "tool_call",
            "tool_result",
        }


@story(
    "an agent that does not stop when it is cancelled", "CANCELLED {stopped: false} after the grace", "more"
)
async def an_agent_that_does_not_stop(place: Place) -> None:
    async with place.session() as peer:
        accepted = await peer.submit("stubborn")
        await peer.send("job.cancel", {"job_id": accepted["job_id"]})
        end = (await peer.until("job.error"))[-1]
        assert (code_of(end), end["payload"]["final_status"]) == ("CANCELLED", "cancelled")
        assert end["payload"]["details"] == {"stopped": False}
        await anyio.sleep(0.2)
        assert await peer.pong() == []


@story("an agent that calls everything with what no call takes", "exceptions of its own", "the runtime's end")
async def an_agent_that_vandalises(place: Place) -> None:
    async with place.session() as peer:
        lease = {
            "fs.read": ["/data/**"],
            "tool.call": ["*"],
            "agent.delegate": ["*"],
            "cost.budget": ["USD:9"],
        }
        accepted, _, end = await run(peer, "vandal", None, lease_request=lease)
        assert {"Denied", "LocalProtocolError", "TypeError"} <= set(end["payload"]["result"])
        assert state_of(place.server.runtime).jobs[JobId(accepted["job_id"])].budget.remaining == {"USD": 9}


@story("agents that return, or raise, what cannot be sent", "an error, or a part of it", "the runtime's end")
async def ends_that_cannot_be_sent(place: Place) -> None:
    async with place.session() as peer:
        for how in ("result", "message", "details", "code", "denied"):
            for number in range(len(oddities())):
                end = (await run(peer, "ender", [how, number]))[2]
                assert code_of(end) in (None, "INTERNAL_ERROR", "INVALID_REQUEST", "PERMISSION_DENIED")
                assert isinstance(end["payload"].get("message", ""), str)
                assert isinstance(end["payload"].get("details", {}), dict)


@story("an agent whose exception holds a secret", "INTERNAL_ERROR, agent failed", "a word of it")
async def an_exception_with_a_secret(place: Place) -> None:
    async with place.session() as peer:
        accepted, events, end = await run(peer, "leaky", None)
        assert (code_of(end), end["payload"]["message"]) == ("INTERNAL_ERROR", "agent failed")
        answer = await peer.ask("job.subscribe", {"job_id": accepted["job_id"], "history": True})
        assert events == []
        assert SECRET not in json.dumps([answer, await peer.pong()])


@story(
    "a refusal with escape sequences in the target", "escaped in the message, as text", "a control character"
)
async def a_refusal_that_would_write_to_a_terminal(place: Place) -> None:
    """Read the bytes on the wire; tests/unit/io_cli reads those in a terminal."""
    async with place.session() as peer:
        target = "/data/\x1b[2J\x1b]0;owned\x07\r\u202e"
        _, _, end = await run(
            peer, "honest", [["authorize", "fs.read", target]], lease_request={"fs.read": ["/x"]}
        )
        message = end["payload"]["message"]
        assert code_of(end) == "PERMISSION_DENIED"
        assert "\\x1b[2J" in message
        assert message.isprintable()
        assert "/x" not in message
