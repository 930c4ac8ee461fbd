"""The blocking client: no `async` in sight, as in a script."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from anyio.from_thread import start_blocking_portal

import arcp_io
from arcp_io import sync
from arcp_io.client.store import MemoryStore
from arcp_io.errors import AgentNotAvailable, ConnectionLost, JobCancelled, Unauthenticated
from tests.io.apps import TOKEN, make_app


@pytest.fixture(params=["asyncio", "trio"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the URL of a server in a thread of its own."""
    with (
        start_blocking_portal(backend=request.param) as portal,
        portal.wrap_async_context_manager(arcp_io.serve(make_app(), port=0)) as server,
    ):
        yield server.url


def test_a_job_from_its_submission_to_its_result(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        assert session.id.startswith("sess_")
        assert session.runtime.name == "tests"
        assert "echo" in [agent.name for agent in session.agents]
        assert "ack" in session.features
        job = session.submit("flood", {"events": 100}, lease={"fs.read": ["/data/**"]})
        assert (job.agent, job.lease, job.id[:4]) == ("flood", {"fs.read": ["/data/**"]}, "job_")
        assert len(str(job.trace_id)) == 32
        assert [event.body["message"] for event in job] == [f"{number} " for number in range(100)]
        assert job.result() is None
        assert (job.final_status, job.summary, job.events_received) == ("success", None, 101)
        assert session.submit("large", 100_000).result() == "y" * 100_000


def test_a_result_comes_piece_by_piece_between_the_events(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        pieces = session.submit("large", 100_000).result_stream()
        text = "".join(str(piece) for piece in pieces)
        assert json.loads(text) == "y" * 100_000
        assert (pieces.content_type, pieces.size) == ("application/json", len(text))
        assert pieces.history_cut is None
        seen: list[str] = []
        flood = session.submit("flood", {"events": 10})
        pieces = flood.result_stream(on_event=lambda event: seen.append(event.body["message"]))
        assert list(pieces) == []
        assert seen == [f"{number} " for number in range(10)]


def test_a_job_says_where_a_history_begins_that_was_cut() -> None:
    app = make_app(max_history_events=50)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(arcp_io.serve(app, port=0)) as server,
        sync.connect(server.url, token=TOKEN) as session,
        sync.connect(server.url, token=TOKEN) as other,
    ):
        job = session.submit("flood", {"events": 200})
        numbers = [event.seq for event in job]
        observed = other.attach(job.id)
        assert job.history_from is None
        assert observed.history_from is not None
        assert numbers[-50] <= observed.history_from <= numbers[-1]


def test_errors_have_their_classes(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session, pytest.raises(AgentNotAvailable):
        session.submit("none")
    with pytest.raises(Unauthenticated), sync.connect(url, token="wrong"):
        pytest.fail("there is no session")
    with pytest.raises(ValueError, match="clear text"), sync.connect("ws://agents.example/", token=TOKEN):
        pytest.fail("there is no session")


def test_cancelling_inside_the_loop(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("sleep")
        for event in job:
            if event.kind == "status":
                assert job.cancel("enough") is True
        assert (job.final_status, job.stopped) == ("cancelled", True)
        with pytest.raises(JobCancelled, match="enough"):
            job.result()


def test_a_loop_that_was_left_goes_on_in_the_next(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("flood", {"events": 10})
        first = []
        for event in job:
            first.append(event.seq)
            if len(first) == 4:
                break
        assert first + [event.seq for event in job] == list(range(1, 11))


def test_a_loop_may_be_collected_on_the_thread_of_the_session(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("flood", {"events": 10})
        events = iter(job)
        next(events)
        cycle: list[object] = [events]
        cycle.append(cycle)
        del events, cycle
        session._hop.call(gc.collect)
        assert len(list(job)) == 9


def test_a_thread_has_a_while_to_begin_its_loop(url: str) -> None:
    with sync.connect(url, token=TOKEN, buffer_size=1000) as session:
        job = session.submit("flood", {"events": 60, "size": 100})
        time.sleep(0.3)
        assert len(list(job)) == 60


def test_one_loop_at_a_time(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("sleep")
        events = iter(job)
        next(events)
        with pytest.raises(RuntimeError, match="has an iterator already"):
            next(iter(job))
        job.cancel()
        assert [event.kind for event in events] == ["log"]


def test_the_result_inside_the_loop_ends_the_loop(url: str) -> None:
    with sync.connect(url, token=TOKEN, buffer_size=1000) as session:
        job = session.submit("flood", {"events": 20_000, "size": 1000})
        assert [job.result() for _ in job] == [None]


def test_several_threads_share_a_session(url: str) -> None:
    results: dict[int, int] = {}
    with sync.connect(url, token=TOKEN) as session:

        def submit(number: int) -> None:
            results[number] = session.submit("echo", number).result()

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {number: number for number in range(10)}


def test_after_the_block(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("sleep")
        events = iter(job)
        next(events)
        session.close("done")
        with pytest.raises(ConnectionLost):
            job.result()
    for late in (lambda: session.submit("echo"), job.result, job.cancel, lambda: next(session.list_jobs())):
        with pytest.raises(ConnectionLost, match="only inside the `with` block"):
            late()
    assert (session.state, job.final_status, job.over) == ("closed", None, True)
    assert isinstance(session.lost, ConnectionLost)
    del events


def test_a_call_that_waits_when_the_block_is_left(url: str) -> None:
    lost: list[ConnectionLost] = []
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("sleep")

        def wait() -> None:
            try:
                job.result()
            except ConnectionLost as error:
                lost.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not job._job._asking:
            time.sleep(0.01)
    waiting.join()
    assert len(lost) == 1


def test_timeouts(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("sleep")
        with pytest.raises(TimeoutError):
            job.result(timeout=0.05)
        with pytest.raises(TimeoutError):
            job.wait(timeout=0.05)
        assert (job.final_status, job.over, session.lost) == (None, False, None)
        job.cancel("enough", timeout=60)
        job.wait(timeout=60)
        with pytest.raises(JobCancelled, match="enough"):
            job.result(timeout=60)


def test_a_job_has_its_budget_and_times(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        job = session.submit("echo", 1, budget="USD:1.50", expires_at="2099-01-01T00:00:00Z")
        assert (job.budget, job.expires_at) == ({"USD": 1.5}, "2099-01-01T00:00:00Z")
        assert job.result() == 1
        assert str(job.accepted_at).startswith("20") and job.parent_job_id is None
        assert (job.history_from, job.events_dropped, job.last_seq) == (None, 0, 1)


def test_all_jobs_are_cancelled(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session:
        jobs = [session.submit("sleep"), session.submit("sleep")]
        session.cancel_all()
        assert [job.final_status for job in jobs] == ["cancelled", "cancelled"]


def test_jobs_are_listed_and_observed(url: str) -> None:
    with sync.connect(url, token=TOKEN) as session, sync.connect(url, token=TOKEN) as other:
        jobs = [session.submit("echo", number) for number in range(5)]
        assert [job.result() for job in jobs] == list(range(5))
        listed = list(other.list_jobs(status="success", page_size=2))
        assert [entry.job_id for entry in listed] == [job.id for job in reversed(jobs)]
        assert next(iter(other.list_jobs())).job_id == jobs[-1].id
        assert other.attach(jobs[0].id).result() == 0
        running = session.submit("sleep")
        observed = other.subscribe(running.id, history=True)
        for event in observed:
            assert event.kind == "status"
            other.unsubscribe(observed)
        running.cancel()


def test_a_session_is_watched_and_kept(url: str) -> None:
    store = MemoryStore()
    kinds: list[str] = []
    with sync.connect(url, token=TOKEN, store=store) as session:
        assert (session.state, session.cursor, session.stored_jobs) == ("attached", 0, [])
        job = session.submit("sleep")

        def watch() -> None:
            kinds.extend(type(change).__name__ for change in session.watch())

        watching = threading.Thread(target=watch)
        watching.start()
        for event in job:
            if event.kind == "status":
                job.cancel()
        for _ in range(500):  # The end counts a turn after the loop has come to it.
            if session.cursor > event.seq:
                break
            time.sleep(0.01)
        assert (event.kind, session.cursor) == ("log", event.seq + 1)
        job = session.submit("sleep")
        session.close()
        watching.join()
        assert (session.state, session.cursor) == ("closed", 0)
    assert kinds == []
    with sync.connect(url, token=TOKEN, store=store) as session:
        assert session.stored_jobs == [job.id]
        again = session.attach(job.id)
        again.cancel()
        with pytest.raises(JobCancelled):
            again.result()
    assert store.load() is None


def test_a_child() -> None:
    with sync.connect_stdio([sys.executable, "-m", "tests.io.apps", "asyncio"], token=TOKEN) as session:
        assert session.submit("echo", [1]).result() == [1]


def test_importing_is_lazy() -> None:
    code = (
        "import sys, arcp_io\n"
        "assert not {'trio', 'asyncio', 'anyio', 'websockets', 'msgspec'} & set(sys.modules)\n"
        "assert 'connect' in dir(arcp_io)\n"
        "for name in arcp_io.__all__: getattr(arcp_io, name)\n"
        "import arcp_io.cli.serve, arcp_io.agents.isolation.child, arcp_io.agents.isolation.parent\n"
        "assert 'trio' not in sys.modules and 'arcp_io.drivers.trio' not in sys.modules\n"
        "assert 'arcp_io.drivers.asyncio.loop' not in sys.modules\n"
        "try: arcp_io.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'arcp_io' has no attribute 'nothing'\n"
