"""Authority and budgets of jobs, computed from records and from envelopes by code of the tests alone.

I4: no operation outside a lease, after its end, or on an exhausted budget. I5: a child never has more than
its parent. In a tree of jobs the costs and the rest add up to the budget exactly.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.engine.output import ChildEnded, StartJob
from arcp_proto.ids import SECOND
from arcp_proto.server.jobs.job import Terms
from arcp_proto.server.journal import records as facts
from tests.reference.wire import REMAINING

from . import leases
from .broken import ensure
from .truth import COMMON

if TYPE_CHECKING:
    from .world import World

ZERO: Final = Fraction(0)
PARENT_ENDS: Final = "the job that delegated it ends"


@dataclass(slots=True)
class Account:
    """The authority of one job. `own` is the budget of its lease; ancestors may bound other currencies."""

    job_id: str
    parent: str | None
    lease: leases.Lease
    own: dict[str, Fraction]
    expires: int | None
    depth: int
    spent: dict[str, Fraction] = field(default_factory=dict)
    """The costs of this job alone."""
    holds: dict[int, tuple[str, Fraction]] = field(default_factory=dict)
    expired: bool = False
    outcome: str | None = None
    """The code of its outcome, once that is fixed."""
    ends: bool = False
    """The job ends, and its children were cancelled for that reason."""
    earlier: bool = False
    """The parent was started again after it had delegated this job."""
    ended: bool = False

    def spend(self, currency: str, amount: Fraction) -> None:
        """Add a cost."""
        self.spent[currency] = self.spent.get(currency, ZERO) + amount

    def lapse(self) -> None:
        """Count reservations as spent, since the agent that would settle them is gone."""
        for currency, amount in self.holds.values():
            self.spend(currency, amount)
        self.holds.clear()


class Ledger:
    """The accounts of all jobs: `_live` by all records, `_kept` by durable records, as after a crash."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._live: dict[str, Account] = {}
        self._kept: dict[str, Account] = {}
        self._seen: dict[tuple[str, str], set[Fraction]] = {}
        """All amounts that were ever left, by job and currency."""
        self._told: dict[tuple[str, str], Fraction | None] = {}
        """The amount that was last announced, by the job that has the budget and the currency; None after
        a crash."""
        self._heard: dict[str, int] = {}
        """Children whose end their parent was told, and in which life of the runtime."""
        self.costs: dict[str, dict[int, Fraction]] = {}
        """The costs that agents have reported, by job and mark."""

    # Records of the runtime.

    def fact(self, record: facts.Record) -> None:
        """Check a record that is about to be applied, and enter it."""
        if isinstance(record, facts.Published) and record.kind == REMAINING:
            self._check_told(record)
        if isinstance(record, COMMON):
            return
        if isinstance(record, facts.JobAcceptedRecord):
            over = self.is_expired(_account(record.terms))
            ensure(not over, "I4", f"{record.terms.job_id} is accepted after the end of its lease")
        if isinstance(record, facts.Delegated):
            self._check_child(record.terms)
        if isinstance(record, facts.JobEndedRecord):
            self._check_end(record)
        self._write(self._live, record)

    def durable(self, record: facts.Record) -> None:
        """Enter a record that is durable."""
        if not isinstance(record, COMMON):
            self._write(self._kept, record)

    def crash(self) -> None:
        """Undo all records that were not durable."""
        self._live = copy.deepcopy(self._kept)
        self._told = {
            (account.job_id, currency): None for account in self._live.values() for currency in account.own
        }

    def _write(self, book: dict[str, Account], record: facts.Record) -> None:
        match record:
            case facts.JobAcceptedRecord(terms=terms) | facts.Delegated(terms=terms):
                book[terms.job_id] = _account(terms)
            case facts.Spent(job_id=job_id, currency=currency, amount=amount):
                book[job_id].spend(currency, Fraction(amount))
            case facts.Reserved(job_id=job_id, hold=hold, currency=currency, amount=amount):
                book[job_id].holds[hold] = (currency, Fraction(amount))
            case facts.Settled(job_id=job_id, hold=hold, amount=amount):
                currency, _ = book[job_id].holds.pop(hold)
                book[job_id].spend(currency, Fraction(amount))
            case facts.LeaseEnded(job_id=job_id):
                book[job_id].expired = True
            case facts.OutcomeFixed(job_id=job_id, outcome=outcome):
                book[job_id].outcome = outcome.code
            case facts.JobStarted(job_id=job_id):
                book[job_id].lapse()
                book[job_id].ends = False
                for child in book.values():
                    child.earlier = child.earlier or child.parent == job_id
            case facts.JobEndedRecord(job_id=job_id):
                book[job_id].lapse()
                book[job_id].ended = True
            case _:
                return
        if book is self._live:
            self._note()

    def _note(self) -> None:
        """Note the amounts that are left now: an answer may state them from now on."""
        for account in self._live.values():
            if account.ended:
                continue
            for currency in self.currencies(account):
                self._seen.setdefault((account.job_id, currency), set()).add(self.left(account, currency))

    def _check_child(self, terms: Terms) -> None:
        """Check that a child has no capability, time or budget that its parent does not have (I5)."""
        child, parent = _account(terms), self._live[str(terms.parent_job_id)]
        what = f"{terms.job_id}, a child of {parent.job_id}"
        ensure(not parent.ended, "I4", f"{what}, is delegated after the end of its parent")
        ensure(not parent.ends, "I4", f"{what}, is delegated while its parent ends")
        ensure(
            child.depth == parent.depth + 1,
            "I5",
            f"{what}, has depth {child.depth} below depth {parent.depth}",
        )
        wider = leases.granted(child.lease) - self.granted(parent)
        ensure(not wider, "I5", f"{what}, may do {sorted(wider)[:4]} beyond its parent: {child.lease}")
        later = parent.expires is not None and (child.expires is None or child.expires > parent.expires)
        ensure(not later, "I5", f"{what}, expires at {child.expires}, its parent at {parent.expires}")
        for currency, amount in child.own.items():
            free = self.free(parent, currency)
            more = free is not None and amount > free
            ensure(not more, "I5", f"{what}, gets {amount} {currency}, but {free} is free")

    def _check_end(self, record: facts.JobEndedRecord) -> None:
        """Check that a job ends after its children, and note a parent that ends."""
        account = self._live[record.job_id]
        for child in self.children(account):
            ensure(child.ended, "I4", f"{record.job_id} ends before its child {child.job_id}")
        if account.parent is not None and not account.earlier and PARENT_ENDS.encode() in record.payload:
            self._live[account.parent].ends = True

    def _check_told(self, record: facts.Published) -> None:
        """Check that `cost.budget.remaining` states the amount that is left."""
        account = self._live[record.job_id]
        name, value, currency = _metric(_numbers(record.payload + b"}")["body"])
        ensure(name == REMAINING, "I4", f"the record of {REMAINING} of {record.job_id} has the metric {name}")
        left = self.left(account, currency)
        ensure(value == left, "I4", f"{record.job_id}: {value} {currency} are announced, but {left} are left")
        pool = self.pool(account, currency)
        if pool is not None:
            self._told[pool.job_id, currency] = value

    # Accounts.

    def account(self, job_id: str) -> Account:
        """Return the account of a job that exists."""
        return self._live[job_id]

    def children(self, account: Account) -> Iterator[Account]:
        """Yield all jobs that a job has delegated."""
        return (other for other in self._live.values() if other.parent == account.job_id)

    def has_children(self, job_id: str) -> bool:
        """Return whether a job has children that have not ended."""
        return any(not child.ended for child in self.children(self._live[job_id]))

    def descendants(self, account: Account) -> Iterator[Account]:
        """Yield all jobs below a job."""
        for child in self.children(account):
            yield child
            yield from self.descendants(child)

    def root(self, account: Account) -> Account:
        """Return the job at the top of the tree, which a client has submitted."""
        while account.parent is not None:
            account = self._live[account.parent]
        return account

    def above(self, account: Account) -> Iterator[Account]:
        """Yield a job, its parent and so on."""
        yield account
        while account.parent is not None:
            account = self._live[account.parent]
            yield account

    def pool(self, account: Account, currency: str) -> Account | None:
        """Return the nearest job, from this one up, with a budget in a currency; None if there is none."""
        return next((one for one in self.above(account) if currency in one.own), None)

    def currencies(self, account: Account) -> list[str]:
        """Return the currencies that a budget bounds for a job."""
        return list(dict.fromkeys(currency for one in self.above(account) for currency in one.own))

    def members(self, pool: Account, currency: str) -> Iterator[Account]:
        """Yield the jobs that spend the budget of a job."""
        yield pool
        for child in self.children(pool):
            if currency not in child.own:
                yield from self.members(child, currency)

    def used(self, pool: Account, currency: str) -> Fraction:
        """Return the used amount of a budget: costs, and budgets of children without the returned rests."""
        total = ZERO
        for member in self.members(pool, currency):
            total += member.spent.get(currency, ZERO)
            for child in self.children(member):
                if currency in child.own:
                    total += self.used(child, currency) if child.ended else child.own[currency]
        return total

    def left(self, account: Account, currency: str) -> Fraction:
        """Return the amount of a budget that is not used."""
        pool = self.pool(account, currency)
        return ZERO if pool is None else pool.own[currency] - self.used(pool, currency)

    def free(self, account: Account, currency: str) -> Fraction | None:
        """Return the amount that is neither used nor reserved; None if no budget bounds the currency."""
        pool = self.pool(account, currency)
        if pool is None:
            return None
        held = sum(
            (
                amount
                for member in self.members(pool, currency)
                for of, amount in member.holds.values()
                if of == currency
            ),
            ZERO,
        )
        return self.left(account, currency) - held

    # Permissions of agents.

    def is_expired(self, account: Account) -> bool:
        """Return whether the lease of a job has expired."""
        if account.expires is None:
            return False
        return account.expired or self._world.host.unix >= account.expires

    def any_model(self, account: Account) -> bool:
        """Return whether a job may use every model."""
        if self._world.options.models_required:
            return False
        return not any("model.use" in one.lease for one in self.above(account))

    def granted(self, account: Account) -> frozenset[tuple[str, str]]:
        """Return all operations that the lease of a job grants."""
        found = leases.granted(account.lease)
        if self.any_model(account):
            found |= {("model.use", target) for target in leases.TARGETS["model.use"]}
        return found

    def refusal(self, account: Account, capability: str, target: str) -> str | None:
        """Return the code that has to refuse an operation; None if it is allowed (I4)."""
        if self.is_expired(account):
            return "LEASE_EXPIRED"
        free_model = capability == "model.use" and self.any_model(account)
        if not free_model and not leases.allows(account.lease, capability, target):
            return "PERMISSION_DENIED"
        return self.exhausted(account)

    def exhausted(self, account: Account) -> str | None:
        """Return BUDGET_EXHAUSTED if no amount of some currency is free; else None."""
        for currency in self.currencies(account):
            free = self.free(account, currency)
            if free is not None and free <= 0:
                return "BUDGET_EXHAUSTED"
        return None

    # Envelopes and events for agents.

    def check_announced(self, job_id: str, currency: str) -> None:
        """Check that a cost announces the rest, unless it has changed by less than a hundredth (§9.6)."""
        account = self._live[job_id]
        pool = self.pool(account, currency)
        if (
            pool is None or account.ended or self._world.truth.keeps_all
        ):  # Without a journal no record of it is made.
            return
        told = self._told.setdefault((pool.job_id, currency), pool.own[currency])
        left = self.left(account, currency)
        if told is None:
            return
        silent = abs(told - left) * 100 < pool.own[currency] and not left <= 0 < told
        ensure(
            silent or told == left,
            "I4",
            f"{job_id}: {told} {currency} were announced last, but {left} are left",
        )

    def started(self, request: StartJob) -> None:
        """Check that an agent is started with the lease that was asked for."""
        account = self._live[request.job_id]
        lease = {name: list(patterns) for name, patterns in request.lease.items()}
        ensure(
            lease == account.lease,
            "I5",
            f"{request.job_id} is started with {lease}, not with {account.lease}",
        )
        asked = request.input.get("lease") if isinstance(request.input, dict) else None
        if asked is not None:
            ensure(lease == asked, "I5", f"{request.job_id} asked for {asked} but has {lease}")

    def child_ended(self, event: ChildEnded) -> None:
        """Check that a parent is told of the end of a child once, after the child has ended."""
        child = self._live[event.job_id]
        ensure(
            child.parent == event.parent_id,
            "I4",
            f"{event.parent_id} is told of the end of {event.job_id}, of another parent",
        )
        ensure(child.ended, "I4", f"{event.job_id} has not ended, but its parent is told that it has")
        life = self._world.host.life
        ensure(self._heard.get(event.job_id) != life, "I4", f"the end of {event.job_id} is told twice")
        self._heard[event.job_id] = life

    def accepted(self, data: bytes) -> None:
        """Check that a `job.accepted` that leaves has the initial lease and budget."""
        payload = _exact(data)["payload"]
        account = self._live.get(payload["job_id"])
        if account is None:  # A repeated key, and the job is forgotten.
            return
        ensure(payload["lease"] == account.lease, "I5", f"{account.job_id} is accepted with another lease")
        told = payload.get("budget") or {}
        ensure(
            told == account.own,
            "I4",
            f"{account.job_id} has the budget {account.own}, but is accepted with {told}",
        )

    def subscribed(self, data: bytes) -> None:
        """Check that a `job.subscribed` that leaves states amounts that were left at some time."""
        payload = _exact(data)["payload"]
        account = self._live[payload["job_id"]]
        ensure(
            payload.get("parent_job_id") == account.parent,
            "I5",
            f"{account.job_id} is subscribed with another parent",
        )
        for currency, left in (payload.get("budget") or {}).items():
            seen = self._seen.get((account.job_id, currency), ())
            if not account.ended:
                ensure(
                    left in seen,
                    "I4",
                    f"{account.job_id}: the answer has {left} {currency}, which were never left",
                )

    def metric(self, job_id: str, mark: int, data: bytes, features: frozenset[str]) -> None:
        """Check a metric that leaves: a cost against the report of the agent, a rest against the accounts."""
        name, value, currency = _metric(_numbers(data)["payload"]["body"])
        if name == REMAINING:
            ensure(
                "cost.budget" in features, "features", f"{REMAINING} goes to a session without cost.budget"
            )
            seen = self._seen.get((job_id, currency), ())
            ensure(value in seen, "I4", f"{job_id}: the metric has {value} {currency}, which were never left")
            return
        said = self.costs.get(job_id, {}).get(mark)
        ensure(
            said is None or said == value, "I4", f"{job_id} has reported {said}, but the metric has {value}"
        )

    def stepped(self, past: int) -> None:
        """Check that leases stay expired when the wall clock, which has shown `past`, is set back."""
        for account in self._live.values():
            over = account.expires is not None and past >= account.expires
            if over and not account.ended and account.job_id in self._world.host.state.unfinished:
                ensure(
                    account.expired, "I4", f"the lease of {account.job_id} had expired, and is valid again"
                )

    def check_stopped(self) -> None:
        """Check that a running job is stopped at most a second after its lease has expired (§14)."""
        host, options = self._world.host, self._world.options
        for job_id, agent in host.agents.running.items():
            account = self._live[job_id]
            if account.expires is None or account.outcome is not None:
                continue
            since = max(account.expires - host.unix + self._world.now, host.changed_at, agent.started_at)
            overdue = self._world.now - since - SECOND - options.late_timer
            ensure(overdue <= 0, "I4", f"{job_id} runs {overdue} ns too long after its lease has expired")

    def check_settled(self, job_id: str) -> None:
        """Check that the costs and the rest of a tree that has ended add up to its budget (I4)."""
        account = self._live[job_id]
        if account.parent is not None or not account.ended:
            return
        tree = [account, *self.descendants(account)]
        for currency, start in account.own.items():
            spent = sum((one.spent.get(currency, ZERO) for one in tree), ZERO)
            left = self.left(account, currency)
            ensure(
                spent + left == start,
                "I4",
                f"{job_id}: spent {spent} and left {left} are not {start} {currency}",
            )

    def check_all(self) -> None:
        """Check that all jobs have ended or are known to the runtime, and that every tree balances."""
        for account in self._live.values():
            ensure(
                account.ended or account.job_id in self._world.host.state.unfinished,
                "I2",
                f"{account.job_id} has not ended, and the runtime does not know it",
            )
            self.check_settled(account.job_id)


def _account(terms: Terms) -> Account:
    lease = {name: list(patterns) for name, patterns in terms.lease.items()}
    expires = None if terms.expires_at is None else leases.unix_of(terms.expires_at)
    return Account(terms.job_id, terms.parent_job_id, lease, leases.budget(lease), expires, terms.depth)


def _exact(data: bytes) -> Any:
    """Decode JSON with exact fractions."""
    return json.loads(data, parse_float=Fraction, parse_int=int)


def _numbers(data: bytes) -> Any:
    """Decode JSON with its numbers as text."""
    return json.loads(data, parse_float=str, parse_int=str)


def _metric(body: Mapping[str, Any]) -> tuple[str, Fraction, str]:
    """Return name, value and unit of a metric."""
    return body["name"], Fraction(body["value"]), body.get("unit", "")
