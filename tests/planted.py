"""Bugs that are planted by name, to see which tests and judges find them; the packages do not contain them.

`plant` switches a bug on for the duration of a test, and counts its effects. As a plugin this module shows
which layer of tests finds a bug: `pytest -p tests.planted --planted NAME tests/unit`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from arcp_proto import Phase
from arcp_proto.client import fast_path, resuming
from arcp_proto.client.acks import Acks
from arcp_proto.client.followed_job import FollowedJob
from arcp_proto.client.session import ClientSession
from arcp_proto.client.state import ClientState
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.outbox import Outbox
from arcp_proto.engine.output import JobLost
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import SECOND, Monotonic
from arcp_proto.server import dispatch
from arcp_proto.server.credentials import model
from arcp_proto.server.credentials.model import Rotated
from arcp_proto.server.jobs import completion, fan_out, listing, submission, submit_queue
from arcp_proto.server.jobs.fan_out import append
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.journal import apply, records, snapshot
from arcp_proto.server.journal import recovery as restoring
from arcp_proto.server.journal.records import Released
from arcp_proto.server.sessions import handshake, subscriptions
from arcp_proto.server.sessions.admission_control import Caps
from arcp_proto.server.sessions.session import Session
from arcp_proto.server.state import RuntimeState
from arcp_proto.wire.codec import Envelope
from arcp_proto.wire.envelopes import Entry
from arcp_proto.wire.messages import Ack, Submit, Welcome

Patch = pytest.MonkeyPatch


class Hits:
    """A count of the chances of a bug to take effect, and of its effects."""

    def __init__(self) -> None:
        self.chances = 0
        self.count = 0

    def hit(self, one_in: int = 1) -> bool:
        """Count a chance, and return whether the bug takes effect: at every `one_in`-th chance."""
        self.chances += 1
        happens = self.chances % one_in == 0
        self.count += happens
        return happens

    def hit_job(self, job_id: str, one_in: int = 3) -> bool:
        """Count a chance, and return whether the bug takes effect, which is always the same for a job."""
        happens = zlib.crc32(job_id.encode()) % one_in == 0
        self.chances += 1
        self.count += happens
        return happens


Bug = Callable[[Patch, Hits], None]
BUGS: Final[dict[str, Bug]] = {}
"""Bugs by name."""


def bug(planted: Bug) -> Bug:
    """Add a bug to BUGS."""
    BUGS[planted.__name__] = planted
    return planted


def plant(name: str, patch: Patch) -> Hits:
    """Switch a bug on until `patch` is undone."""
    hits = Hits()
    BUGS[name](patch, hits)
    return hits


# The plugin.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--planted", choices=BUGS, help="the bug that is switched on in every test")


@pytest.fixture(autouse=True)
def planted(request: pytest.FixtureRequest, monkeypatch: Patch) -> Iterator[None]:
    """Switch on the bug of the command line for a test."""
    name = request.config.getoption("planted")
    if name is None:
        yield
        return
    hits = plant(name, monkeypatch)
    yield
    if hits.count:
        print(f"{name}: {hits.count} of {hits.chances}")


# Resumes.


@bug
def event_skipped_at_a_resume(patch: Patch, hits: Hits) -> None:
    """Leave out the first event of the replay in one of three resumes."""
    original = handshake._welcome

    def welcome(runtime: RuntimeState, pending: handshake.Pending, session: Session, cursor: int) -> None:
        original(runtime, pending, session, cursor)
        if pending.resume is not None and cursor < session.log.last and hits.hit(3):
            pending.connection.outbox.cursor += 1

    patch.setattr(handshake, "_welcome", welcome)


@bug
def last_event_again_after_a_takeover(patch: Patch, hits: Hits) -> None:
    """Replay the last event once more to a connection that takes over a session."""
    taken: dict[str, bool] = {}
    take_over, welcome = handshake._take_over, handshake._welcome

    def note(runtime: RuntimeState, session: Session, connection: ConnectionState) -> None:
        taken[session.id] = session.connection is not None
        take_over(runtime, session, connection)

    def again(runtime: RuntimeState, pending: handshake.Pending, session: Session, cursor: int) -> None:
        early = taken.pop(session.id, False) and cursor >= session.log.first and hits.hit()
        welcome(runtime, pending, session, cursor - early)

    patch.setattr(handshake, "_take_over", note)
    patch.setattr(handshake, "_welcome", again)


@bug
def last_event_again_under_a_new_number(patch: Patch, hits: Hits) -> None:
    """Append the last event of a session once more, with a new number, at a takeover."""
    original = handshake._take_over

    def take_over(runtime: RuntimeState, session: Session, connection: ConnectionState) -> None:
        again = session.connection is not None and len(session.log) > 0 and hits.hit()
        original(runtime, session, connection)
        if again:
            append(runtime, session, session.log.between(session.log.last - 1, session.log.last)[0])

    patch.setattr(handshake, "_take_over", take_over)


@bug
def rest_given_back_twice(patch: Patch, hits: Hits) -> None:
    """Return the rest of a child's budget twice if the child has siblings."""
    original = apply._leave

    def leave(job: Job, parent: Job) -> None:
        own = job.budget
        if (
            own is not parent.budget
            and len(parent.children) > 1
            and any(own.remaining.values())
            and hits.hit()
        ):
            parent.budget.give_back(own.remaining)
        original(job, parent)

    patch.setattr(apply, "_leave", leave)


@bug
def revoked_value_in_a_replay(patch: Patch, hits: Hits) -> None:
    """Keep the value of a rotated credential in the event that reported it."""

    def forget(rotated: Rotated) -> None:
        hits.hit()

    patch.setattr(model.Rotated, "forget", forget)


@bug
def finished_keys_lost_at_a_restart(patch: Patch, hits: Hits) -> None:
    """Forget the idempotency keys of finished jobs at a restart."""
    original = restoring.restore

    def restore(runtime: RuntimeState, kept: Any) -> None:
        original(runtime, kept)
        for principal, key, claim in list(runtime.keys.items()):
            if claim.ended is not None and hits.hit():
                apply._key_forgotten(runtime, records.KeyForgotten(principal, key))

    patch.setattr(restoring, "restore", restore)


@bug
def detached_observer_keeps_seeing(patch: Patch, hits: Hits) -> None:
    """Keep the observations of detached sessions when their right ends."""
    original = subscriptions.revoke

    def revoke(runtime: RuntimeState) -> None:
        attached = {id: session for id, session in runtime.sessions.items() if session.connection is not None}
        for session in runtime.sessions.values():
            if session.connection is None:
                for job in session.observed.values():
                    right = subscriptions.right_to(runtime, session, job)
                    if right is not subscriptions.Right.OBSERVE:
                        hits.hit()
        everybody, runtime.sessions = runtime.sessions, attached
        try:
            original(runtime)
        finally:
            runtime.sessions = everybody

    patch.setattr(subscriptions, "revoke", revoke)


@bug
def gap_in_place_of_an_overrun(patch: Patch, hits: Hits) -> None:
    """Continue a connection with later events after its next event was evicted."""
    original = Outbox._next_events

    def next_events(outbox: Outbox, upto: int, size: int) -> list[bytes]:
        session = outbox.session
        if session is not None and outbox.cursor + 1 < session.log.first <= upto and hits.hit():
            outbox.cursor = session.log.first - 1
        return original(outbox, upto, size)

    patch.setattr(Outbox, "_next_events", next_events)


@bug
def ack_beyond_the_last_number(patch: Patch, hits: Hits) -> None:
    """Accept an ack of the number behind the last one."""

    def on_ack(runtime: RuntimeState, connection: ConnectionState, envelope: Envelope, ack: Ack) -> None:
        session = connection.session
        if session is not None and ack.last_processed_seq == session.log.last + 1 and hits.hit():
            runtime.commit(Released(session.id, ack.last_processed_seq))
        else:
            dispatch.on_ack(runtime, connection, envelope, ack)

    _handle(patch, "session.ack", on_ack)


@bug
def cursor_skips_a_job(patch: Patch, hits: Hits) -> None:
    """Leave out a job of a page if the last job of the page before has changed its status since."""
    original = listing.page

    def page(
        table: listing.Listing, owners: Any, filter: listing.Filter, below: int | None, limit: int, scan: int
    ) -> tuple[list[Job], int | None]:
        jobs, next_below = original(table, owners, filter, below, limit, scan)
        if below is None or filter.statuses is None or not jobs:
            return jobs, next_below
        before = table._jobs.get(below)
        if (before is None or not filter.matches(before)) and hits.hit():
            return jobs[1:], next_below
        return jobs, next_below

    patch.setattr(dispatch, "page", page)


@bug
def resume_window_stays_armed(patch: Patch, hits: Hits) -> None:
    """Keep the resume window armed after one of three resumes, so that it ends the session."""
    original = handshake._take_over

    def take_over(runtime: RuntimeState, session: Session, connection: ConnectionState) -> None:
        at = runtime.timers.armed(TimerKind.RESUME_WINDOW, session.id)
        original(runtime, session, connection)
        if at is not None and hits.hit(3):
            runtime.timers.arm(TimerKind.RESUME_WINDOW, session.id, at)

    patch.setattr(handshake, "_take_over", take_over)


@bug
def connections_of_another_counted_down(patch: Patch, hits: Hits) -> None:
    """Subtract an ended connection from another principal's count as well."""
    original = Caps.gone

    def gone(caps: Caps, connection: ConnectionState, now: Monotonic) -> None:
        allowance = caps.allowances.get(connection.number)
        original(caps, connection, now)
        if allowance is not None:
            for group, standing in caps.standings.items():
                if group != allowance.group and standing.connections > 0 and hits.hit():
                    standing.connections -= 1
                    return

    patch.setattr(Caps, "gone", gone)


@bug
def valid_resume_refused(patch: Patch, hits: Hits) -> None:
    """Refuse the resume of one in five valid tokens."""
    original = handshake._find

    def find(runtime: RuntimeState, resume: Any) -> Session | None:
        session = original(runtime, resume)
        return None if session is not None and hits.hit(5) else session

    patch.setattr(handshake, "_find", find)


# Ends of jobs.


@bug
def terminal_twice_at_home(patch: Patch, hits: Hits) -> None:
    """Send the end of one in three jobs twice to its submitting session."""
    original = apply._job_ended

    def job_ended(runtime: RuntimeState, record: records.JobEndedRecord) -> None:
        job = runtime.jobs[record.job_id]
        home = job.home
        original(runtime, record)
        if home is not None and job.end is not None and hits.hit_job(job.id):
            append(runtime, home, apply.terminal(runtime, job, home, job.end, record.whole, observed=False))

    patch.setitem(apply.APPLY, records.JobEndedRecord, job_ended)


@bug
def page_leaves_out_jobs(patch: Patch, hits: Hits) -> None:
    """Leave out one in three jobs of every page."""
    original = listing.page

    def page(*arguments: Any) -> tuple[list[Job], int | None]:
        jobs, next_below = original(*arguments)
        return [job for job in jobs if not hits.hit_job(job.id)], next_below

    patch.setattr(dispatch, "page", page)


@bug
def max_runtime_not_armed_after_a_restart(patch: Patch, hits: Hits) -> None:
    """Start a job again without its limit of run time."""
    original = submission.go

    def go(runtime: RuntimeState, job: Job, input: Any, attempt: int) -> None:
        original(runtime, job, input, attempt)
        if attempt > 1 and runtime.timers.armed(TimerKind.MAX_RUNTIME, job.id) is not None and hits.hit():
            runtime.timers.disarm(TimerKind.MAX_RUNTIME, job.id)

    patch.setattr(submission, "go", go)


@bug
def other_observers_never_get_the_end(patch: Patch, hits: Hits) -> None:
    """Send observers of another principal's job all events but no end."""
    job_ended, catch_up = apply._job_ended, apply._catch_up

    def ended(runtime: RuntimeState, record: records.JobEndedRecord) -> None:
        job = runtime.jobs[record.job_id]
        for session in list(job.observers.values()):
            if session.principal != job.terms.principal and hits.hit():
                del job.observers[session.id], session.observed[job.id]
        job_ended(runtime, record)

    def caught_up(runtime: RuntimeState, session: Session, job: Job) -> None:
        if job.end is not None and session.principal != job.terms.principal and hits.hit():
            del session.observed[job.id]
        else:
            catch_up(runtime, session, job)

    patch.setitem(apply.APPLY, records.JobEndedRecord, ended)
    patch.setattr(apply, "_catch_up", caught_up)


@bug
def submit_refused_as_busy(patch: Patch, hits: Hits) -> None:
    """Refuse one in ten submits as busy."""

    def on_submit(
        runtime: RuntimeState, connection: ConnectionState, envelope: Envelope, submit: Submit
    ) -> None:
        if hits.hit(10):
            raise Refusal(ErrorCode.INTERNAL_ERROR, "busy")
        submit_queue.on_submit(runtime, connection, envelope, submit)

    _handle(patch, "job.submit", on_submit)


@bug
def cancel_stops_no_restarted_agent(patch: Patch, hits: Hits) -> None:
    """Cancel a restarted job without a stop of its agent."""
    original = completion.stop_agent

    def stop_agent(runtime: RuntimeState, job: Job, reason: str) -> None:
        if job.attempt > 1 and hits.hit():
            at = Monotonic(runtime.now + runtime.limits.stop_grace_sec * SECOND)
            runtime.timers.arm(TimerKind.GRACE, job.id, at)
        else:
            original(runtime, job, reason)

    patch.setattr(completion, "stop_agent", stop_agent)


# Other bugs.


@bug
def client_gives_up_a_job_after_a_resume(patch: Patch, hits: Hits) -> None:
    """Report one in three jobs of a client as lost when its session is resumed."""
    original = resuming.welcomed

    def welcomed(client: ClientState, connection: ConnectionState, welcome: Welcome) -> None:
        before = client.session
        resumed = isinstance(before, ClientSession) and before.id == welcome.session_id
        original(client, connection, welcome)
        session = client.session
        if resumed and session is not None:
            for job_id in list(session.jobs):
                if hits.hit_job(job_id):
                    session.forget_job(job_id)
                    client.happened(JobLost(job_id, "CONNECTION_LOST", "planted"))

    patch.setattr(resuming, "welcomed", welcomed)


@bug
def history_begins_one_late(patch: Patch, hits: Hits) -> None:
    """Leave out the first event of a replayed history."""
    original = subscriptions.observe

    def observe(runtime: RuntimeState, session: Session, job: Job, start: int | None) -> None:
        late = start is not None and start < job.history.end and hits.hit()
        original(runtime, session, job, start + 1 if start is not None and late else start)

    patch.setattr(subscriptions, "observe", observe)


@bug
def last_event_twice_when_live(patch: Patch, hits: Hits) -> None:
    """Send the last event of a history again to an observer that has caught up."""
    original = apply._catch_up

    def catch_up(runtime: RuntimeState, session: Session, job: Job) -> None:
        history = job.history
        if job.end is None and history.events and hits.hit():
            for payload, _, feature in history.between(history.end - 1, history.end):
                if feature is None or model.takes(job, session, feature):
                    entry = Entry(job.head(apply.JOB_EVENT), payload, history.end)
                    append(runtime, session, entry)
        original(runtime, session, job)

    patch.setattr(apply, "_catch_up", catch_up)


@bug
def superseded_token_stays_valid(patch: Patch, hits: Hits) -> None:
    """Accept a resume token after a later one has superseded it."""
    prove, find = Session.prove, handshake._find
    old: dict[bytes, str] = {}

    def proven(session: Session, digest: bytes) -> list[bytes]:
        over = prove(session, digest)
        old.update(dict.fromkeys(over, session.id))
        return over

    def found(runtime: RuntimeState, resume: Any) -> Session | None:
        session = find(runtime, resume)
        if session is None:
            digest = handshake.Secret(resume.resume_token).digest()
            session = runtime.sessions.get(old.get(digest, ""))
            if session is not None:
                hits.hit()
                if digest not in session.tokens:
                    session.tokens.insert(0, digest)
                    runtime.tokens[digest] = session
        return session

    patch.setattr(Session, "prove", proven)
    patch.setattr(handshake, "_find", found)


@bug
def dead_peer_never_given_up(patch: Patch, hits: Hits) -> None:
    """Keep the connection of a silent peer open."""

    def silent(runtime: RuntimeState, connection: ConnectionState) -> None:
        hits.hit()

    patch.setattr(RuntimeState, "_silent", silent)


@bug
def ack_frees_one_too_many(patch: Patch, hits: Hits) -> None:
    """Free one event more than an ack allows."""
    original = apply._released

    def released(runtime: RuntimeState, record: Released) -> None:
        original(runtime, record)
        session = runtime.sessions[record.session_id]
        if session.log.last > record.seq and hits.hit():
            apply._free(runtime, session, record.seq + 1)

    patch.setitem(apply.APPLY, Released, released)


# Positions of events.


@bug
def position_of_what_the_submitter_takes(patch: Patch, hits: Hits) -> None:
    """Send a history with positions that leave out the kinds of events that the submitter does not take."""
    original, entry = apply._replayed, apply.Entry

    def replayed(runtime: RuntimeState, record: records.Replayed) -> None:
        job = runtime.jobs[record.job_id]
        home, history = job.home, job.history
        taken = frozenset[str]() if home is None else home.features
        past = enumerate(history.between(history.first, history.end), history.first + 1)
        left_out = [
            position
            for position, (_, _, feature) in past
            if home is not None and feature is not None and feature not in taken
        ]

        def shifted(head: bytes, payload: bytes, position: int) -> Entry:
            shift = sum(one < position for one in left_out)
            return entry(head, payload, position - shift if shift and hits.hit() else position)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(apply, "Entry", shifted)
            original(runtime, record)

    patch.setitem(apply.APPLY, records.Replayed, replayed)


@bug
def position_given_anew_after_a_restart(patch: Patch, hits: Hits) -> None:
    """Give the last position of a job again after a restore from a snapshot."""
    number, entry, restore = fan_out.number, fan_out.Entry, restoring.restore
    restored: dict[int, Job] = {}
    reading: list[RuntimeState] = []

    def read(runtime: RuntimeState, kept: Any) -> None:
        reading.append(runtime)
        restore(runtime, kept)
        reading.remove(runtime)

    def job_kept(runtime: RuntimeState, record: records.JobKept) -> None:
        snapshot.job_kept(runtime, record)
        job = runtime.jobs[record.terms.job_id]
        if job.history.end:
            restored[id(job)] = job

    def anew(runtime: RuntimeState, job: Job, *arguments: Any, **options: Any) -> bool:
        def lower(head: bytes, payload: bytes, position: int, *more: Any) -> Entry:
            return entry(head, payload, position - 1 if position > 1 and hits.hit() else position, *more)

        if id(job) not in restored or runtime in reading:
            return number(runtime, job, *arguments, **options)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(fan_out, "Entry", lower)
            return number(runtime, job, *arguments, **options)

    patch.setattr(restoring, "restore", read)
    patch.setitem(apply.APPLY, records.JobKept, job_kept)
    patch.setattr(apply, "number", anew)


@bug
def copy_is_taken_after_a_run(patch: Patch, hits: Hits) -> None:
    """Forget in the client that the events of a run were handed out."""
    original = fast_path._hand_out

    def hand_out(session: ClientSession, job: FollowedJob | None, *lists: Any) -> None:
        before = 0 if job is None else job.cursor
        original(session, job, *lists)
        if job is not None and job.cursor > before and hits.hit():
            job.cursor = before

    patch.setattr(fast_path, "_hand_out", hand_out)


@bug
def new_event_dropped_after_a_lost_session(patch: Patch, hits: Hits) -> None:
    """Drop the first event of a job after a lost session, as if it were a copy."""
    lose, takes = FollowedJob.lose, FollowedJob.takes
    is_plain: Any = FollowedJob.is_plain
    lost: set[FollowedJob] = set()

    def lose_all(job: FollowedJob) -> None:
        lost.add(job)
        lose(job)

    def drop(job: FollowedJob, position: int | None, seq: int, envelope_id: str) -> bool:
        taken = takes(job, position, seq, envelope_id)
        if taken and position is not None and job in lost:
            lost.remove(job)
            hits.hit()
            return False
        return taken

    patch.setattr(FollowedJob, "lose", lose_all)
    patch.setattr(FollowedJob, "takes", drop)
    patch.setattr(FollowedJob, "is_plain", property(lambda job: job not in lost and is_plain.fget(job)))


@bug
def recovery_asks_from_one_too_high(patch: Patch, hits: Hits) -> None:
    """Leave out the event behind the cursor in a subscribe of the client's own."""
    original = FollowedJob.asks_after.fget

    def asks_after(job: FollowedJob) -> int:
        hits.hit()
        return original(job) + 1

    patch.setattr(FollowedJob, "asks_after", property(asks_after))


@bug
def history_asked_again_is_dropped(patch: Patch, hits: Hits) -> None:
    """Drop a history that the user asks for again, as if its events were copies."""
    original = ClientSession.go_back

    def go_back(session: ClientSession, job: FollowedJob, position: int) -> None:
        again = position < job.cursor and hits.hit()
        original(session, job, job.cursor if again else position)

    patch.setattr(ClientSession, "go_back", go_back)


@bug
def set_back_before_it_is_processed(patch: Patch, hits: Hits) -> None:
    """Store the position that a job was set back to while the user still holds earlier events."""
    original = Acks.set_back

    def set_back(acks: Acks, job: FollowedJob, position: int) -> None:
        if acks.holds(job.id) and hits.hit():
            job.processed(position, placed=True)
        else:
            original(acks, job, position)

    patch.setattr(Acks, "set_back", set_back)


@bug
def failed_first_dial_is_the_last(patch: Patch, hits: Hits) -> None:
    """Ask for no other transport after the first cannot be opened, or ends before the welcome."""

    def not_opened(client: ClientState) -> None:
        hits.hit()

    patch.setattr(resuming, "not_opened", not_opened)


@bug
def stored_session_is_dialled_once(patch: Patch, hits: Hits) -> None:
    """Ask for one transport only if a client without resume has a stored session."""
    original = resuming.not_opened

    def not_opened(client: ClientState) -> None:
        if client.session is None or not hits.hit():
            original(client)

    patch.setattr(resuming, "not_opened", not_opened)


def _handle(patch: Patch, kind: str, handle: Any) -> None:
    """Replace the handler of a message type in an open session."""
    rules: Any = dispatch.HANDLERS[Phase.OPEN]
    patch.setitem(rules, kind, msgspec.structs.replace(rules[kind], handle=handle))
