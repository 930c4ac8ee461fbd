"""Honest clients: a client of this package, its driver, and a user that checks all that the client
reports."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arcp_proto import Connection, Framing, Phase
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.output import (
    CancelAcknowledged,
    Closing,
    ConnectionEnded,
    Detached,
    Dial,
    Event,
    JobAccepted,
    JobEnded,
    JobEvent,
    JobLost,
    JobsListed,
    MarkedProcessed,
    Output,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    SessionLost,
    Subscribed,
    SubscriptionEnded,
    Welcomed,
)
from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import Feature
from arcp_proto.ids import MILLISECOND, SECOND, JobId
from arcp_proto.secret import Secret

from .broken import Broken, ensure
from .network import Link
from .plan import Actor
from .view import Taken, View, Views

if TYPE_CHECKING:
    from .world import World


class ClientEnd:
    """The client's end of one link."""

    __slots__ = ("_blocked", "_closing", "_owner", "connection", "link", "machine")

    def __init__(self, owner: Honest, machine: Client, link: Link, connection: Connection) -> None:
        self.machine = machine
        self.link = link
        self.connection = connection
        self._owner = owner
        self._blocked = False
        self._closing = False

    @property
    def _gone(self) -> bool:
        return self.machine is not self._owner.machine

    def takes(self) -> bool:
        if self.connection.phase in (Phase.CLOSING, Phase.CLOSED):
            return True
        return self.connection.reading and not self._owner.full

    def receive(self, data: bytes) -> None:
        if not self._gone:
            self.machine.receive_all(self.connection, [data], now=self._owner.now)
            self._owner.carry_out(self.machine.take())

    def ended(self, reason: str) -> None:
        self.link.up.end()
        if not self._gone:
            self._owner.ends.pop(self.connection, None)
            self._owner.carry_out(self.connection.lost(now=self._owner.now, reason=reason))

    def written(self) -> None:
        if self._gone:
            return
        if self._blocked:
            self._blocked = False
            self._owner.carry_out(self.connection.drained(now=self._owner.now))
        self.flush()

    def flush(self) -> None:
        """Pull envelopes and write them, unless the last write has not finished."""
        connection, pipe = self.connection, self.link.up
        if self.link.over or pipe.closing:
            return
        if pipe.busy:
            if not self._blocked:
                self._blocked = True
                self._owner.carry_out(connection.blocked(now=self._owner.now))
            return
        while not pipe.busy:
            pulled = connection.envelopes_to_send()
            if not pulled:
                break
            for envelope in pulled:
                self._owner.world.told(envelope)
            pipe.write(pulled)
        if self._closing and not pipe.busy and not connection.pending:
            pipe.end()

    def close(self, closing: Closing) -> None:
        """Close the link, as the client asks for."""
        if closing.abort:
            self.link.reset("aborted")
        else:
            self._closing = True
            self.flush()


STOPS_EVERY: Final = 8
"""A user stops at one event in this number: the event counts as processed when a timer fires."""


class Listing(NamedTuple):
    """A listing with further pages: its filter, the cursor of the next page, and the jobs so far."""

    terms: dict[str, Any]
    cursor: str | None
    seen: set[str]


class Honest:
    """A user with its client, and the state that the client stores on its disk."""

    def __init__(self, world: World, number: int, actor: Actor) -> None:
        self.world = world
        self.number = number
        self.actor = actor
        self.machine: Client | None = None
        self.ends: dict[Connection, ClientEnd] = {}
        self.views = self._no_views()
        self.strange: Counter[str] = Counter()
        """Jobs and keys -> the requests for them that had no answer when the process of the client died."""
        self.asked: dict[str, tuple[str, Any]] = {}
        """Open requests by id: their commands and arguments."""
        self.inbox: deque[tuple[str, int, Taken | None]] = deque()
        """Events that the user has not processed: job, receipt and event."""
        self.stopped: dict[str, tuple[int, Taken | None]] = {}
        """Jobs whose iteration the user has interrupted, and the last event taken of each."""
        self.unwanted: dict[str, int] = {}
        """When the user last unsubscribed from each job, by the clock of `Works.tick`."""
        self.listing: Listing | None = None
        """The listing that the user reads page by page."""
        self.final = False
        self.closing = False
        self.leaving = False
        self.retired = False
        self.full = False
        self.attached = False
        self._epoch = 0
        self._stored: tuple[bytes, dict[str, View]] | None = None
        self._outputs: deque[Output] = deque()
        self._settling = False
        self._armed: int | None = None
        self._alarm = 0
        self._labels = 0
        self._dialling = 0
        self._refused = False
        """Whether the hello of the last `dial` was refused."""

    @property
    def now(self) -> int:
        """The monotonic clock of the client."""
        return self.world.now - self._epoch

    @property
    def name(self) -> str:
        """The name of the client in messages."""
        return f"client {self.number} of {self.actor.principal}"

    def _no_views(self) -> Views:
        features = frozenset(self.actor.features)
        return Views(f"client {self.number}", self.actor.principal, self.world, features)

    @property
    def _session_id(self) -> str | None:
        return None if self.machine is None else self.machine.session_id

    # The process of the client.

    def begin(self) -> None:
        """Start the process, from the stored session if there is one."""
        if self.machine is not None or self.retired:
            return
        world, actor = self.world, self.actor
        self._epoch = world.now - world.pick(10**5) * SECOND
        config = ClientConfig(
            features=(*actor.features, Feature.POSITIONS),
            resume=actor.reconnect,
            limits=world.options.client_limits,
        )
        resumption, kept = None, {}
        if self._stored is not None:
            resumption, kept = Resumption.of_json(self._stored[0]), self._stored[1]
        self.machine = Client(config, seed=world.seed(), now=self.now, unix=world.unix, resumption=resumption)
        self.views = self._no_views()
        if self._stored is not None:
            self.views.strange, self.views.session_id = self.strange, self._session_id
            self.views.restore(kept)
        self.final = self.closing = False
        self._armed = None
        self._open()

    def die(self, away: int) -> None:
        """Kill the process, which loses all that it has not stored, and start it again after a while."""
        if self.machine is None:
            return
        self._forget()
        if self.actor.stores and self._stored is not None:
            self.world.count("client restarted")
        self.world.later(away, self.begin)

    def _forget(self) -> None:
        for end in list(self.ends.values()):
            end.link.reset("the client is gone")
        self.machine = None
        self.ends.clear()
        for command, what in self.asked.values():
            if command in ("subscribe", "submit"):
                self.strange[what[0]] += 1
        self.asked.clear()
        self.inbox.clear()
        self.stopped.clear()
        self._outputs.clear()
        self._alarm += 1
        self._dialling += 1
        self.attached = self.full = False

    def _dial(self, wait: int) -> None:
        self._dialling += 1
        self.world.later(wait, self._dialled, self._dialling)

    def _dialled(self, number: int) -> None:
        machine = self.machine
        if number != self._dialling or machine is None or self.final:
            return
        link = self.world.dial(None, self.actor.lines, honest=True, guest=self.actor.guest)
        if link is None:
            machine.dial_failed("the runtime does not listen", now=self.now)
            self.take()
            return
        framing = Framing.LINES if self.actor.lines else Framing.MESSAGES
        connection = machine.connect(Secret(f"token of {self.actor.principal}"), framing, now=self.now)
        end = self.ends[connection] = ClientEnd(self, machine, link, connection)
        link.down.reader = link.up.writer = end
        self.take()

    def _open(self) -> None:
        """Ask for a first session, or for the stored one: the client dials until it is refused."""
        machine = self.machine
        if machine is not None:
            self._refused = False
            machine.dial(now=self.now)
            self.take()

    def _open_later(self) -> None:
        """Let the user of a refused client try again after a second."""
        self._dialling += 1
        self.world.later(SECOND, self._opens_again, self._dialling)

    def _opens_again(self, number: int) -> None:
        if number == self._dialling and not self.final:
            self._open()

    # Outputs.

    def take(self) -> None:
        """Carry out the output of an input that returns none."""
        if self.machine is not None:
            self.carry_out(self.machine.take())

    def carry_out(self, output: Output) -> None:
        """Carry out an output, and the outputs that follow from it, one after the other."""
        self._outputs.append(output)
        if self._settling:
            return
        self._settling = True
        try:
            while self._outputs:
                self._do(self._outputs.popleft())
        finally:
            self._settling = False
        self._look_at_room()

    def _do(self, output: Output) -> None:
        machine = self.machine
        for event in output.events:
            self.world.note(self.name, event)
            self._happened(event)
        if machine is not self.machine or machine is None:
            return
        if output.events and self.actor.stores:
            self._store()
        for connection in output.writable:
            end = self.ends.get(connection)
            if end is not None:
                end.flush()
        for request in output.requests:
            if not isinstance(request, Dial):
                raise Broken("simulator", f"a client does not ask for {request}")
            self._dial(max(0, request.at - self.now))
        for closing in output.closing:
            end = self.ends.get(closing.connection)
            if end is not None:
                end.close(closing)
            else:
                self.carry_out(closing.connection.lost(now=self.now))
        self._arm(None if output.timer is None else output.timer.at)

    def _look_at_room(self) -> None:
        """Stop reading when too many events wait for the user, and read again once it has processed some."""
        full = len(self.inbox) > 64
        if full is not self.full:
            self.full = full
            for end in list(self.ends.values()):
                self.carry_out(end.connection.stopped_reading(full, now=self.now))
        for end in list(self.ends.values()):
            if end.link.down.waiting and end.takes():
                end.link.down.read_on()

    def _arm(self, at: int | None) -> None:
        if at == self._armed:
            return
        self._armed = at
        self._alarm += 1
        if at is not None:
            self.world.at(max(self.world.now, at + self._epoch), self._fire, self._alarm)

    def _fire(self, alarm: int) -> None:
        if alarm == self._alarm and self.machine is not None:
            self._armed = None
            self.carry_out(self.machine.handle_timer(now=self.now))

    # Events of the client.

    def _happened(self, event: Event) -> None:
        match event:
            case JobEvent():
                taken = self.views.emitted(event)
                if event.kind == "delegate":
                    self.views.announced(event.body["child_job_id"], self.views.jobs[event.job_id])
                self._hand_out(event.job_id, event.receipt, taken)
            case JobEnded():
                self._hand_out(event.job_id, event.receipt, self.views.ended(event))
            case JobAccepted():
                _, (_, label, asked_at) = self._answered(event.request_id, "submit")
                left = self.unwanted.get(event.job_id, 0) > asked_at
                view = self.views.accepted(event.job_id, left=left)
                ensure(
                    view.work.owner == self.actor.principal,
                    "I9",
                    f"{self.name} is told that the job of another principal is accepted",
                )
                self.world.known.append(event.job_id)
                self.world.labelled(event.job_id, label)
            case Subscribed():
                if event.request_id is None:
                    self.views.subscribed(event, after=None, own=True)
                else:
                    _, (job_id, after, asked_at) = self._answered(event.request_id, "subscribe")
                    ensure(job_id == event.job_id, "I7", f"{self.name} gets an answer about another job")
                    left = self.unwanted.get(job_id, 0) > asked_at
                    self.views.subscribed(event, after=after, own=False, left=left)
                    if job_id in self.views.over:
                        self.strange[job_id] += 1  # As behind a refusal, if an earlier answer was lost.
            case JobsListed():
                _, listing = self._answered(event.request_id, "list")
                self._listed(listing, event)
            case CancelAcknowledged() if event.request_id is not None:
                self._answered(event.request_id, "cancel")
            case RequestRefused():
                command, what = self._answered(event.request_id, "")
                if command == "submit" and event.code == "JOB_NOT_FOUND":
                    self.views.forgotten.add(what[1])
                if command == "subscribe" and event.code == "JOB_NOT_FOUND":
                    self.views.not_found(what[0])
                if command == "subscribe" and event.code == "JOB_NOT_FOUND":
                    # It may have been carried out, and its answer be lost and kept no longer; a resume by the
                    # next process "sends every kept frame above the cursor" (§2).
                    self.strange[what[0]] += 1
                self.world.refusals.passed_on(event.request_id, event.code, self.actor.principal)
                self.world.count(f"refused {event.code}")
            case _:
                self._session(event)

    def _session(self, event: Event) -> None:
        match event:
            case Welcomed(resumed=resumed):
                self.attached = True
                self.views.session_id = self._session_id
                self.world.count("client resumed" if resumed else "client welcomed")
                if not resumed:
                    self.views.new_session()
            case ConnectionEnded():
                attached, self.attached = self.attached, False
                if self.leaving:
                    return
                if self.closing or (not self.actor.reconnect and (attached or self._refused)):
                    self._forget()
                    self._stored = None
                    self.world.later(100 * MILLISECOND, self.begin)
                elif self._refused:
                    self._open_later()
            case SessionFailed():
                self._refused = True
            case SessionLost(final=final):
                self.world.count(f"session lost {event.code}")
                self.world.check_loss(self, event)
                self.views.new_session()
                if final:
                    self.final = True
            case JobLost(job_id=job_id):
                self.views.lose(job_id)
                self.world.count("job lost")
            case SubscriptionEnded(job_id=job_id):
                view = self.views.noticed(job_id)
                if view is not None and not self.actor.reconnect:
                    view.drop()
            case MarkedProcessed(job_id=job_id, receipt=receipt):
                stopped_at, taken = self.stopped.pop(job_id)
                ensure(receipt == stopped_at, "I1", f"{self.name} processed {receipt}, not {stopped_at}")
                if taken is not None:
                    taken.processed()
            case Detached() | SessionClosed() | CancelAcknowledged():
                return
            case _:
                raise Broken("simulator", f"a client does not tell of {event}")

    def _answered(self, request_id: str, kind: str) -> tuple[str, Any]:
        asked = self.asked.pop(request_id, None)
        if asked is None:
            raise Broken("I7", f"{self.name} gets an answer to {request_id}, which is not open")
        ensure(kind in ("", asked[0]), "I7", f"{self.name} gets an answer to {asked} as to a {kind}")
        return asked

    def _hand_out(self, job_id: str, receipt: int, taken: Taken | None) -> None:
        self.inbox.append((job_id, receipt, taken))
        if self.actor.takes_at_once or self.world.healed:
            self.take_in(1)

    # Actions of the user.

    def take_in(self, count: int) -> None:
        """Process a number of the events that wait."""
        machine = self.machine
        if machine is None:
            return
        for _ in range(min(count, len(self.inbox))):
            job_id, receipt, taken = self.inbox.popleft()
            if job_id in self.stopped:
                self._process(machine, job_id, *self.stopped.pop(job_id))
            if (receipt + self.number) % STOPS_EVERY == 0:
                machine.stopped_iterating(JobId(job_id), receipt, now=self.now)
                self.stopped[job_id] = receipt, taken
            else:
                self._process(machine, job_id, receipt, taken)
        if self._settling:
            self._outputs.append(machine.take())
        else:
            self.take()
        if self.actor.stores and self.world.chance(50):
            self._store()

    def _process(self, machine: Client, job_id: str, receipt: int, taken: Taken | None) -> None:
        machine.mark_processed(JobId(job_id), receipt, now=self.now)
        if taken is not None:
            taken.processed()

    def _store(self) -> None:
        machine = self.machine
        resumption = None if machine is None else machine.resumption()
        if machine is None or resumption is None:
            self._stored = None
            return
        self._stored = (resumption.to_json(), self.views.keep())

    def submit(self, agent: int, key: int, limit: int, **authority: Any) -> None:
        """Submit a job, unless the client is a guest; an idempotency key is one of three."""
        if self.actor.guest:
            return
        self._labels += 1
        name = ("good", "late", "deaf", "endless", "good@1", "absent")[agent % 16 % 6]
        label = f"#{self.number}-{self._labels}"
        keyed = None
        if key % 5 == 0:
            keyed, label, name = f"k{key // 5 % 3}", f"key {key // 16 % 3}", ("good", "deaf")[key // 5 % 2]
        seconds = (1, 5, 60)[limit // 8 % 3] if limit % 8 == 0 else None
        what = (keyed, label, self.world.works.tick())
        terms = {"idempotency_key": keyed, "max_runtime_sec": seconds}
        given = {"label": label, **({"lease": authority["lease_request"]} if authority else {})}
        self._ask("submit", what, agent=name, input=given, **terms, **authority)

    def cancel(self, pick: int) -> None:
        """Cancel a job that the client follows, or any known job."""
        self.cancel_job(self._some_job(pick))

    def cancel_job(self, job_id: str) -> None:
        """Cancel this job, unless the client is a guest."""
        if self.actor.guest:
            return
        self._ask("cancel", None, job_id=job_id, reason="r")

    def watch(self, job_id: str) -> None:
        """Observe a delegated job from its beginning, unless its events come by themselves."""
        work = self.world.truth.jobs.get(job_id)
        if work is not None and (self.machine is None or work.home != self._session_id):
            what = (job_id, 0, self.world.works.tick())
            self._ask("subscribe", what, job_id=job_id, after=0, history=True)

    def subscribe(self, pick: int, how: int) -> None:
        """Observe a job, from now on or from a position of its history."""
        job_id = self._some_job(pick)
        after = how // 2 % 8 if how & 1 else None
        if how & 64:
            after = 0
        self._ask(
            "subscribe",
            (job_id, after, self.world.works.tick()),
            job_id=job_id,
            after=after,
            history=after is not None,
        )

    def unsubscribe(self, pick: int) -> None:
        """Unsubscribe from a job."""
        machine, job_id = self.machine, self._some_job(pick)
        if machine is None:
            return
        try:
            machine.unsubscribe(JobId(job_id), now=self.now)
        except LocalProtocolError:
            return
        view = self.views.jobs.get(job_id)
        if view is None or view.leave():
            self.unwanted[job_id] = self.world.works.tick()
        if self.actor.stores:
            self._store()
        self.take()

    def list_jobs(self, how: int) -> None:
        """List jobs."""
        self._ask("list", None, limit=(None, 1, 3)[how % 3], status=["running"] if how & 4 else None)

    def page(self, how: int, which: int) -> None:
        """Read the next page of the listing, or the first page of a new one."""
        listing, self.listing = self.listing, None
        if listing is None:
            status = (None, ["running"], ["running", "pending"], ["success", "error"])[which % 4]
            agent = (None, None, None, "good", "good@2")[which // 4 % 5]
            listing = Listing({"status": status, "agent": agent, "limit": (1, 2, 3)[how % 3]}, None, set())
        self._ask("list", listing, cursor=listing.cursor, **listing.terms)

    def list_by(self, cursor: str) -> None:
        """List jobs with a cursor that this client was not given, or was given for another filter."""
        self._ask("list", None, cursor=cursor, limit=1)

    def _listed(self, listing: Listing | None, event: JobsListed) -> None:
        """Check that no job of a page was on an earlier page, and remember the next cursor."""
        if listing is None:
            return
        ids = [entry.job_id for entry in event.jobs]
        ensure(
            not listing.seen & {*ids} and len({*ids}) == len(ids),
            "I7",
            f"{self.name} is shown a job on two pages: {ids}",
        )
        if event.next_cursor is not None:
            self.listing = Listing(listing.terms, event.next_cursor, listing.seen | {*ids})

    def _ask(self, command: str, what: Any, **arguments: Any) -> None:
        machine = self.machine
        if machine is None or self.final:
            return
        method = {"list": "list_jobs"}.get(command, command)
        try:
            request_id = getattr(machine, method)(now=self.now, **arguments)
        except LocalProtocolError:
            self.world.count("local refusal")
            return
        self.asked[request_id] = (command, what)
        self.take()

    def close(self) -> None:
        """Close the session."""
        if self.machine is not None and self.attached:
            self.closing = True
            self.machine.close("enough", now=self.now)
            self.take()

    def leave(self) -> None:
        """Detach from the session; the next process resumes it after a while."""
        machine = self.machine
        if machine is None or not self.actor.stores:
            return
        self._store()
        self.leaving = True
        machine.detach(now=self.now)
        self.take()
        self.leaving = False
        self._forget()
        self.world.later(self.world.pick(30) * SECOND, self.begin)

    def _some_job(self, pick: int) -> str:
        own = list(self.views.jobs)
        if own and pick % 4:
            return own[pick // 4 % len(own)]
        known = self.world.known
        return known[pick // 4 % len(known)] if known else "job_absent"

    def missing(self) -> str | None:
        """Return what the client still has to be told; None if it has been told all."""
        if self.machine is None or not self.attached:
            return "not attached"
        if self.asked:
            return f"no answer to {self.asked}"
        for view in self.views.jobs.values():
            entitled = self.world.works.may_observe(self.actor.principal, view.work.owner)
            if entitled and view.comes and view.waits:
                return f"no end of {view.work.job_id}"
        return None

    def retire(self) -> None:
        """Stop the process, which does not start again."""
        self.retired = True
        self._forget()

    def heal(self) -> None:
        """Process every event from now on as it comes."""
        self.begin()
        self.take_in(len(self.inbox))
