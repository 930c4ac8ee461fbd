"""Jobs as server-sent events, under an ASGI server in memory: answers, refusals, bounds and ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import anyio
import pytest

from arcp_io import App, JobContext, Limits, TemporarilyUnavailable, Verified
from arcp_io.server import event_streams
from arcp_io.server.asgi import AsgiApp
from arcp_io.server.event_stream import EventStream, block_of
from tests.io.apps import TOKEN, make_app
from tests.io.asgi_server import StreamPeer, connected, fields_of, requested

pytestmark = pytest.mark.anyio

OWN = [(b"host", b"localhost:80")]


def bearer(token: str = TOKEN, **more: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request with a token; `more` are others, with _ in place of -."""
    fields = {"authorization": f"Bearer {token}", **{name.replace("_", "-"): more[name] for name in more}}
    return [*OWN, *((name.encode(), value.encode()) for name, value in fields.items())]


class Place(NamedTuple):
    app: AsgiApp
    step: anyio.Event

    @asynccontextmanager
    async def stream(
        self, job_id: str, token: str = TOKEN, query: str = "", headers: Any = None, **more: Any
    ) -> AsyncIterator[StreamPeer]:
        """Ask for the events of a job."""
        scope = {"headers": headers or bearer(token), "query_string": query.encode(), **more}
        async with requested(self.app, f"/jobs/{job_id}/events", **scope) as peer:
            yield peer

    async def status(self, job_id: str, *asked: Any, **more: Any) -> int:
        """Return the status of the answer to a request for the events of a job."""
        async with self.stream(job_id, *asked, **more) as peer:
            return peer.status

    async def job(self, agent: str, input: Any = None) -> str:
        """Submit a job as alice, and leave."""
        async with connected(self.app) as peer:
            await peer.said()
            await peer.hello()
            accepted = await peer.submit(agent, input)
            return str(accepted["payload"]["job_id"])

    async def over(self, job_id: str) -> None:
        """Wait for the end of a job whose events are dropped meanwhile."""
        while (job := self.app.server.describe(job_id)) is None or job.end is None:
            await anyio.sleep(0.001)

    async def ended(self, job_id: str) -> None:
        """Wait for the end of a job."""
        async for _ in self.app.server.observe(job_id, kinds=["x-vendor.tests.none"]):
            pass


@asynccontextmanager
async def place(made: App | None = None, **limits: Any) -> AsyncIterator[Place]:
    """Serve the agent `count`, which publishes half of its numbers, and the rest after a step."""
    app, step = made or make_app(**limits), anyio.Event()

    @app.agent("count")
    async def count(job: JobContext, input: int) -> dict[str, int]:
        for number in range(input):
            if number == input // 2:
                await step.wait()
            await (job.progress(number, input) if number % 2 else job.log("info", str(number)))
        return {"n": input}

    arcp = app.asgi(drain=0, sse=True)
    async with arcp.lifespan():
        yield Place(arcp, step)


def seqs(events: list[dict[str, Any]]) -> list[int]:
    return [event["job_seq"] for event in events]


# Streams.


async def test_a_stream_brings_the_history_then_new_events_then_the_end() -> None:
    async with place() as there:
        job = await there.job("count", 6)
        async with there.stream(job) as peer:
            assert peer.status == 200
            assert peer.headers == {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-store, no-transform",
                "x-accel-buffering": "no",
                "x-content-type-options": "nosniff",
                "vary": "Origin",
            }
            assert 1_000 <= int(fields_of(await peer.block())["retry"]) < 3_000
            first = [await peer.event() for _ in range(3)]
            there.step.set()
            rest = await peer.events()
            assert peer.whole
        events = first + rest
        assert seqs(events) == [1, 2, 3, 4, 5, 6, 7]
        assert events[0] == {
            "job_id": job,
            "job_seq": 1,
            "kind": "log",
            "ts": events[0]["ts"],
            "body": {"level": "info", "message": "0"},
        }
        assert events[-1]["kind"] == "end"
        assert events[-1]["body"] == {"final_status": "success", "result": {"n": 6}}


async def test_a_client_that_comes_back_gets_what_follows_and_204_after_the_end() -> None:
    async with place() as there:
        there.step.set()
        job = await there.job("count", 6)
        await there.ended(job)
        for asked in (
            {"query": "from=4"},
            {"headers": bearer(last_event_id="4")},
            {"headers": bearer(last_event_id="4"), "query": "from=1"},
        ):
            async with there.stream(job, **asked) as peer:
                assert seqs(await peer.events()) == [5, 6, 7]
        async with there.stream(job, query="from=7") as peer:
            assert (peer.status, await peer.text()) == (204, "")
            assert "content-length" not in peer.headers
        async with there.stream(job, query="kind=progress&kind=x-vendor.a.b") as peer:
            assert seqs(await peer.events()) == [2, 4, 6, 7]


async def test_an_error_is_the_end_of_a_stream() -> None:
    async with place() as there:
        job = await there.job("count", "no number")
        async with there.stream(job) as peer:
            [end] = await peer.events()
        assert end["body"]["final_status"] == "error"
        assert end["body"]["error"]["code"] == "INTERNAL_ERROR"


async def test_events_that_are_no_longer_kept_are_told() -> None:
    async with place(max_history_events=10) as there:
        there.step.set()
        job = await there.job("count", 50)
        await there.over(job)
        for after in (0, 20):
            async with there.stream(job, query=f"from={after}") as peer:
                cut, *events = await peer.events()
            first = cut["body"]["history_from"]
            assert (cut["kind"], cut["job_seq"]) == ("history_cut", first - 1)
            assert seqs(events) == list(range(first, 52)) and first > after + 1
        async with there.stream(job, query=f"from={first - 1}") as peer:
            assert seqs(await peer.events()) == list(range(first, 52)), "a cut is not told again"


async def test_a_client_that_does_not_read_holds_one_block_and_is_told_what_it_missed() -> None:
    async with place(max_history_events=100) as there:
        job = await there.job("count", 10_000)
        async with there.stream(job) as peer:
            assert (await peer.event())["kind"] == "history_cut"
            peer.taking = anyio.Event()
            sends = peer.sends
            there.step.set()
            await there.over(job)
            assert peer.sends <= sends + 1, "one block waits, and nothing else is sent meanwhile"
            peer.taking.set()
            events = await peer.events()
        numbers = seqs(events)
        assert numbers == sorted(set(numbers)) and numbers[-1] == 10_001
        cuts = [event for event in events if event["kind"] == "history_cut"]
        missing = [b - 1 for a, b in pairwise(numbers) if b > a + 1]
        assert [cut["job_seq"] for cut in cuts] == [number + 1 for number in missing]


async def test_a_comment_comes_while_there_are_no_events() -> None:
    peer = StreamPeer()

    async def write(stream: EventStream) -> None:
        await stream.say(block_of({"job_seq": 1, "kind": "log"}, event="log", number="1"))
        await anyio.sleep_forever()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await EventStream(receive, send, heartbeat=0.001).run(write, {})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(peer.serve, app, {}))
        await peer.event()
        assert [await peer.block() for _ in range(3)] == [":\n\n"] * 3
        peer.gone.set()
    assert not peer.whole, "nothing is sent to a client that is gone"
    peer.close()


# Refusals.


async def test_a_job_that_is_not_visible_is_refused_like_an_unknown_one() -> None:
    async with place() as there:
        job = await there.job("count", 2)
        refusals = []
        for job_id in (job, "job_unknown"):
            async with there.stream(job_id, "other") as peer:
                refusals.append((peer.status, peer.headers, await peer.text()))
        assert refusals[0] == refusals[1] and refusals[0][0] == 404
        there.app.server.set_observers({"bob": {"alice": "list"}})
        assert await there.status(job, "other") == 403
        there.app.server.set_observers({"bob": {"alice": "observe"}})
        assert await there.status(job, "other") == 200
        assert await there.status(job) == 200


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"headers": OWN}, 401),
        ({"headers": [*OWN, (b"authorization", b"Basic dDprZW4=")]}, 401),
        ({"headers": bearer("wrong")}, 401),
        ({"headers": [(b"host", b"evil.example"), *bearer()[1:]]}, 403),
        ({"headers": bearer(origin="http://evil.example")}, 403),
        ({"headers": [*bearer(origin="http://localhost:80"), (b"origin", b"http://localhost:80")]}, 403),
        ({"headers": bearer(origin="http://localhost:81")}, 403),
        ({"headers": bearer(origin="http://localhost:80")}, 200),
        ({"client": ("192.0.2.1", 1)}, 403),
        ({"client": ("192.0.2.1", 1), "scheme": "https"}, 200),
        ({"method": "POST"}, 405),
        ({"method": "HEAD"}, 405),
        ({"method": "OPTIONS"}, 405),
        ({"query": "token=t0ken"}, 400),
        ({"query": "from=-1"}, 400),
        ({"query": "from=" + "9" * 30}, 400),
        ({"query": "from=2"}, 400),
        ({"query": "&".join(["kind=log"] * 17)}, 400),
        ({"headers": bearer(last_event_id="x")}, 400),
        ({"query": "from=1"}, 200),
    ],
)
async def test_requests_that_get_no_stream(asked: dict[str, Any], status: int) -> None:
    async with place() as there:
        job = await there.job("count", 2)
        async with there.stream(job) as peer:
            await peer.event()
        async with there.stream(job, **asked) as peer:
            assert peer.status == status
            if status == 401:
                assert peer.headers["www-authenticate"].startswith("Bearer")
            if status != 200:
                assert peer.headers["cache-control"] == "no-store" and TOKEN not in await peer.text()


async def test_without_sse_there_are_no_streams() -> None:
    app = make_app().asgi(drain=0)
    async with app.lifespan(), requested(app, "/jobs/job_1/events", headers=bearer()) as peer:
        assert peer.status == 404


async def test_anonymous_clients_get_no_stream() -> None:
    async with place(App("tests", "1", anonymous=True)) as there:
        assert await there.status("job_1") == 401


async def test_wrong_tokens_count_against_their_origin() -> None:
    async with place(max_failed_authentications=3) as there:
        job = await there.job("count", 2)
        assert [await there.status(job, "wrong") for _ in range(3)] == [401] * 3
        async with there.stream(job) as peer:
            assert (peer.status, peer.headers["retry-after"]) == (429, "20")
        async with connected(there.app) as peer_of_socket:
            await peer_of_socket.said()
            refused = await peer_of_socket.hello(TOKEN)
            assert refused["payload"]["details"]["limit"] == "failed_authentications"
        assert await there.status(job, client=("::1", 1)) == 200, "another origin"


@pytest.mark.parametrize("error", [ValueError("broken"), TemporarilyUnavailable("later")])
async def test_a_verifier_that_fails_may_be_asked_again(error: Exception) -> None:
    async def verify(token: str) -> str:
        raise error

    async with place(App("tests", "1", auth=verify)) as there, there.stream("job_1") as peer:
        assert (peer.status, peer.headers["retry-after"]) == (503, "1")


async def test_a_verifier_that_does_not_answer_is_given_up() -> None:
    async def verify(token: str) -> str:
        await anyio.sleep_forever()
        return token

    limits = Limits(authentication_timeout_sec=1)
    async with place(App("tests", "1", auth=verify, limits=limits)) as there:
        assert await there.status("job_1") == 503


# Other web origins.


async def test_an_admitted_origin_reads_streams_and_no_other_does() -> None:
    app = make_app().asgi(drain=0, sse=True, origins=["https://a.example"])
    ask = {"origin": "https://a.example", "access_control_request_method": "GET"}
    async with app.lifespan():
        async with requested(app, "/jobs/job_1/events", method="OPTIONS", headers=bearer(**ask)) as peer:
            assert peer.status == 204
            assert peer.headers["access-control-allow-origin"] == "https://a.example"
            assert "Authorization, Last-Event-ID" in peer.headers["access-control-allow-headers"]
            assert peer.headers["vary"] == "Origin"
        async with requested(app, "/jobs/job_1/events", headers=bearer(**ask)) as peer:
            assert peer.status == 404
            assert peer.headers["access-control-allow-origin"] == "https://a.example"
        ask["origin"] = "https://b.example"
        for method in ("OPTIONS", "GET"):
            async with requested(app, "/jobs/job_1/events", method=method, headers=bearer(**ask)) as peer:
                assert peer.status == 403
                assert not [name for name in peer.headers if name.startswith("access-control")]


# Bounds and ends.


async def test_the_streams_of_a_principal_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "MOST_OF_PRINCIPAL", 2)
    async with place() as there:
        there.app.server.set_observers({"bob": {"*": "observe"}})
        job = await there.job("count", 2)
        async with there.stream(job), there.stream(job) as second:
            async with there.stream(job) as third:
                assert (third.status, third.headers["retry-after"]) == (429, "1")
            assert await there.status(job, "other") == 200
            second.gone.set()
            await second.ended.wait()
            async with there.stream(job) as third:
                assert third.status == 200
                third.broken = True
                there.step.set()
                await third.ended.wait()
            assert await there.status(job) == 200


async def test_the_streams_of_all_principals_are_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_streams, "MOST_STREAMS", 1)
    async with place() as there:
        job = await there.job("count", 2)
        async with there.stream(job):
            assert await there.status(job, "other") == 503
        assert (
            "a client was refused with HTTP 503: it asked for the events of a job: there are too many"
            in caplog.text
        )
        assert await there.status(job) == 200


async def test_a_stream_ends_when_its_right_is_withdrawn() -> None:
    async with place() as there:
        there.app.server.set_observers({"bob": {"alice": "observe"}})
        job = await there.job("count", 2)
        async with there.stream(job, "other") as peer:
            await peer.event()
            there.app.server.set_observers({})
            assert await peer.events() == [] and peer.whole
        assert await there.status(job, "other") == 404


async def test_a_stream_ends_when_its_token_expires() -> None:
    expires = time.time() + 3

    async def verify(token: str) -> Verified:
        return Verified("alice", expires)

    async with place(App("tests", "1", auth=verify)) as there:
        job = await there.job("count", 2)
        async with there.stream(job) as peer:
            await peer.event()
            assert await peer.events() == [] and peer.whole
        assert await there.status(job) == 401


class Revoking:
    """A verifier that knows each token until it is revoked."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self._changed = anyio.Event()

    def revoke(self, token: str) -> None:
        self.revoked.add(token)
        self._changed.set()

    def __call__(self, token: str) -> Verified | None:
        return None if token in self.revoked else Verified("alice", token_id=token)

    def holds_token(self, token_id: str) -> bool:
        return token_id not in self.revoked

    async def watch_tokens(self, changed: Callable[[], object]) -> None:
        await self._changed.wait()
        changed()


async def test_a_stream_ends_when_its_token_is_revoked_and_others_go_on() -> None:
    tokens = Revoking()
    async with place(App("tests", "1", auth=tokens)) as there:
        job = await there.job("count", 4)
        async with there.stream(job, "first") as first, there.stream(job, "second") as second:
            await first.event()
            await second.event()
            tokens.revoke("first")
            assert seqs(await first.events()) in ([], [2]) and first.whole
            there.step.set()
            assert seqs(await second.events()) == [2, 3, 4, 5]
        assert await there.status(job, "first") == 401
        assert await there.status(job, "second", query="from=5") == 204


async def test_a_stream_ends_with_the_server() -> None:
    async with place() as there:
        job = await there.job("sleep")
        async with there.stream(job) as peer:
            await peer.event()
            await there.app.server.shut_down(0)
            rest = await peer.events()
            assert peer.whole and [event["kind"] for event in rest] in (["log", "end"], ["log"], [])
        async with there.stream(job) as peer:
            assert (peer.status, peer.headers["retry-after"]) == (503, "1")


async def test_a_job_that_is_forgotten_ends_its_stream_without_an_end() -> None:
    async with place(max_principal_finished_jobs=1) as there:
        there.step.set()
        job = await there.job("count", 5_000)
        async with there.stream(job, most=3) as peer:  # The head, the time to come back, and one event.
            await peer.event()
            await there.ended(job)
            for number in range(2):
                await there.ended(await there.job("count", number))
            peer.taking.set()
            assert "end" not in [event["kind"] for event in await peer.events()]
        assert await there.status(job) == 404
