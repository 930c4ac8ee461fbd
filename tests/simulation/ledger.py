"""Who may do what, and where the money is: by our own books, kept from records and from what is on the wire.

I4: no operation outside a lease, after its end, or when nothing is left of the budget. I5: a child never has
more than its parent. Over a tree of jobs what is spent and what is left is what there was, exactly.
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
    """The authority of one job. `own` is what its lease bounds; the rest comes from above."""

    job_id: str
    parent: str | None
    lease: leases.Lease
    own: dict[str, Fraction]
    expires: int | None
    depth: int
    spent: dict[str, Fraction] = field(default_factory=dict)
    """Costs of this job alone."""
    holds: dict[int, tuple[str, Fraction]] = field(default_factory=dict)
    expired: bool = False
    outcome: str | None = None
    """How it will end, once that is decided."""
    ends: bool = False
    """Its children were stopped because it ends."""
    earlier: bool = False
    """Its parent was started again after it had delegated it."""
    ended: bool = False

    def spend(self, currency: str, amount: Fraction) -> None:
        """A cost."""
        self.spent[currency] = self.spent.get(currency, ZERO) + amount

    def lapse(self) -> None:
        """Nobody settles what is reserved: it is spent."""
        for currency, amount in self.holds.values():
            self.spend(currency, amount)
        self.holds.clear()


class Ledger:
    """The books: `_live` as the runtime decides, `_kept` as it would be after a crash."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._live: dict[str, Account] = {}
        self._kept: dict[str, Account] = {}
        self._seen: dict[tuple[str, str], set[Fraction]] = {}
        """Everything that was ever left of a currency for a job."""
        self._told: dict[tuple[str, str], Fraction | None] = {}
        """What was last told of a pool; None: that is not known."""
        self._heard: dict[str, int] = {}
        """Children of whose end their parent was told, and in which life."""
        self.costs: dict[str, dict[int, Fraction]] = {}
        """What an agent has said that it spent, by job and mark."""

    # What the runtime decides.

    def fact(self, record: facts.Record) -> None:
        """A record is about to be applied."""
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
        """A record is kept."""
        if not isinstance(record, COMMON):
            self._write(self._kept, record)

    def crash(self) -> None:
        """What was not kept has not happened."""
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
        """What is left now may be told from now on."""
        for account in self._live.values():
            if account.ended:
                continue
            for currency in self.currencies(account):
                self._seen.setdefault((account.job_id, currency), set()).add(self.left(account, currency))

    def _check_child(self, terms: Terms) -> None:
        """I5: it has nothing that its parent has not, and no money that somebody else has."""
        child, parent = _account(terms), self._live[str(terms.parent_job_id)]
        what = f"{terms.job_id} of {parent.job_id}"
        ensure(not parent.ended, "I4", f"{what}: its parent has ended")
        ensure(not parent.ends, "I4", f"{what}: its parent was ending")
        ensure(child.depth == parent.depth + 1, "I5", f"{what}: depth {child.depth} below {parent.depth}")
        wider = leases.granted(child.lease) - self.granted(parent)
        ensure(not wider, "I5", f"{what} may also {sorted(wider)[:4]}: {child.lease} of {parent.lease}")
        later = parent.expires is not None and (child.expires is None or child.expires > parent.expires)
        ensure(not later, "I5", f"{what} expires at {child.expires}, after {parent.expires}")
        for currency, amount in child.own.items():
            free = self.free(parent, currency)
            more = free is not None and amount > free
            ensure(not more, "I5", f"{what} has {amount} {currency} of {free}")

    def _check_end(self, record: facts.JobEndedRecord) -> None:
        """It ends after its children; who is stopped with its parent has one that ends."""
        account = self._live[record.job_id]
        for child in self.children(account):
            ensure(child.ended, "I4", f"{record.job_id} ends before its child {child.job_id}")
        if account.parent is not None and not account.earlier and PARENT_ENDS.encode() in record.payload:
            self._live[account.parent].ends = True

    def _check_told(self, record: facts.Published) -> None:
        """`cost.budget.remaining` says what is left."""
        account = self._live[record.job_id]
        name, value, currency = _metric(_numbers(record.payload + b"}")["body"])
        ensure(name == REMAINING, "I4", f"{name} stands as {REMAINING} in {record.job_id}")
        left = self.left(account, currency)
        ensure(value == left, "I4", f"{record.job_id} is told {value} {currency}, and {left} is left")
        pool = self.pool(account, currency)
        if pool is not None:
            self._told[pool.job_id, currency] = value

    # The books.

    def account(self, job_id: str) -> Account:
        """Of a job that exists."""
        return self._live[job_id]

    def children(self, account: Account) -> Iterator[Account]:
        """All that it ever delegated."""
        return (other for other in self._live.values() if other.parent == account.job_id)

    def has_children(self, job_id: str) -> bool:
        """Whether some of them have not ended."""
        return any(not child.ended for child in self.children(self._live[job_id]))

    def descendants(self, account: Account) -> Iterator[Account]:
        """All below it."""
        for child in self.children(account):
            yield child
            yield from self.descendants(child)

    def root(self, account: Account) -> Account:
        """The job that a client submitted."""
        while account.parent is not None:
            account = self._live[account.parent]
        return account

    def above(self, account: Account) -> Iterator[Account]:
        """It, its parent and so on."""
        yield account
        while account.parent is not None:
            account = self._live[account.parent]
            yield account

    def pool(self, account: Account, currency: str) -> Account | None:
        """Whose money a job spends; None when nothing bounds it."""
        return next((one for one in self.above(account) if currency in one.own), None)

    def currencies(self, account: Account) -> list[str]:
        """All that are bound for a job."""
        return list(dict.fromkeys(currency for one in self.above(account) for currency in one.own))

    def members(self, pool: Account, currency: str) -> Iterator[Account]:
        """Who spends of a pool."""
        yield pool
        for child in self.children(pool):
            if currency not in child.own:
                yield from self.members(child, currency)

    def used(self, pool: Account, currency: str) -> Fraction:
        """What is gone of a pool: costs, and what children got and have not given back."""
        total = ZERO
        for member in self.members(pool, currency):
            total += member.spent.get(currency, ZERO)
            for child in self.children(member):
                if currency in child.own:
                    total += self.used(child, currency) if child.ended else child.own[currency]
        return total

    def left(self, account: Account, currency: str) -> Fraction:
        """What is not gone."""
        pool = self.pool(account, currency)
        return ZERO if pool is None else pool.own[currency] - self.used(pool, currency)

    def free(self, account: Account, currency: str) -> Fraction | None:
        """What is neither gone nor reserved; None when nothing bounds it."""
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

    # What an agent may do.

    def is_expired(self, account: Account) -> bool:
        """Whether its lease has ended."""
        if account.expires is None:
            return False
        return account.expired or self._world.host.unix >= account.expires

    def any_model(self, account: Account) -> bool:
        """Whether it may use every model."""
        if self._world.options.models_required:
            return False
        return not any("model.use" in one.lease for one in self.above(account))

    def granted(self, account: Account) -> frozenset[tuple[str, str]]:
        """Everything that its lease grants."""
        found = leases.granted(account.lease)
        if self.any_model(account):
            found |= {("model.use", target) for target in leases.TARGETS["model.use"]}
        return found

    def refusal(self, account: Account, capability: str, target: str) -> str | None:
        """The code with which an operation has to be refused; None if it is allowed (I4)."""
        if self.is_expired(account):
            return "LEASE_EXPIRED"
        free_model = capability == "model.use" and self.any_model(account)
        if not free_model and not leases.allows(account.lease, capability, target):
            return "PERMISSION_DENIED"
        return self.exhausted(account)

    def exhausted(self, account: Account) -> str | None:
        """BUDGET_EXHAUSTED once nothing is free of some currency."""
        for currency in self.currencies(account):
            free = self.free(account, currency)
            if free is not None and free <= 0:
                return "BUDGET_EXHAUSTED"
        return None

    # What is told.

    def check_announced(self, job_id: str, currency: str) -> None:
        """After a cost: what is left was told, unless it has moved by less than a hundredth (§9.6)."""
        account = self._live[job_id]
        pool = self.pool(account, currency)
        if (
            pool is None or account.ended or self._world.truth.keeps_all
        ):  # Without a journal no record says what was told.
            return
        told = self._told.setdefault((pool.job_id, currency), pool.own[currency])
        left = self.left(account, currency)
        if told is None:
            return
        silent = abs(told - left) * 100 < pool.own[currency] and not left <= 0 < told
        ensure(silent or told == left, "I4", f"{job_id} was told {told} {currency}, and {left} is left")

    def started(self, request: StartJob) -> None:
        """An agent is started with the lease that was asked for."""
        account = self._live[request.job_id]
        lease = {name: list(patterns) for name, patterns in request.lease.items()}
        ensure(lease == account.lease, "I5", f"{request.job_id} is started with {lease}")
        asked = request.input.get("lease") if isinstance(request.input, dict) else None
        if asked is not None:
            ensure(lease == asked, "I5", f"{request.job_id} asked for {asked} and has {lease}")

    def child_ended(self, event: ChildEnded) -> None:
        """An agent is told of the end of what it delegated: once, and when it has ended."""
        child = self._live[event.job_id]
        ensure(child.parent == event.parent_id, "I4", f"{event.parent_id} hears of {event.job_id}")
        ensure(child.ended, "I4", f"{event.job_id} has not ended, and its parent is told so")
        life = self._world.host.life
        ensure(self._heard.get(event.job_id) != life, "I4", f"the end of {event.job_id} is told twice")
        self._heard[event.job_id] = life

    def accepted(self, data: bytes) -> None:
        """`job.accepted`, as it leaves: lease and budget are those of the beginning."""
        payload = _exact(data)["payload"]
        account = self._live.get(payload["job_id"])
        if account is None:  # It is answered by its key, and the job is forgotten.
            return
        ensure(payload["lease"] == account.lease, "I5", f"{account.job_id} is told to have another lease")
        told = payload.get("budget") or {}
        ensure(told == account.own, "I4", f"{account.job_id} begins with {account.own}, and is told {told}")

    def subscribed(self, data: bytes) -> None:
        """`job.subscribed`, as it leaves: what it says was left was so at some time."""
        payload = _exact(data)["payload"]
        account = self._live[payload["job_id"]]
        ensure(
            payload.get("parent_job_id") == account.parent, "I5", f"{account.job_id} is told another parent"
        )
        for currency, left in (payload.get("budget") or {}).items():
            seen = self._seen.get((account.job_id, currency), ())
            if not account.ended:
                ensure(left in seen, "I4", f"{account.job_id}: {left} {currency} were never left")

    def metric(self, job_id: str, mark: int, data: bytes, features: frozenset[str]) -> None:
        """A metric leaves: a cost is what the agent has said, what is left is what the books say."""
        name, value, currency = _metric(_numbers(data)["payload"]["body"])
        if name == REMAINING:
            ensure("cost.budget" in features, "features", f"{REMAINING} goes to who does not know it")
            seen = self._seen.get((job_id, currency), ())
            ensure(value in seen, "I4", f"{job_id}: {value} {currency} were never left")
            return
        said = self.costs.get(job_id, {}).get(mark)
        ensure(said is None or said == value, "I4", f"{job_id} said {said}, and {value} is on the wire")

    def stepped(self, past: int) -> None:
        """The wall clock was set; it has shown `past`: what had ended by then stays so."""
        for account in self._live.values():
            over = account.expires is not None and past >= account.expires
            if over and not account.ended and account.job_id in self._world.host.state.unfinished:
                ensure(account.expired, "I4", f"the lease of {account.job_id} had ended, and has not now")

    def check_stopped(self) -> None:
        """A second after the end of its lease a job is stopped, whatever it does (§14)."""
        host, options = self._world.host, self._world.options
        for job_id, agent in host.agents.running.items():
            account = self._live[job_id]
            if account.expires is None or account.outcome is not None:
                continue
            since = max(account.expires - host.unix + self._world.now, host.changed_at, agent.started_at)
            overdue = self._world.now - since - SECOND - options.late_timer
            ensure(overdue <= 0, "I4", f"the lease of {job_id} ended, and it goes on after {overdue} ns")

    def check_settled(self, job_id: str) -> None:
        """At the end of a tree: what there was is what was spent and what is left (I4)."""
        account = self._live[job_id]
        if account.parent is not None or not account.ended:
            return
        tree = [account, *self.descendants(account)]
        for currency, start in account.own.items():
            spent = sum((one.spent.get(currency, ZERO) for one in tree), ZERO)
            left = self.left(account, currency)
            ensure(spent + left == start, "I4", f"{job_id}: {spent} + {left} are not {start} {currency}")

    def check_all(self) -> None:
        """Everything is over: every tree balances, and nobody is left."""
        for account in self._live.values():
            ensure(
                account.ended or account.job_id in self._world.host.state.unfinished,
                "I2",
                account.job_id,
            )
            self.check_settled(account.job_id)


def _account(terms: Terms) -> Account:
    lease = {name: list(patterns) for name, patterns in terms.lease.items()}
    expires = None if terms.expires_at is None else leases.unix_of(terms.expires_at)
    return Account(terms.job_id, terms.parent_job_id, lease, leases.budget(lease), expires, terms.depth)


def _exact(data: bytes) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(data, parse_float=Fraction, parse_int=int)


def _numbers(data: bytes) -> Any:
    """JSON with its numbers as the text that they are."""
    return json.loads(data, parse_float=str, parse_int=str)


def _metric(body: Mapping[str, Any]) -> tuple[str, Fraction, str]:
    """Name, value and unit of a metric."""
    return body["name"], Fraction(body["value"]), body.get("unit", "")
