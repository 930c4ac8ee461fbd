"""The events that the user of an honest client gets of each job: each once, in order, or a notice why not.

The user has one cursor in each job: the position of its last event. It gets the next event that its session
has to get, and no other. A history that it asks for again sets the cursor back (§5, Positions).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arcp_proto.engine.output import JobEnded, JobEvent, Subscribed
from tests.reference.cursor import Cursor, Step
from tests.reference.streams import begins
from tests.reference.wire import FINAL, is_notice

from .broken import Broken, ensure
from .truth import Work, mark_of

if TYPE_CHECKING:
    from .world import World

BROKEN = -1
"""The value for the next chunk of a result when a chunk is missing, so that the first has to come again."""


@dataclass(slots=True)
class View(Cursor):
    """The state of one job in the client of one user."""

    work: Work
    cursor: int = 0
    asked: bool = False
    """The user has asked for the job, and has not unsubscribed: the client follows it."""
    submitted: bool = False
    """The user has submitted the job, which it follows to its end even if it unsubscribes."""
    own: bool = False
    """The job was accepted, or announced as a child, in this session, where its events come by themselves."""
    known: bool = True
    """The client knows that the events come by themselves. It may not know that of a child whose parent
    was accepted by a key: "the first payload" answers a repeated key, and does not say which submit has
    made the job (§7.2). Nor does a new process know it of a child before its announcement comes again, which
    it does if an earlier process has not processed it."""
    unsure: bool = False
    """The client may know that or not: its parent was accepted by a key in this session, in which case the
    trace id and the time of the answer say to most clients that their submit has made it (§7.2)."""
    stays: bool = False
    """The user has unsubscribed from a child of which the client is `unsure`, and which it follows on, or
    leaves: "nothing more comes of it, unless it is one of ours or a child"."""
    unwanted: bool = False
    """The user has unsubscribed from a child whose events come by themselves, which the next process does
    not know."""
    dropped: bool = False
    """The runtime has ended the subscription of a client that does not ask again. Events that are not
    processed come to the next process, since a resume sends "every kept frame above the cursor" (§2)."""
    waits: bool = True
    """The user waits for the end of the job."""
    cut: int = 0
    """Events up to this position may be missing: the user was told so."""
    joined: bool = False
    """The job was accepted by a key, so that no answer tells of a history that was cut (§7.2)."""
    ended: bool = False
    lost: bool = False
    done: int = 0
    held: deque[Step] = field(default_factory=deque)
    chunk: int = 0
    """The chunk of the result that the client can join next."""

    @property
    def followed(self) -> bool:
        """Whether the client follows the job, and the job goes on."""
        return self.asked and not (self.ended or self.lost)

    @property
    def comes(self) -> bool:
        """Whether further events of the job may come."""
        return (self.asked or self.own or self.stays) and not (self.ended or self.lost)

    def leave(self) -> bool:
        """Unsubscribe: "nothing more comes of it, unless it is one of ours or a child".

        Return whether that changes anything.
        """
        known = self.own and self.known
        if self.followed and (self.submitted or known):
            return False
        self.stays = (self.followed or self.stays) and self.own and self.unsure
        self.unwanted, self.own, self.asked = self.own, self.own and self.comes, False
        self.dropped = False
        self.waits = known and self.own
        return True

    def begin(self, after: int) -> None:
        """Follow the job from behind a position; the client did not follow it, or the job has ended."""
        if not (self.asked and self.ended and self.held):
            self.held = deque()  # The events still held are of an earlier subscription.
        self.submitted = False
        self.own = self.own and self.work.parent is not None
        self.asked, self.waits, self.ended, self.lost, self.unwanted = True, True, False, False, False
        self.dropped = self.stays = False
        self.chunk = 0
        self.go(after)

    def drop(self) -> None:
        """End the subscription; the client does not ask again."""
        self.asked, self.own, self.dropped = False, False, True

    def handed(self, position: int | None) -> Taken:
        """Give the user an event, or a notice."""
        self.hand(position)
        return Taken(self, self.held)

    def join(self, chunk: int) -> None:
        """Take a chunk of the result: "the client checks order, size and end" (§7)."""
        if chunk == self.chunk or chunk == 0:
            self.chunk = max(self.chunk, chunk + 1)
        elif chunk > self.chunk:
            self.chunk = BROKEN

    def kept(self) -> View:
        """Return the state with which another process of the client would begin now."""
        over = self.ended and not self.held  # For the next process a job is over once its end is processed.
        kept = View(*_ALL_OF(self))
        owed = self.dropped and bool(self.held)
        kept.own = (self.own or owed) and not self.unwanted
        kept.known = self.known and self.asked
        kept.cursor, kept.ended, kept.held, kept.chunk = self.done, over, deque(), 0
        return kept


_ALL_OF: Final = attrgetter(*(part.name for part in fields(View)))
"""All attributes of a view, in the order of its parameters; a loop would be slow, since copies are
frequent."""


class Taken(NamedTuple):
    """An event that the user holds, with the events of the job that it held then."""

    view: View
    held: deque[Step]

    def processed(self) -> None:
        """Mark this event and all before it as processed."""
        if self.held is self.view.held:
            self.view.processed()


class Views:
    """The jobs of one user, and the check of each event of its client."""

    def __init__(self, who: str, principal: str, world: World, features: frozenset[str]) -> None:
        self.jobs: dict[str, View] = {}
        self.who = who
        self.features = features
        self.session_id: str | None = None
        self.strange: Counter[str] = Counter()
        """Jobs and keys -> the requests for them that had no answer when an earlier process died.

        A store keeps "session id, token, cursor" and no requests, so that the next process need not get their
        events; whether it may get them is checked in the session (see `Runs`).
        """
        self.forgotten: set[str] = set()
        """Labels of submits that were answered by jobs that are over and forgotten."""
        self.over: dict[str, str] = {}
        """Statuses of jobs that were over when they were subscribed to, until the client reports them as
        ends."""
        self.restarted = False
        """An earlier process has begun the session."""
        self._principal = principal
        self._truth = world.truth
        self._works = world.works

    # Answers.

    def accepted(self, job_id: str, *, left: bool) -> View:
        """Take an accepted job, which may be known. `left`: the user has unsubscribed since the submit."""
        work = self._work(job_id)
        view = self.jobs.setdefault(job_id, View(work))
        if not view.followed:
            view.begin(0)
            view.own, view.joined = True, work.key is not None
        view.submitted, view.waits = True, not left or work.home == self.session_id
        return view

    def announced(self, job_id: str, parent: View) -> None:
        """Take a new child: its events come by themselves if its parent is of this session."""
        work = self._truth.jobs.get(job_id)
        if work is not None and parent.work.home == self.session_id:
            view = self.jobs.setdefault(job_id, View(work))
            sure = parent.own and parent.known and parent.work.key is None
            view.own, view.known = True, sure
            view.unsure = parent.own and parent.known and not sure

    def subscribed(self, told: Subscribed, *, after: int | None, own: bool, left: bool = False) -> None:
        """Take the answer to a subscribe; `after` None: live. `own`: the client has sent it by itself.

        `left` means that the user has unsubscribed since the request.
        """
        work, view = self._work(told.job_id), self.jobs.get(told.job_id)
        if own and view is None:
            raise Broken("I1", f"{self.who} is subscribed to {told.job_id}, which it does not follow")
        view = view or View(work)
        if told.history_from is not None:
            view.cut = max(view.cut, told.history_from - 1)
        if own or left:
            return
        over, last, followed = told.status in FINAL, told.subscribed_from, view.followed
        place = view.place_of(after, last, over=over, followed=followed)
        if over and begins(after, last) >= last:
            if not followed:
                self.over[told.job_id] = told.status
            return
        self.jobs[told.job_id], view.waits = view, True
        if place is not None:
            (view.go if followed else view.begin)(place)

    def not_found(self, job_id: str) -> None:
        """Take the refusal of a subscribe: the user is told that a job is gone, and need not get its end.

        The end may have come before an answer that was sent again, to which events belong by all that the
        client knows: "the first payload" of a key does not tell it which jobs come by themselves (§6).
        """
        view = self.jobs.get(job_id)
        if view is not None and view.work.forgotten and not (view.known or view.asked):
            view.waits = False

    # Events.

    def emitted(self, event: JobEvent) -> Taken | None:
        """Take an event of a job, or a notice of the session."""
        position = event.job_seq
        if position is None:
            ensure(is_notice(event.kind, event.body), "I1", f"{self.who} gets {event} without a position")
            known = self.noticed(event.job_id, follows=False)
            return None if known is None else known.handed(None)
        view = self._view(event.job_id, position)
        work = view.work
        mark = work.heard[position].mark
        if mark != mark_of(event.kind, event.body):
            raise Broken("I1", f"{self.who} gets {event}, which is not event {position} of {work.job_id}")
        if event.kind == "result_chunk" and view.asked:
            view.join(event.body["chunk_seq"])
        return self._take(view, position)

    def noticed(self, job_id: str, *, follows: bool = True) -> View | None:
        """Return the job of a notice, if the client knows it.

        By the end of a subscription a new process may learn of a job, which it follows from its beginning.
        Other notices follow no job: they do not say how far an earlier process has come.
        """
        view = self.jobs.get(job_id)
        if self.restarted and (view is None or not view.comes):
            return self._found(job_id, 1) if follows else None
        return self._followed(view) if follows else view

    def ended(self, event: JobEnded) -> Taken | None:
        """Take the end of a job; a job that was over when it was subscribed to has no position of it."""
        position = event.job_seq
        if position is None:
            over = self.over.pop(event.job_id, None)
            ensure(
                event.final_status == over,
                "I1",
                f"{self.who} gets {event}, but {event.job_id} had the status {over}",
            )
            return None
        view = self._view(event.job_id, position)
        if event.history_from is not None:
            self._left_alone(view, position)
        taken = self._take(view, position)
        view.ended = True
        self._check_result(view, event)
        return taken

    def _left_alone(self, view: View, position: int) -> None:
        """Take an end that comes alone, as the user is told, since nothing brings the events before it.

        "Unknown and invisible are the same JOB_NOT_FOUND" (§6): the job was forgotten, or the right to it was
        withdrawn.
        """
        work = view.work
        hidden = self._works.rights(self._principal, work.owner, 0) != {"observe"}
        ensure(work.forgotten or hidden, "I1", f"{self.who} cannot get the history of {work.job_id}")
        view.cut = position

    def _take(self, view: View, position: int) -> Taken:
        """Check that an event is the next one behind the cursor, and give it to the user."""
        missing = self._missed(view, position)
        if position <= view.cursor or missing is not None:
            what = f"{self.who} gets event {position} of {view.work.job_id}"
            raise Broken("I1", f"{what}: its cursor is {view.cursor}, and it lacks {missing}")
        if view.joined:
            view.cut = max(view.cut, position - 1)  # The next process gets no notice of the others.
        view.cursor, view.joined = position, False
        return view.handed(position)

    def _missed(self, view: View, upto: int) -> int | None:
        """Return the first position behind the cursor that is missing; None if there is none."""
        work = view.work
        if work.cut and (view.joined or "subscribe" not in self.features):
            return None  # No answer to a key tells of a cut, "subscribe negotiated or not".
        takes = work.takes(self._principal, self.features)
        return work.missed(max(view.cursor, view.cut), upto, takes, self.who)

    def _work(self, job_id: str) -> Work:
        work = self._truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{self.who} gets the answer {job_id}, which does not exist")
        return work

    def _view(self, job_id: str, position: int) -> View:
        """Return the state of a job of which events may come."""
        view = self.jobs.get(job_id)
        if view is None or not view.comes:
            view = self._found(job_id, position) or view
        elif self.restarted and not view.asked and self.strange[job_id] > 0:
            self._set_back(view, position)
        if view is None or not (view.comes or view.ended):
            raise Broken("I1", f"{self.who} gets an event of {job_id}, which it does not follow")
        ensure(not view.ended, "I2", f"{self.who} gets event {position} of {job_id} after its end")
        return self._followed(view) or view

    def _followed(self, view: View | None) -> View | None:
        """Follow a child whose events come in a new process or in another session; return its state."""
        follows = view is not None and (self.restarted or (view.stays and not view.own))
        if view is not None and follows and view.comes and not view.asked:
            view.asked, view.chunk = True, 0
        return view

    def _found(self, job_id: str, position: int) -> View | None:
        """Return a job of a request whose answer was lost; None if there is none.

        An earlier process may have asked for it. Or the user was told that the job of its submit is over and
        forgotten; if the agent of that job never started, its label is unknown. Events of a submitted job
        come from its beginning, those of others from where the request asked for them.
        """
        work, view = self._truth.jobs.get(job_id), self.jobs.get(job_id)
        unnamed = work is not None and not work.label and work.forgotten and work.home == self.session_id
        if (
            work is not None
            and view is None
            and (work.label in self.forgotten or (unnamed and self.forgotten))
        ):
            view = self.jobs[job_id] = View(work, own=True)
            return view
        if work is None or not self.restarted:
            return None
        asked = [one for one in (job_id, work.key or "") if self.strange[one] > 0]
        if not asked and (view is not None or work.home != self.session_id):
            return None
        self.strange.subtract(asked)
        view = self.jobs[job_id] = View(work, cut=0 if view is None else view.cut)
        view.begin(position - 1 if asked else 0)
        view.own, view.known = True, False
        view.waits = not asked  # This process need not get the end.
        return view

    def _set_back(self, view: View, position: int) -> None:
        """Set back the cursor in a child, the history of which an earlier process has asked for again.

        Live "already flows" in the session, and "history may be replayed there too" (§6). The client follows
        the child from this event on; it does not know that an earlier process has processed it, since a
        store keeps no child of which all events are acked.
        """
        if position <= view.cursor:
            self.strange[view.work.job_id] -= 1
            view.go(position - 1)

    def _check_result(self, view: View, event: JobEnded) -> None:
        """Check that an end is the one that was sent, with the result that the agent returned or streamed."""
        work = view.work
        end = (None if "result_chunk" in self.features else work.end_inline) or work.end
        if end is None:
            raise Broken("I2", f"{self.who} gets an end of {work.job_id} that was not sent")
        status, code = end["final_status"], end.get("code", "")
        streamed = bool(work.pieces) and "result" not in end and status == "success"
        if streamed and view.asked and view.chunk != work.chunks and event.code:
            return  # The client lacks chunks, which may be cut.
        same = (event.final_status, event.code) == (status, code)
        ensure(
            same, "I2", f"{self.who} reports {event.final_status} {event.code} for the end {status} {code}"
        )
        if status != "success":
            return
        value: Any = "".join(work.pieces) if work.pieces else event.result
        if streamed and not view.asked and not (view.stays and event.result is not None):
            value = None  # A client joins chunks only of jobs that it follows.
        right = event.result == value and (work.pieces or any(value == given for given in work.returned))
        ensure(right, "I2", f"{self.who} gets {event.result!r} as the result of {work.job_id}, not {value!r}")

    def lose(self, job_id: str) -> None:
        """Record that the client reports that it will not learn the end of a job."""
        view = self.jobs.get(job_id)
        if view is not None:
            ensure(not view.ended, "I2", f"{self.who} reports {job_id} as lost, which has ended")
            view.lost = True

    def new_session(self) -> None:
        """Begin another session, in which no events come by themselves."""
        self.restarted = False
        for view in self.jobs.values():
            view.own = False

    # State across processes.

    def keep(self) -> dict[str, View]:
        """Return the state that a user stores together with the store of its client."""
        return {job_id: view.kept() for job_id, view in self.jobs.items()}

    def restore(self, kept: dict[str, View]) -> None:
        """Restore the state in a new process: processed events never come again, and all others do."""
        self.restarted = True
        for job_id, known in kept.items():
            if self._truth.jobs.get(job_id) is known.work:
                self.jobs[job_id] = replace(known, held=deque())
