"""Operations of agents, with and without authority; the accounts of the ledger check the result of each."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import WIRE_WORDS
from tests.reference.wire import REMAINING

from . import leases
from .agents import Agent
from .broken import Broken, ensure
from .ledger import ZERO, Account
from .truth import RESULTS

if TYPE_CHECKING:
    from .host import Host

CAPABILITIES: Final = tuple(leases.TARGETS)
COSTS: Final = ("0.01", "0.1", "0.25", "0.5", "1", "1", "2.75", "100", "0", "0.000000001")
FORGED: Final[tuple[Any, ...]] = (-1, -0.01, float("nan"), float("inf"), Decimal("-0.001"), 10**400)
FIELDS: Final = {word: field for field, word in WIRE_WORDS.items()}
LIMITS: Final = ("delegation_depth", "children", "descendants", "running_jobs", "principal_jobs")


class Powers:
    """The operations of the agents of one runtime."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._world = host.world

    def _account(self, agent: Agent) -> Account:
        return self._world.ledger.account(agent.work.job_id)

    def _waits(self, agent: Agent) -> bool:
        return agent.over or agent.paused or agent.work.job_id not in self._host.agents.running

    # The gate.

    def operate(self, agent: Agent, capability: int, target: int, *, passes: bool) -> None:
        """Ask for an operation, with or without authority; a tool is called."""
        if self._waits(agent):
            return
        name = CAPABILITIES[capability % len(CAPABILITIES)]
        targets = list(leases.TARGETS[name])
        what = targets[target % len(targets)]
        if name == "tool.call" and what:
            self._call(agent, what, passes=passes)
            return
        expected = self._world.ledger.refusal(self._account(agent), name, what)
        job_id = JobId(agent.work.job_id)
        try:
            self._host.runtime.agents.authorize(job_id, name, what, now=self._host.now)
        except Denied as denied:
            self._denied(agent, denied, expected, f"{name} {what!r}", passes=passes)
        except LocalProtocolError:
            self._gone(agent)
        else:
            self._allowed(agent, expected, f"{name} {what!r}")
        self._host.take()

    def _call(self, agent: Agent, tool: str, *, passes: bool) -> None:
        """Call a tool; a refused call publishes its result by itself."""
        host, work = self._host, agent.work
        expected = self._world.ledger.refusal(self._account(agent), "tool.call", tool)
        mark = self._world.truth.mark()
        body = {"tool": tool, "args": {}, "call_id": f"m{mark}"}
        try:
            host.runtime.agents.emit(JobId(work.job_id), "tool_call", body, now=host.now)
        except Denied as denied:
            work.add(mark, "tool_call")
            work.add(RESULTS + mark, "tool_result")
            self._denied(agent, denied, expected, f"tool {tool}", passes=passes)
        except LocalProtocolError:
            self._gone(agent)
        else:
            work.add(mark, "tool_call")
            self._allowed(agent, expected, f"tool {tool}")
        host.take()

    def _allowed(self, agent: Agent, expected: str | None, what: str) -> None:
        self._world.count("allowed")
        ensure(
            expected is None,
            "I4",
            f"{agent.work.job_id} may do {what}, which has to be refused as {expected}",
        )

    def _denied(self, agent: Agent, denied: Denied, expected: str | None, what: str, *, passes: bool) -> None:
        self._world.count(f"denied {denied.code.value}")
        ensure(
            denied.code.value == expected,
            "I4",
            f"{agent.work.job_id}: {what} is {denied.code}, not {expected}",
        )
        self._pass_on(agent, denied, passes)

    def _pass_on(self, agent: Agent, denied: Denied, passes: bool) -> None:
        """Let a refusal end the agent, if the move says so."""
        if not passes or agent.over:
            return
        agent.work.failed.append((denied.code.value, denied.message))
        try:
            self._host.runtime.agents.fail(
                JobId(agent.work.job_id), denied.code.value, denied.message, now=self._host.now
            )
        except LocalProtocolError:
            agent.work.failed.pop()
        self._host.agents.over(agent)

    def _gone(self, agent: Agent) -> None:
        self._host.agents.refused(agent)

    # Costs.

    def spend(self, agent: Agent, currency: int, cost: int, count: int) -> None:
        """Report costs in a row, also when the budget is exhausted."""
        for number in range(count):
            if self._waits(agent):
                return
            unit = (*leases.CURRENCIES, "calls")[currency % 4]
            said = COSTS[(cost + number) % len(COSTS)]
            self._spend(agent, unit, Decimal(said), Fraction(said))
        self._host.take()

    def _spend(self, agent: Agent, unit: str, said: Decimal, amount: Fraction) -> None:
        host, work, ledger = self._host, agent.work, self._world.ledger
        account, mark = self._account(agent), self._world.truth.mark()
        before = {currency: ledger.left(account, currency) for currency in ledger.currencies(account)}
        metric = {"name": "cost.try", "value": said, "unit": unit, "dimensions": {"m": f"m{mark}"}}
        try:
            host.runtime.agents.emit(JobId(work.job_id), "metric", metric, now=host.now)
        except LocalProtocolError:
            self._gone(agent)
            return
        work.add(mark, "metric")
        ledger.costs.setdefault(work.job_id, {})[mark] = amount
        self._check_moved(account, before, unit, amount)

    def _check_moved(
        self, account: Account, before: dict[str, Fraction], unit: str, amount: Fraction
    ) -> None:
        """Check that the rest of one currency is less by the amount, and that no other has changed."""
        ledger = self._world.ledger
        for currency, left in before.items():
            now = ledger.left(account, currency)
            spent = amount if currency == unit else ZERO
            ensure(
                now == left - spent,
                "I4",
                f"{account.job_id} spent {spent} {currency} of {left}, but {now} are left",
            )
            ledger.check_announced(account.job_id, currency)

    def forge(self, agent: Agent, how: int) -> None:
        """Report an invalid cost, or the rest of the budget itself: the runtime refuses both."""
        if self._waits(agent):
            return
        host, account = self._host, self._account(agent)
        ledger, job_id = self._world.ledger, JobId(agent.work.job_id)
        before = {currency: ledger.left(account, currency) for currency in ledger.currencies(account)}
        if how % 8 < 6:
            body: dict[str, Any] = {"name": "cost.forged", "value": FORGED[how % 8], "unit": "USD"}
        else:
            body = {"name": REMAINING, "value": 1000, "unit": "USD"}
        try:
            host.runtime.agents.emit(job_id, "metric", body, now=host.now)
        except LocalProtocolError:
            pass
        else:
            raise Broken("I4", f"{agent.work.job_id} may emit {body}")
        self._check_moved(account, before, "", ZERO)

    def reserve(self, agent: Agent, currency: int, amount: int) -> None:
        """Reserve an amount, which may be more than is free."""
        if self._waits(agent):
            return
        host, ledger, account = self._host, self._world.ledger, self._account(agent)
        unit, said = leases.CURRENCIES[currency % 3], COSTS[amount % len(COSTS)]
        free = ledger.free(account, unit)
        expected = "LEASE_EXPIRED" if ledger.is_expired(account) else ledger.exhausted(account)
        if expected is None and free is not None and Fraction(said) > free:
            expected = "BUDGET_EXHAUSTED"
        try:
            hold = host.runtime.agents.reserve(JobId(account.job_id), unit, said, now=host.now)
        except Denied as denied:
            self._denied(agent, denied, expected, f"reserving {said} {unit} of {free}", passes=False)
        except LocalProtocolError:
            self._gone(agent)
        else:
            self._allowed(agent, expected, f"reserve {said} {unit} of {free}")
            agent.holds.append((hold, unit))
            after = ledger.free(account, unit)
            gone = free is None or after == free - Fraction(said)
            ensure(gone, "I4", f"{account.job_id} reserves {said} {unit} of {free}, but {after} are free")
        host.take()

    def settle(self, agent: Agent, cost: int, *, releases: bool) -> None:
        """Settle a reservation with a higher or lower cost, or release it."""
        if self._waits(agent) or not agent.holds:
            return
        host, ledger, account = self._host, self._world.ledger, self._account(agent)
        hold, unit = agent.holds.pop(cost % len(agent.holds))
        before = {currency: ledger.left(account, currency) for currency in ledger.currencies(account)}
        said, mark, job_id = COSTS[cost % len(COSTS)], self._world.truth.mark(), JobId(account.job_id)
        try:
            if releases:
                host.runtime.agents.release(job_id, hold, now=host.now)
            else:
                host.runtime.agents.settle(job_id, hold, said, "cost.held", {"m": f"m{mark}"}, now=host.now)
        except LocalProtocolError:
            self._gone(agent)
            return
        if not releases:
            agent.work.add(mark, "metric")
            ledger.costs.setdefault(account.job_id, {})[mark] = Fraction(said)
        self._check_moved(account, before, unit, ZERO if releases else Fraction(said))
        host.take()

    def exhausted_upstream(self, agent: Agent) -> None:
        """Report that the provider of a model refuses further costs."""
        if self._waits(agent):
            return
        try:
            self._host.runtime.agents.upstream_exhausted(
                JobId(agent.work.job_id), "no money", now=self._host.now
            )
        except Denied as denied:
            self._denied(agent, denied, "BUDGET_EXHAUSTED", "upstream", passes=True)
        except LocalProtocolError:
            self._gone(agent)
        self._host.take()

    def rotate(self, agent: Agent, which: int) -> None:
        """Ask for a new value of one of the credentials of a job."""
        if self._waits(agent):
            return
        host, job_id = self._host, JobId(agent.work.job_id)
        held = host.runtime.agents.credentials_of(job_id)
        if not held:
            return
        try:
            host.runtime.agents.rotate_credential(job_id, held[which % len(held)].id, now=host.now)
        except LocalProtocolError:
            return  # The value is asked for already, or the job ends.
        self._world.count("rotation")
        host.take()

    # Children.

    def delegate(self, agent: Agent, what: int, lease: int, how: int) -> None:
        """Delegate to another agent, with a part of the authority of the job or with more."""
        if self._waits(agent):
            return
        host, world, account = self._host, self._world, self._account(agent)
        dice = random.Random(how)
        name = ("good", "late", "deaf", "endless", "good@1", "good@3", "absent", "good")[what % 8]
        asked = leases.draw_child(account.lease, lease)
        expires = None
        if dice.random() < 0.3:
            expires = leases.time_text(host.unix + dice.choice((-1, 1, 3, 20, 5000)) * SECOND)
        seconds = dice.choice((None, None, 1, 60))
        label = f"#c{world.truth.mark()}"
        given = {"label": label} if asked is None else {"label": label, "lease": asked}
        expected = self._expected(account, name, asked, expires)
        before = {
            currency: world.ledger.left(account, currency) for currency in world.ledger.currencies(account)
        }
        try:
            child_id = host.runtime.agents.delegate(
                JobId(account.job_id), name, given, asked, expires, seconds, now=host.now
            )
        except Denied as denied:
            code = denied.code.value
            world.count(f"delegation {code}")
            limited = (denied.details or {}).get("limit")
            if limited in LIMITS:
                ensure(
                    expected is None, "I4", f"{account.job_id} delegates to {name}: {code}, not {expected}"
                )
                self._check_limit(account, str(limited))
            else:
                what_is = f"{account.job_id} delegates {asked} until {expires} to {name}"
                ensure(
                    code == expected,
                    "I5",
                    f"{what_is}: refused as {denied.code} {denied.message}, not {expected}",
                )
            self._pass_on(agent, denied, dice.random() < 0.1)
        except LocalProtocolError:
            self._gone(agent)
        else:
            world.count("delegated")
            what_is = f"{account.job_id} delegates {asked} until {expires} to {name}"
            ensure(expected is None, "I5", f"{what_is}, which has to be refused as {expected}")
            ensure(
                not self._over_limit(account, "delegation_depth"), "I5", f"{what_is}, below the depth limit"
            )
            own = world.ledger.account(child_id).own
            for currency, left in before.items():
                now = world.ledger.left(account, currency)
                gone = own.get(currency, ZERO)
                ensure(
                    now == left - gone,
                    "I4",
                    f"{what_is}: {left} {currency} were left, {gone} are given, {now} are left",
                )
            world.children.append(child_id)
        host.take()

    def _expected(
        self, account: Account, name: str, asked: leases.Lease | None, expires: str | None
    ) -> str | None:
        """Return the code that refuses a delegation for other reasons than limits; None if nothing does."""
        ledger, lease = self._world.ledger, account.lease
        full = any(leases.matches(pattern, name) for pattern in lease.get("agent.delegate", ()))
        base = name.partition("@")[0]
        short = any(leases.matches(pattern, base) for pattern in lease.get("agent.delegate", ()))
        if account.outcome is not None:
            return account.outcome
        if ledger.is_expired(account):
            return "LEASE_EXPIRED"
        if not full and not short:
            return "PERMISSION_DENIED"
        if ledger.exhausted(account) is not None:
            return "BUDGET_EXHAUSTED"
        if name in ("absent", "good@3"):
            return "AGENT_NOT_AVAILABLE" if name == "absent" else "AGENT_VERSION_NOT_AVAILABLE"
        if expires is not None and leases.unix_of(expires) <= self._host.unix:
            return "INVALID_REQUEST"
        return None if self._is_less(account, asked, expires) else "LEASE_SUBSET_VIOLATION"

    def _is_less(self, account: Account, asked: leases.Lease | None, expires: str | None) -> bool:
        """Return whether a child asks for less than its parent has, by trial of all operations."""
        ledger = self._world.ledger
        if asked is None:
            asked = {
                name: patterns
                for name, patterns in account.lease.items()
                if name not in ("agent.delegate", "cost.budget")
            }
        has, wants = ledger.granted(account), leases.granted(asked)
        if "model.use" not in asked and ledger.any_model(account):
            wants |= {target for target in has if target[0] == "model.use"}
        ends = account.expires if expires is None else leases.unix_of(expires)
        later = account.expires is not None and ends is not None and ends > account.expires
        narrower = bool(has - wants) or ends != account.expires
        if "model.use" in asked and ledger.any_model(account):
            narrower = True
        for currency, amount in leases.budget(asked).items():
            free, bound = ledger.free(account, currency), ledger.pool(account, currency) is not None
            if free is not None and amount > free:
                return False
            narrower = narrower or not bound or amount < ledger.left(account, currency)
        return wants <= has and not later and narrower

    def _over_limit(self, account: Account, limit: str) -> bool:
        ledger = self._world.ledger
        most: int = getattr(self._world.options.limits, FIELDS[limit])
        if limit == "delegation_depth":
            return account.depth >= most
        if limit == "children":
            return sum(not child.ended for child in ledger.children(account)) >= most
        tree = ledger.descendants(ledger.root(account))
        return sum(not one.ended for one in tree) >= most

    def _check_limit(self, account: Account, limit: str) -> None:
        if limit in ("delegation_depth", "children", "descendants"):
            ensure(self._over_limit(account, limit), "I4", f"{account.job_id} is not over {limit}")
