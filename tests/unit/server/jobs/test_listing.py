"""Listing: newest first, page by page, by filters, with cursors that only their key can make (§6.6)."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arcp_proto.errors import ErrorCode, InvariantViolated, Refusal
from arcp_proto.ids import MILLISECOND, SECOND, JobId, Principal, SessionId, UnixTime
from arcp_proto.job_statuses import JobStatus
from arcp_proto.server.jobs.job import LIFECYCLE, Job, Terms
from arcp_proto.server.jobs.listing import Cursors, Everybody, Filter, Listing, page
from arcp_proto.wire.messages import JobFilter
from arcp_proto.wire.trace_context import TraceContext

ALICE, BOB, CAROL = Principal("alice"), Principal("bob"), Principal("carol")
PRINCIPALS: Final = (ALICE, BOB, CAROL)
ALL_OWNERS: Final = Everybody()
TENANTS: Final = {ALICE: "", BOB: "", CAROL: "other"}
"""The tenants of principals in the test against a model."""
WORDS: Final = (*JobStatus, "paused")
"""The statuses, and a word that is not a status."""
ALL: Final = Filter()
KEY: Final = bytes(range(32))


def job_of(
    number: int,
    principal: Principal = ALICE,
    status: JobStatus = JobStatus.PENDING,
    *,
    agent: str = "echo",
    version: str | None = "1.0.0",
    at: int = 0,
    tenant: str = "",
) -> Job:
    terms = Terms(
        job_id=JobId(f"job_{number}"),
        session_id=SessionId("sess_x"),
        principal=principal,
        agent=agent,
        version=version,
        lease={},
        expires_at=None,
        max_runtime_sec=None,
        trace=TraceContext("a" * 32),
        span_id="b" * 16,
        accepted_at=UnixTime(at),
        tenant=tenant,
    )
    job = Job(number, terms, {})
    job.status = status
    return job


def listing_of(*jobs: Job) -> Listing:
    listing = Listing()
    for job in jobs:
        listing.add(job)
    return listing


def numbers(found: tuple[list[Job], int | None]) -> list[int]:
    return [job.number for job in found[0]]


class Counting(Listing):
    """A listing that counts the jobs that it examines."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = 0

    def job(self, number: int) -> Job:
        self.looked += 1
        return super().job(number)


# Pages.


def test_an_empty_index_lists_no_jobs() -> None:
    assert page(Listing(), ALL_OWNERS, ALL, None, 10, 10) == ([], None)
    assert page(Listing(), [ALICE, BOB], Filter(("running",)), 7, 10, 10) == ([], None)
    assert len(Listing()) == 0


def test_pages_go_from_the_newest_job_downwards() -> None:
    listing = listing_of(*(job_of(number) for number in range(1, 8)))
    assert len(listing) == 7
    first = page(listing, [ALICE], ALL, None, 3, 10)
    assert (numbers(first), first[1]) == ([7, 6, 5], 5)
    second = page(listing, [ALICE], ALL, first[1], 3, 10)
    assert (numbers(second), second[1]) == ([4, 3, 2], 2)
    third = page(listing, [ALICE], ALL, second[1], 3, 10)
    assert (numbers(third), third[1]) == ([1], None)


def test_a_full_last_page_has_no_next_cursor() -> None:
    listing = listing_of(job_of(1), job_of(2))
    assert page(listing, [ALICE], ALL, None, 2, 10)[1] is None
    assert page(listing, [ALICE], ALL, None, 1, 10)[1] == 2


def test_new_and_forgotten_jobs_do_not_move_a_page() -> None:
    jobs = [job_of(number) for number in range(1, 7)]
    listing = listing_of(*jobs)
    _, below = page(listing, [ALICE], ALL, None, 2, 10)
    listing.add(job_of(7))
    listing.remove(jobs[4])  # The job that the cursor stands at.
    listing.remove(jobs[2])
    assert numbers(page(listing, [ALICE], ALL, below, 10, 10)) == [4, 2, 1]


@pytest.mark.parametrize("late", [1, 2, 256, 257, 512, 513])
def test_a_job_that_comes_out_of_order_among_many_is_listed_once(late: int) -> None:
    running = Filter(("running",))
    jobs = [job_of(number, status=JobStatus.RUNNING) for number in range(1, 514)]
    listing = listing_of(*(job for job in jobs if job.number != late))
    listing.add(jobs[late - 1])
    assert numbers(page(listing, [ALICE], running, None, 600, 600)) == list(range(513, 0, -1))
    for job in jobs:
        listing.remove(job)
    assert page(listing, [ALICE], running, None, 600, 600) == ([], None)


def test_a_page_lists_only_the_given_owners() -> None:
    listing = listing_of(job_of(1), job_of(2, BOB), job_of(3, CAROL), job_of(4), job_of(5, BOB))
    assert numbers(page(listing, [ALICE], ALL, None, 10, 10)) == [4, 1]
    assert numbers(page(listing, [BOB, ALICE, BOB], ALL, None, 10, 10)) == [5, 4, 2, 1]
    assert numbers(page(listing, ALL_OWNERS, ALL, None, 10, 10)) == [5, 4, 3, 2, 1]
    assert numbers(page(listing, [], ALL, None, 10, 10)) == []
    assert numbers(page(listing, [Principal("dave")], ALL, None, 10, 10)) == []
    both = page(listing, [ALICE, BOB], ALL, 5, 2, 10)
    assert (numbers(both), both[1]) == ([4, 2], 2)


def test_an_index_follows_the_status_of_jobs() -> None:
    jobs = [job_of(number) for number in range(1, 4)]
    listing = listing_of(*jobs)
    for job in (jobs[2], jobs[0]):
        job.status = JobStatus.RUNNING
        listing.changed(job, JobStatus.PENDING)
    assert numbers(page(listing, [ALICE], Filter(("running",)), None, 10, 10)) == [3, 1]
    assert numbers(page(listing, ALL_OWNERS, Filter(("pending",)), None, 10, 10)) == [2]
    assert numbers(page(listing, [ALICE], Filter(("pending", "running")), None, 2, 10)) == [3, 2]
    assert numbers(page(listing, [ALICE], Filter(("paused", "running")), None, 10, 10)) == [3, 1]
    assert page(listing, [ALICE], Filter(("paused",)), None, 10, 10) == ([], None)
    assert page(listing, [ALICE], Filter(()), None, 10, 10) == ([], None)
    listing.remove(jobs[2])
    assert numbers(page(listing, [ALICE], Filter(("running",)), None, 10, 10)) == [1]


def test_removing_a_job_that_is_not_listed_raises() -> None:
    listing = listing_of(job_of(1), job_of(3))
    with pytest.raises(InvariantViolated, match="listed once"):
        listing.add(job_of(3))
    with pytest.raises(InvariantViolated, match="not listed"):
        listing.changed(job_of(2), JobStatus.PENDING)
    with pytest.raises(InvariantViolated, match="one job at least"):
        page(listing, ALL_OWNERS, ALL, None, 0, 10)


@pytest.mark.parametrize("count", [200, 20_000])
def test_a_page_looks_only_at_the_jobs_shown(count: int) -> None:
    listing = Counting()
    statuses = [JobStatus.RUNNING, JobStatus.SUCCESS]
    for number in range(1, count + 1):
        listing.add(job_of(number, PRINCIPALS[number % 3], statuses[number % 10 == 0]))
    below = count // 2
    rare = Filter(("success",))
    for owners in ([ALICE], [ALICE, BOB], ALL_OWNERS):
        for filter in (ALL, rare, Filter(("running", "success"))):
            listing.looked = 0
            found, more = page(listing, owners, filter, below, 2, 1)
            assert (len(found), more, listing.looked) == (2, found[-1].number, 2)


def test_a_filter_beyond_the_index_searches_a_limited_number_a_page() -> None:
    listing = Counting()
    for number in range(1, 101):
        listing.add(job_of(number, agent="rare" if number in (3, 50, 95) else "echo"))
    filter, below, seen = Filter(agent="rare"), None, []
    for _ in range(10):
        listing.looked = 0
        found, below = page(listing, [ALICE], filter, below, 10, 10)
        assert listing.looked == 10
        seen.append([job.number for job in found])
    assert below is None
    assert seen == [[95], [], [], [], [], [50], [], [], [], [3]]


# Filters.


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        (Filter(agent="echo"), [3, 2, 1]),
        (Filter(agent="echo@1.0.0"), [1]),
        (Filter(agent="echo@2.0.0"), [3, 2]),
        (Filter(agent="echo@2"), []),
        (Filter(agent="plain"), [4]),
        (Filter(agent="plain@1.0.0"), []),
        (Filter(agent="ech"), []),
        (Filter(("running",), agent="echo"), [3]),
        (Filter(created_after=UnixTime(1 * SECOND)), [4, 3, 2]),
        (Filter(created_before=UnixTime(3 * SECOND)), [2, 1]),
        (Filter(created_after=UnixTime(1 * SECOND), created_before=UnixTime(3 * SECOND)), [2]),
        (Filter(created_after=UnixTime(2 * SECOND + MILLISECOND)), [4, 3]),
        (Filter(created_before=UnixTime(2 * SECOND + MILLISECOND)), [1]),
    ],
)
def test_a_filter_matches_status_agent_and_times(filter: Filter, found: list[int]) -> None:
    jobs = [
        job_of(1, at=1 * SECOND),
        job_of(2, version="2.0.0", at=2 * SECOND + MILLISECOND + 999_999),  # Written as 2.001.
        job_of(3, status=JobStatus.RUNNING, version="2.0.0", at=3 * SECOND),
        job_of(4, agent="plain", version=None, at=4 * SECOND),
    ]
    assert numbers(page(listing_of(*jobs), [ALICE], filter, None, 10, 10)) == found
    assert [job.number for job in reversed(jobs) if filter.matches(job)] == found
    assert not filter.indexed


def test_a_filter_is_read_from_a_request() -> None:
    assert Filter.of(None) == Filter.of(JobFilter()) == ALL
    assert ALL.indexed
    asked = JobFilter(
        ["running", "pending", "running"], "echo", "1970-01-01T00:00:01Z", "1970-01-01T01:00:02+01:00"
    )
    assert Filter.of(asked) == Filter(("pending", "running"), "echo", UnixTime(SECOND), UnixTime(2 * SECOND))
    assert Filter.of(JobFilter(status=[])) == Filter(())
    assert Filter.of(JobFilter(status=["paused"])).indexed


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1970-01-01", "2026-02-30T00:00:00Z", "2026-01-01T00:00:60Z"]
)
@pytest.mark.parametrize("name", ["created_after", "created_before"])
def test_a_filter_with_a_wrong_time_is_refused(name: str, text: str) -> None:
    with pytest.raises(Refusal, match=name) as refused:
        Filter.of(msgspec.convert({name: text}, JobFilter))
    assert refused.value.code is ErrorCode.INVALID_REQUEST


# Cursors.


FILTERS: Final = (
    ALL,
    Filter(()),
    Filter(("running",)),
    Filter(("pending", "running")),
    Filter(agent="running"),
    Filter(agent=""),
    Filter(created_after=UnixTime(1)),
    Filter(created_before=UnixTime(1)),
    Filter.of(JobFilter(created_before="9999-12-31T23:59:59Z")),
    Filter.of(JobFilter(created_before="0001-01-01T00:00:00Z")),
)


@given(st.integers(0, 2**64 - 1), st.sampled_from(FILTERS), st.text(max_size=5))
def test_a_cursor_is_read_back(number: int, filter: Filter, name: str) -> None:
    cursors, principal = Cursors(KEY), Principal(name)
    cursor = cursors.write(principal, filter, number)
    assert Cursors(KEY).read(cursor, principal, filter) == number
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_a_cursor_is_valid_for_one_key_principal_and_filter() -> None:
    made = [
        (key, principal, filter, Cursors(key).write(principal, filter, 77))
        for key in (KEY, KEY[::-1])
        for principal in (ALICE, BOB, Principal(""))
        for filter in FILTERS
    ]
    assert len({cursor for *_, cursor in made}) == len(made)
    for *_, cursor in made[1:]:
        with pytest.raises(Refusal, match="cursor") as refused:
            Cursors(KEY).read(cursor, ALICE, ALL)
        assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_the_order_of_statuses_does_not_change_a_cursor() -> None:
    one, other = JobFilter(["pending", "running"]), JobFilter(["running", "pending", "pending"])
    cursors = Cursors(KEY)
    assert cursors.read(cursors.write(ALICE, Filter.of(one), 5), ALICE, Filter.of(other)) == 5


def test_a_cursor_does_not_tell_how_many_jobs_there_are() -> None:
    cursors = Cursors(KEY)
    first = [base64.urlsafe_b64decode(cursors.write(ALICE, ALL, number))[:8] for number in range(200)]
    assert len(set(first)) == 200
    assert not any(place[:4] == bytes(4) for place in first)


def test_a_forged_cursor_is_refused() -> None:
    cursors = Cursors(KEY)
    good = cursors.write(ALICE, ALL, 1_000)
    raw = base64.urlsafe_b64decode(good)
    flipped = [raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :] for i in range(len(raw))]
    forged = [
        base64.urlsafe_b64encode(each).decode() for each in (*flipped, raw + b"x", raw[:-1], raw[:8], b"")
    ]
    forged += [
        "",
        "x",
        "!",
        good + "=",
        good + "\n",
        " " + good,
        good[:-1],
        good * 2,
        "ä" * 32,
        "\ud800",
        "0" * 10_000,
    ]
    for cursor in forged:
        with pytest.raises(Refusal, match="cursor"):
            cursors.read(cursor, ALICE, ALL)
    assert cursors.read(good, ALICE, ALL) == 1_000


@pytest.mark.parametrize("length", [0, 15, 65])
def test_a_cursor_key_of_a_wrong_length_raises(length: int) -> None:
    with pytest.raises(InvariantViolated, match="key"):
        Cursors(bytes(length))


def test_all_principals_of_a_tenant_are_those_whose_jobs_name_it() -> None:
    listing = listing_of(job_of(1), job_of(2, BOB, tenant="t"), job_of(3, tenant="t"))
    assert numbers(page(listing, Everybody("t"), ALL, None, 10, 10)) == [3, 2]
    assert numbers(page(listing, ALL_OWNERS, ALL, None, 10, 10)) == [1]
    assert numbers(page(listing, Everybody("none"), ALL, None, 10, 10)) == []
    listing.add(job_of(4, CAROL, tenant="t"))
    listing.remove(listing.job(3))
    assert numbers(page(listing, Everybody("t"), ALL, None, 10, 10)) == [4, 2]


def test_a_cursor_of_a_guest_is_valid_in_one_tenant() -> None:
    cursors = Cursors(KEY)
    cursor = cursors.write(ALICE, ALL, 7, "t")
    assert cursors.read(cursor, ALICE, ALL, "t") == 7
    for visited in (None, "", "u"):
        with pytest.raises(Refusal) as caught:
            cursors.read(cursor, ALICE, ALL, visited)
        assert caught.value.code is ErrorCode.INVALID_REQUEST


# Against a plain model.


def is_owned(job: Job, owners: Sequence[Principal] | Everybody) -> bool:
    if isinstance(owners, Everybody):
        return job.terms.tenant == owners.tenant
    return job.terms.principal in owners


class ListingMachine(RuleBasedStateMachine):
    """Jobs that come, change and go; a sort of all jobs gives the same pages."""

    def __init__(self) -> None:
        super().__init__()
        self.listing = Listing()
        self.jobs: dict[int, Job] = {}
        self.last = 0
        self.cursors = Cursors(KEY)

    @rule(
        principal=st.sampled_from(PRINCIPALS),
        agent=st.sampled_from(["echo", "plain"]),
        count=st.sampled_from([1, 5, 550]),
    )
    def add(self, principal: Principal, agent: str, count: int) -> None:
        for _ in range(count):
            self.last += 1
            job = self.jobs[self.last] = job_of(
                self.last,
                principal,
                agent=agent,
                at=self.last // 3 * SECOND,
                tenant=TENANTS[principal],
            )
            self.listing.add(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), step=st.integers(1, 7))
    def change(self, data: st.DataObject, step: int) -> None:
        start = data.draw(st.integers(0, self.last))
        to = data.draw(st.sampled_from(JobStatus))
        for number in reversed(range(start, self.last + 1, step)):
            job = self.jobs.get(number)
            if job is not None and to in LIFECYCLE[job.status]:
                before = job.status
                job.status = to
                self.listing.changed(job, before)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), step=st.integers(1, 3))
    def remove(self, data: st.DataObject, step: int) -> None:
        start = data.draw(st.integers(0, self.last))
        for number in range(start, min(start + 1_000, self.last + 1), step):
            job = self.jobs.pop(number, None)
            if job is not None:
                self.listing.remove(job)

    @rule(
        owners=st.sampled_from([Everybody(), Everybody("other"), Everybody("none")])
        | st.lists(st.sampled_from(PRINCIPALS), max_size=3),
        statuses=st.none() | st.lists(st.sampled_from(WORDS), max_size=3),
        agent=st.none() | st.sampled_from(["echo", "plain@1.0.0", "none"]),
        after=st.none() | st.integers(0, 300),
        limit=st.sampled_from([5, 60, 400]),
        scan=st.sampled_from([7, 90, 400]),
    )
    def walk(
        self,
        owners: Sequence[Principal] | Everybody,
        statuses: list[str] | None,
        agent: str | None,
        after: int | None,
        limit: int,
        scan: int,
    ) -> None:
        filter = Filter(
            None if statuses is None else tuple(statuses),
            agent,
            None if after is None else UnixTime(after * SECOND),
        )
        expected = [
            job.number
            for job in reversed(self.jobs.values())
            if is_owned(job, owners) and filter.matches(job)
        ]
        found: list[int] = []
        below: int | None = None
        for _ in range(len(self.jobs) + 1):
            jobs, below = page(self.listing, owners, filter, below, limit, scan)
            found += [job.number for job in jobs]
            assert len(jobs) <= (limit if filter.indexed else min(limit, scan))
            assert len(jobs) == limit or below is None or not filter.indexed
            if below is None:
                break
            below = self.cursors.read(self.cursors.write(ALICE, filter, below), ALICE, filter)
        assert below is None
        assert found == expected

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.listing) == len(self.jobs)
        numbers = (self.listing.below(Everybody(tenant), None, None) for tenant in ("", "other"))
        assert sorted(itertools.chain(*numbers)) == [*self.jobs]


TestListing = ListingMachine.TestCase
