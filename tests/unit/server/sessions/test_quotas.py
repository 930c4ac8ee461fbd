"""Quotas: the sums of events that principals hold, the limits, and the events that go first (§6.5)."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import SECOND, JobId, Monotonic, Principal, SessionId
from arcp_proto.limits import Limits
from arcp_proto.server.sessions.event_log import History, Log
from arcp_proto.server.sessions.quotas import Holder, Holdings
from arcp_proto.wire.envelopes import Entry

ALICE, BOB = Principal("alice"), Principal("bob")
PRINCIPALS: Final = (ALICE, BOB, Principal("carol"))
WIDE: Final = Limits()


def log_of(name: str, *times: int, size: int = 10) -> Log:
    """Return a log with one event of this size at each of these seconds."""
    log = Log(SessionId(name))
    for at in times:
        log.append(Entry(b"head", b"x" * size), size, Monotonic(at * SECOND))
    return log


def history_of(name: str, *times: int, size: int = 10) -> History:
    history = History(JobId(name))
    for number, at in enumerate(times):
        history.append(b"x" * size, number + 1, None, size, Monotonic(at * SECOND))
    return history


def holdings_of(limits: Limits, **holders: list[Holder]) -> Holdings:
    holdings = Holdings(limits)
    for principal, each in holders.items():
        for holder in each:
            holdings.add(Principal(principal), holder)
    return holdings


def test_accounts_without_principals_are_empty() -> None:
    holdings = Holdings(WIDE)
    assert (len(holdings), holdings.events, holdings.size, holdings.of(ALICE)) == (0, 0, 0, (0, 0))
    assert not holdings.over
    assert holdings.crowded() is None
    with pytest.raises(InvariantViolated, match="no principal"):
        holdings.largest()


def test_logs_and_histories_count_together() -> None:
    log, history = log_of("s", 1, 2), history_of("j", 1, size=5)
    holdings = holdings_of(WIDE, alice=[log, history], bob=[log_of("t", 1)])
    assert holdings.of(ALICE) == (3, 25)
    assert (holdings.events, holdings.size, len(holdings)) == (4, 35, 2)
    log.append(Entry(b"head", b"abc"), 3, Monotonic(0))
    holdings.changed(ALICE, 1, 3)
    assert holdings.of(ALICE) == (4, 28)
    holdings.remove(ALICE, log)
    assert holdings.of(ALICE) == (1, 5)
    holdings.remove(ALICE, history)
    assert (holdings.of(ALICE), holdings.of(BOB), len(holdings)) == ((0, 0), (1, 10), 1)
    assert (holdings.events, holdings.size) == (1, 10)


def test_a_wrong_sum_raises_invariant_violated() -> None:
    log = log_of("s", 1)
    holdings = holdings_of(WIDE, alice=[log])
    with pytest.raises(InvariantViolated, match="added once"):
        holdings.add(ALICE, log)
    holdings.changed(ALICE, 1, 0)
    with pytest.raises(InvariantViolated, match="sum"):
        holdings.remove(ALICE, log)


@pytest.mark.parametrize("limits", [Limits(max_principal_events=2), Limits(max_principal_bytes=29)])
def test_a_principal_is_crowded_while_it_is_above_its_limit(limits: Limits) -> None:
    holdings = holdings_of(limits, alice=[log_of("s", 1, 1)], bob=[log_of("t", 1)])
    assert (holdings.over, holdings.crowded()) == (False, None)
    holdings.changed(ALICE, 1, 10)
    assert (holdings.over, holdings.crowded()) == (True, ALICE)
    holdings.changed(BOB, 2, 20)
    holdings.changed(ALICE, -1, -10)
    assert (holdings.over, holdings.crowded()) == (True, BOB)
    holdings.changed(BOB, -1, -10)
    assert (holdings.over, holdings.crowded()) == (False, None)


def test_a_crowded_principal_whose_holders_are_removed_is_not_crowded() -> None:
    log = log_of("s", 1, 1)
    holdings = holdings_of(Limits(max_principal_events=1), alice=[log])
    assert holdings.crowded() == ALICE
    holdings.remove(ALICE, log)
    assert (holdings.over, holdings.crowded()) == (False, None)


@pytest.mark.parametrize(
    ("limits", "largest"),
    [
        (Limits(max_total_events=10, max_total_bytes=2_300), "many"),
        (Limits(max_total_events=1_000, max_total_bytes=1_000), "wide"),
        (Limits(max_total_events=10, max_total_bytes=1_000), "wide"),
        (Limits(max_total_events=2, max_total_bytes=2_000), "many"),
    ],
)
def test_the_largest_principal_is_chosen_by_the_exceeded_total(limits: Limits, largest: str) -> None:
    holdings = holdings_of(
        limits,
        few=[log_of("a", 1, 1, size=100)],
        many=[log_of("b", *[1] * 8, size=1)],
        wide=[log_of("c", 1, size=2_000), history_of("j", 1, size=0)],
        most=[log_of("d", *[1] * 8, size=1)],
    )
    assert holdings.over
    assert holdings.largest() == holdings.crowded() == largest


def test_equally_large_principals_are_ordered_by_name() -> None:
    holdings = holdings_of(Limits(max_total_events=2), b=[log_of("s", 1, 1)], a=[log_of("t", 1, 1)])
    assert holdings.crowded() == "a"


def test_a_flood_costs_no_event_of_a_principal_that_holds_less() -> None:
    limits = Limits(max_total_events=100)
    small = log_of("small", *range(40))
    flood = log_of("flood", *range(100, 130))
    holdings = holdings_of(limits, small=[small], flood=[flood])
    for at in range(130, 1_000):
        flood.append(Entry(b"head", b"x" * 10), 10, Monotonic(at * SECOND))
        holdings.changed(Principal("flood"), 1, 10)
        while (principal := holdings.crowded()) is not None:
            victim = holdings.victim(principal)
            events, size = victim.release(victim.oldest(10, 100))
            holdings.changed(principal, -events, -size)
    assert (small.events, small.first) == (40, 1)
    assert (holdings.events, flood.events) == (100, 60)
    assert flood.last == 900


# The holder that loses its oldest events.


def test_the_victim_is_the_holder_of_the_oldest_event() -> None:
    old, older, young = log_of("a", 5, 6), history_of("j", 3, 30), log_of("b", 9)
    holdings = holdings_of(WIDE, alice=[log_of("empty"), old, older, young], bob=[log_of("c", 1)])
    assert holdings.victim(ALICE) is older
    holdings.changed(ALICE, *(-count for count in older.release(1)))
    assert holdings.victim(ALICE) is old
    holdings.remove(ALICE, old)
    assert holdings.victim(ALICE) is young
    holdings.remove(ALICE, young)
    assert holdings.victim(ALICE) is older
    holdings.changed(ALICE, *(-count for count in older.release(9)))
    with pytest.raises(InvariantViolated, match="no holder has an event"):
        holdings.victim(ALICE)


def test_equally_old_holders_are_ordered_by_name() -> None:
    one, other = log_of("b", 1), log_of("a", 1)
    assert holdings_of(WIDE, alice=[one, other]).victim(ALICE) is other


def test_a_holder_filled_since_the_last_search_can_be_the_victim() -> None:
    busy, idle = log_of("a", 1), log_of("b")
    holdings = holdings_of(WIDE, alice=[busy, idle])
    assert holdings.victim(ALICE) is busy
    idle.append(Entry(b"head", b""), 0, Monotonic(2 * SECOND))
    busy.append(Entry(b"head", b""), 0, Monotonic(3 * SECOND))
    holdings.changed(ALICE, 2, 0)
    holdings.changed(ALICE, *(-count for count in busy.release(1)))
    assert holdings.victim(ALICE) is idle


def test_a_holder_added_with_old_events_can_be_the_victim() -> None:
    holdings = holdings_of(WIDE, alice=[log_of("a", 5), log_of("b", 7)])
    assert holdings.victim(ALICE).events == 1
    old = history_of("j", 2)
    holdings.add(ALICE, old)
    assert holdings.victim(ALICE) is old


class HoldingsMachine(RuleBasedStateMachine):
    """Holders that come, fill, empty and go while time passes; a search finds the same sums and victims."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(
            max_principal_events=8, max_principal_bytes=120, max_total_events=14, max_total_bytes=200
        )
        self.holdings = Holdings(self.limits)
        self.holders: dict[Principal, list[Holder]] = {}
        self.now = 1
        self.made = 0

    def some(self, data: st.DataObject) -> tuple[Principal, Holder]:
        return data.draw(
            st.sampled_from([(who, holder) for who, holders in self.holders.items() for holder in holders])
        )

    def oldest(self, principal: Principal) -> Holder | None:
        """Return the holder with the oldest event, by a search; of equally old ones the first."""
        full = [holder for holder in self.holders[principal] if holder.events]
        return min(full, key=lambda holder: holder.oldest_at or 0, default=None)

    @rule(principal=st.sampled_from(PRINCIPALS), log=st.booleans(), events=st.integers(0, 2))
    def add(self, principal: Principal, log: bool, events: int) -> None:
        self.made += 1
        make = log_of if log else history_of
        holder = make(f"h{self.made}", *[self.now] * events)
        self.holders.setdefault(principal, []).append(holder)
        self.holdings.add(principal, holder)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), size=st.integers(0, 30), count=st.integers(1, 3))
    def fill(self, data: st.DataObject, size: int, count: int) -> None:
        principal, holder = self.some(data)
        for _ in range(count):
            if isinstance(holder, Log):
                holder.append(Entry(b"head", b"x" * size), size, Monotonic(self.now * SECOND))
            else:
                holder.append(b"x" * size, 1, None, size, Monotonic(self.now * SECOND))
            self.holdings.changed(principal, 1, size)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), count=st.integers(1, 4))
    def free(self, data: st.DataObject, count: int) -> None:
        principal, holder = self.some(data)
        first = holder.first - 1 if isinstance(holder, Log) else holder.first
        events, size = holder.release(first + count)
        self.holdings.changed(principal, -events, -size)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        principal, holder = self.some(data)
        self.holders[principal].remove(holder)
        if not self.holders[principal]:
            del self.holders[principal]
        self.holdings.remove(principal, holder)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        principal = data.draw(st.sampled_from([*self.holders]))
        oldest = self.oldest(principal)
        if oldest is not None:
            assert self.holdings.victim(principal).oldest_at == oldest.oldest_at

    @rule()
    def make_room(self) -> None:
        while (principal := self.holdings.crowded()) is not None:
            victim, oldest = self.holdings.victim(principal), self.oldest(principal)
            assert oldest is not None
            assert victim.oldest_at == oldest.oldest_at
            events, size = victim.release(victim.oldest(2, 20))
            assert events > 0
            self.holdings.changed(principal, -events, -size)
        assert self.holdings.events <= self.limits.max_total_events
        assert self.holdings.size <= self.limits.max_total_bytes

    @invariant()
    def sums_are_right(self) -> None:
        sums = {
            who: (sum(holder.events for holder in holders), sum(holder.size for holder in holders))
            for who, holders in self.holders.items()
        }
        assert len(self.holdings) == len(sums)
        assert [self.holdings.of(who) for who in PRINCIPALS] == [sums.get(who, (0, 0)) for who in PRINCIPALS]
        events, size = sum(each[0] for each in sums.values()), sum(each[1] for each in sums.values())
        assert (self.holdings.events, self.holdings.size) == (events, size)
        limits = self.limits
        full = [
            who
            for who, held in sums.items()
            if held[0] > limits.max_principal_events or held[1] > limits.max_principal_bytes
        ]
        total = events > limits.max_total_events or size > limits.max_total_bytes
        assert self.holdings.over == (total or bool(full))
        crowded = self.holdings.crowded()
        assert crowded in full if full else (crowded is not None) == total


TestHoldings = HoldingsMachine.TestCase
