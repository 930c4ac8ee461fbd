"""Listings over the wire: their entries, the order of these, and pages."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import msgspec
import pytest

from arcp_proto.ids import SECOND
from arcp_proto.limits import MAX_ID_LENGTH, Limits
from arcp_proto.server.dispatch import PAGE_BYTES
from arcp_proto.server.jobs.listing import Filter
from arcp_proto.wire import codec
from arcp_proto.wire.messages import JobFilter
from tests.unit.world import CONFIG, UNIX, Peer, World

QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)
SECRETLY = {"bob": {"alice": "list", "carol": "observe"}}
TOKENS = {"tok-alice": "alice", "tok-bob": "bob", "tok-carol": "carol"}


def listed(peer: Peer, **request: Any) -> dict[str, Any]:
    """Return a page of a listing."""
    [frame] = peer.send("session.list_jobs", request)
    assert frame["type"] == "session.jobs", frame
    assert "event_seq" not in frame
    page: dict[str, Any] = frame["payload"]
    return page


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["job_id"] for entry in page["jobs"]]


def pages(peer: Peer, **request: Any) -> list[list[str]]:
    """Return all pages of a listing, each as the ids of its jobs."""
    found = []
    cursor = None
    while True:
        page = listed(peer, **request, **({} if cursor is None else {"cursor": cursor}))
        found.append(ids(page))
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def refused(peer: Peer, **request: Any) -> str:
    [frame] = peer.send("session.list_jobs", request)
    assert frame["type"] == "session.error"
    code: str = frame["payload"]["code"]
    return code


def test_a_listing_without_jobs_is_empty(peer: Peer) -> None:
    [frame] = peer.send("session.list_jobs", id="l1")
    assert frame["payload"] == {"request_id": "l1", "jobs": [], "next_cursor": None}


def test_a_listing_entry_describes_its_job(world: World, peer: Peer) -> None:
    lease = {"tool.call": ["x"]}
    job = peer.submit(lease_request=lease)
    world.emit(job)
    world.emit(job)
    [entry] = listed(peer)["jobs"]
    assert entry == {
        "job_id": job,
        "agent": "echo@2.0.0",
        "status": "running",
        "lease": lease,
        "created_at": "2026-05-28T20:26:40.000Z",
        "submitted_at": "2026-05-28T20:26:40.000Z",
        "last_event_seq": 2,
        "trace_id": peer.of("job.accepted")[0]["trace_id"],
    }


def test_jobs_are_listed_newest_first_even_if_the_clock_went_back(world: World, peer: Peer) -> None:
    first = peer.submit()
    world.runtime.wall_clock_set(UNIX + 3_600 * SECOND, now=world.now)
    second = peer.submit()
    world.runtime.wall_clock_set(UNIX, now=world.now)
    third = peer.submit()
    assert ids(listed(peer)) == [third, second, first]


def test_jobs_of_other_sessions_of_the_principal_are_listed(world: World) -> None:
    job = world.client().submit()
    assert ids(listed(world.client())) == [job]
    assert ids(listed(world.client("tok-bob"))) == []


@pytest.mark.parametrize("right", ["list", "observe"])
def test_visible_jobs_of_other_principals_are_merged(right: str) -> None:
    world = World(QUIET, observers={"bob": {"alice": right}}, tokens=TOKENS)
    alice, bob, carol = (world.client(token) for token in TOKENS)
    jobs = [peer.submit() for peer in (alice, bob, carol, alice, bob)]
    assert ids(listed(bob)) == [jobs[4], jobs[3], jobs[1], jobs[0]]
    assert ids(listed(alice)) == [jobs[3], jobs[0]]
    assert pages(bob, limit=3) == [[jobs[4], jobs[3], jobs[1]], [jobs[0]]]


def test_the_right_to_all_owners_lists_all_jobs() -> None:
    world = World(QUIET, observers={"bob": {"*": "list"}}, tokens=TOKENS)
    alice, bob, carol = (world.client(token) for token in TOKENS)
    jobs = [peer.submit() for peer in (alice, carol, bob)]
    assert ids(listed(bob)) == jobs[::-1]


def test_two_rights_are_merged_with_own_jobs() -> None:
    world = World(QUIET, observers=SECRETLY, tokens=TOKENS)
    alice, bob, carol = (world.client(token) for token in TOKENS)
    jobs = [peer.submit() for peer in (carol, alice, bob)]
    assert ids(listed(bob)) == jobs[::-1]


def test_rights_change_what_is_listed() -> None:
    world = World(QUIET)
    job = world.client().submit()
    bob = world.client("tok-bob")
    assert ids(listed(bob)) == []
    world.runtime.observers_set({"bob": {"alice": "list"}}, now=world.now)
    world.take()
    assert ids(listed(bob)) == [job]


# Pages.


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_pages_are_whole_and_never_overlap(peer: Peer, limit: int, sizes: list[int]) -> None:
    jobs = [peer.submit() for _ in range(5)]
    found = pages(peer, limit=limit)
    assert [len(page) for page in found] == sizes
    assert list(chain(*found)) == jobs[::-1]


@pytest.mark.parametrize(("limit", "size"), [(-5, 1), (0, 1), (None, 100), (150, 150), (5_000, 200)])
def test_the_limit_of_a_page_is_clamped(limit: int | None, size: int) -> None:
    world = World(QUIET, limits=Limits(max_page_jobs=200))
    peer = world.client()
    for _ in range(230):
        peer.submit()
    request = {} if limit is None else {"limit": limit}
    page = listed(peer, **request)
    assert len(page["jobs"]) == size
    assert page["next_cursor"] is not None


def test_new_jobs_do_not_appear_in_later_pages(peer: Peer) -> None:
    jobs = [peer.submit() for _ in range(4)]
    page = listed(peer, limit=2)
    peer.submit()
    assert ids(listed(peer, limit=2, cursor=page["next_cursor"])) == [jobs[1], jobs[0]]


def test_a_cursor_stays_valid_when_its_job_is_forgotten() -> None:
    world = World(QUIET, limits=Limits(retention_sec=10))
    peer = world.client()
    jobs = [peer.submit() for _ in range(4)]
    page = listed(peer, limit=2)
    world.finish(jobs[2])
    world.finish(jobs[3])
    world.advance(11)
    assert ids(listed(peer, cursor=page["next_cursor"])) == [jobs[1], jobs[0]]


def test_a_cursor_is_valid_in_another_session_and_with_another_limit(world: World, peer: Peer) -> None:
    jobs = [peer.submit() for _ in range(4)]
    cursor = listed(peer, limit=1)["next_cursor"]
    assert ids(listed(world.client(), cursor=cursor)) == jobs[2::-1]


def test_a_cursor_is_bound_to_its_principal_and_filter(world: World, peer: Peer) -> None:
    for _ in range(3):
        peer.submit()
    cursor = listed(peer, limit=1)["next_cursor"]
    assert refused(world.client("tok-bob"), cursor=cursor) == "INVALID_REQUEST"
    assert refused(peer, cursor=cursor, filter={"agent": "echo"}) == "INVALID_REQUEST"
    assert refused(peer, cursor=cursor[:-2] + "xx") == "INVALID_REQUEST"
    assert refused(peer, cursor="é") == "INVALID_REQUEST"
    assert refused(peer, cursor="x" * 5_000) == "INVALID_REQUEST"


def test_a_page_that_does_not_fit_a_frame_ends_early(peer: Peer) -> None:
    lease = {"tool.call": [f"{number:03}" + "x" * 440 for number in range(32)]}
    jobs = [peer.submit(lease_request=lease) for _ in range(9)]
    found = pages(peer)
    assert list(chain(*found)) == jobs[::-1]
    assert [len(page) for page in found] == [4, 4, 1]
    assert max(map(len, peer.raw)) <= 60 * 1024


SMALL_FRAME = 32 * 1024


def four_jobs(length: int) -> Peer:
    """Return a client with four jobs: an old one, one whose last pattern has this length, two large ones."""
    world = World(QUIET, limits=Limits(max_envelope_bytes=SMALL_FRAME))
    peer = world.client()
    for patterns, last in ((0, 1), (2, length), (31, 440), (31, 440)):
        lease = [*(f"{number:03}" + "x" * 440 for number in range(patterns)), "y" * last]
        peer.submit(lease_request={"tool.call": lease})
    return peer


def length_that_fills_a_page() -> int:
    """Return the length with which three entries of `four_jobs` take all bytes of a page."""
    entries = listed(four_jobs(1), limit=3)["jobs"]
    room = SMALL_FRAME - codec.HEAD_BYTES - PAGE_BYTES
    return 1 + room - sum(len(codec.encode_value(entry)) + 1 for entry in entries)


def test_a_page_holds_an_entry_that_fits_to_the_byte() -> None:
    length = length_that_fills_a_page()
    assert [len(page) for page in pages(four_jobs(length))] == [3, 1]
    assert [len(page) for page in pages(four_jobs(length + 1))] == [2, 2]


def test_a_full_page_fits_a_frame_with_any_request_id() -> None:
    """Send an id each of whose characters takes six bytes as JSON."""
    peer = four_jobs(length_that_fills_a_page())
    [page] = peer.send("session.list_jobs", id="\x01" * MAX_ID_LENGTH)
    assert len(page["payload"]["jobs"]) == 3 and page["payload"]["next_cursor"]
    assert len(peer.raw[-1]) <= SMALL_FRAME


# Filters.


def statuses(world: World, peer: Peer) -> dict[str, str]:
    """Return a job in each status but pending, which lasts for no time."""
    jobs = {name: peer.submit(max_runtime_sec=5) for name in ("timed_out", "success", "error", "cancelled")}
    world.finish(jobs["success"])
    world.fail(jobs["error"])
    peer.cancel(jobs["cancelled"])
    world.stopped(jobs["cancelled"])
    world.advance(5)
    world.stopped(jobs["timed_out"])
    jobs["running"] = peer.submit()
    return dict(jobs)


@pytest.mark.parametrize("status", ["success", "error", "cancelled", "timed_out", "running"])
def test_jobs_are_filtered_by_status(status: str) -> None:
    world = World(QUIET)
    peer = world.client()
    jobs = statuses(world, peer)
    assert ids(listed(peer, filter={"status": [status]})) == [jobs[status]]
    assert ids(listed(peer, filter={"status": status})) == [jobs[status]]


def test_an_unknown_status_in_a_filter_matches_nothing() -> None:
    world = World(QUIET)
    peer = world.client()
    jobs = statuses(world, peer)
    page = listed(peer, filter={"status": ["error", "zork", "running", "error"]})
    assert ids(page) == [jobs["running"], jobs["error"]]
    assert ids(listed(peer, filter={"status": ["zork"]})) == []
    assert ids(listed(peer, filter={"status": []})) == []


def test_a_filter_names_at_most_16_statuses() -> None:
    world = World(QUIET)
    peer = world.client()
    jobs = statuses(world, peer)
    words = ["error", *(f"word{number}" for number in range(15))]
    assert ids(listed(peer, filter={"status": words})) == [jobs["error"]]
    [refused] = peer.send("session.list_jobs", {"filter": {"status": [*words, "success"]}})
    assert refused["payload"]["code"] == "INVALID_REQUEST"
    assert refused["payload"]["details"].items() >= {"limit": "filter_status", "max": 16}.items()


def test_a_filter_looks_at_no_more_words_than_there_are_statuses() -> None:
    assert Filter.of(JobFilter(["zork", "running", "success", "running", "x"])).statuses == (
        "running",
        "success",
    )


def test_jobs_are_filtered_by_agent_with_and_without_version(peer: Peer) -> None:
    one, two, plain = peer.submit("echo@1.0.0"), peer.submit("echo"), peer.submit("plain")
    assert ids(listed(peer, filter={"agent": "echo"})) == [two, one]
    assert ids(listed(peer, filter={"agent": "echo@1.0.0"})) == [one]
    assert ids(listed(peer, filter={"agent": "plain"})) == [plain]
    assert ids(listed(peer, filter={"agent": "zork"})) == []


def test_jobs_are_filtered_by_exclusive_times() -> None:
    world = World(QUIET)
    peer = world.client()
    jobs = []
    for _ in range(3):
        jobs.append(peer.submit())
        world.advance(1)
        peer.send("session.ping", {"nonce": "n"})
    at = [entry["created_at"] for entry in listed(peer)["jobs"]][::-1]
    assert all(one < two for one, two in pairwise(at))
    assert ids(listed(peer, filter={"created_after": at[0]})) == [jobs[2], jobs[1]]
    assert ids(listed(peer, filter={"created_before": at[2]})) == [jobs[1], jobs[0]]
    assert ids(listed(peer, filter={"created_after": at[0], "created_before": at[2]})) == [jobs[1]]
    assert refused(peer, filter={"created_after": "yesterday"}) == "INVALID_REQUEST"


def test_a_filter_that_matches_little_searches_a_limited_number_of_jobs() -> None:
    world = World(QUIET, limits=Limits(max_page_jobs=10))
    peer = world.client()
    rare = peer.submit("plain")
    for _ in range(25):
        peer.submit("echo")
    found = pages(peer, filter={"agent": "plain"})
    assert found == [[], [], [rare]]


# The lifetime of entries and cursors.


def test_a_finished_job_is_listed_during_its_retention() -> None:
    world = World(QUIET)
    peer = world.client()
    job = peer.submit()
    world.finish(job)
    world.advance(599)
    assert ids(listed(peer)) == [job]
    world.advance(1)
    assert ids(listed(peer)) == []


def test_a_listing_survives_a_restart() -> None:
    world = World(QUIET, journal=True)
    peer = world.client()
    jobs = [peer.submit() for _ in range(3)]
    world.finish(jobs[0])
    before = listed(peer)["jobs"]
    world.restart()
    again = world.resumed(peer, 0)
    jobs.append(again.submit())
    after = listed(again)["jobs"]
    assert [entry["job_id"] for entry in after] == jobs[::-1]
    assert [entry["status"] for entry in after] == ["running", "error", "error", "success"]
    assert after[-1] == before[-1]


def test_a_cursor_survives_a_restart() -> None:
    world = World(QUIET, journal=True)
    peer = world.client()
    jobs = [peer.submit() for _ in range(3)]
    cursor = listed(peer, limit=1)["next_cursor"]
    for _ in range(2):
        world.restart()
    again = world.resumed(peer, 0)
    assert ids(listed(again, cursor=cursor)) == jobs[1::-1]
    assert refused(again, cursor=cursor[:-2] + "xx") == "INVALID_REQUEST"
    assert ids(listed(again, cursor=listed(again, limit=2)["next_cursor"])) == jobs[:1]


def submit(world: World, count: int) -> None:
    """Submit a number of jobs, one a second."""
    peer = world.client()
    for _ in range(count):
        world.advance(1)
        peer.submit()


@pytest.mark.parametrize(
    ("jobs", "request_", "cost"),
    [
        (49, {}, 1),
        (50, {}, 2),
        (120, {}, 3),  # A page has 100 jobs.
        (120, {"limit": 40}, 1),
        (120, {"limit": 1, "filter": {"agent": "echo"}}, 3),
        (120, {"filter": {"agent": "nothing"}}, 3),
    ],
)
def test_a_listing_counts_as_requests_by_the_jobs_searched(
    jobs: int, request_: dict[str, Any], cost: int
) -> None:
    limits = Limits(max_requests_per_sec=30, max_principal_requests_per_sec=10_000)
    world = World(QUIET, limits=limits)
    submit(world, jobs)
    peer = world.client()
    listed(peer, **request_)
    for number in range(60 - cost):  # A burst may have twice the number of a second.
        assert peer.send("session.ping", {"nonce": f"{number}"})[0]["type"] == "session.pong"
    [frame] = peer.send("session.ping", {"nonce": "late"})
    assert (frame["type"], frame["payload"]["details"]["limit"]) == ("session.error", "requests_per_sec")


def test_a_listing_counts_at_most_a_second_of_requests() -> None:
    limits = Limits(max_requests_per_sec=1, max_principal_requests_per_sec=10_000)
    world = World(QUIET, limits=limits)
    submit(world, 200)
    peer = world.client()
    assert len(ids(listed(peer))) == 100
    world.advance(1)
    assert len(ids(listed(peer))) == 100
