"""What the user of an honest client was promised: each event of a job once, in order, or a word why not.

The user has one cursor in each job: the position of the last event that it was handed. It is handed the next
one that it takes, and no other. A history that it asks for again sets the cursor back (§5, Positions).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Final, NamedTuple

from arcp_proto.engine.output import JobEnded, JobEvent, Subscribed
from tests.reference.cursor import Cursor, Step
from tests.reference.streams import begins
from tests.reference.wire import FINAL, is_notice

from .broken import Broken, ensure
from .truth import Truth, Work, mark_of

BROKEN = -1
"""In place of the next chunk of a result: one is missing, and the first has to come again."""


@dataclass(slots=True)
class View(Cursor):
    """What one user has of one job."""

    work: Work
    cursor: int = 0
    asked: bool = False
    """The user has asked for it, and has not unsubscribed: the client follows it."""
    submitted: bool = False
    """The user has submitted it: whatever it unsubscribes from, such a job goes on to its end."""
    own: bool = False
    """It was accepted, or announced as a child, in this session, where it comes by itself."""
    known: bool = True
    """The client knows that it comes by itself. Of a child whose parent was accepted by a key it may not:
    "the first payload" answers a repeated key, and does not say whose submit has made the job (§7.2). Nor
    does a new process know it of a child whose announcement an earlier process has processed."""
    unwanted: bool = False
    """The user has unsubscribed from a child that comes by itself, which the next process does not know."""
    dropped: bool = False
    """The runtime has ended the subscription of a client that does not ask again. What of it is not processed
    comes to the next process, since a resume sends "every kept frame above the cursor" (§2)."""
    waits: bool = True
    """The user waits for its end."""
    cut: int = 0
    """Events up to this position may be missing: the user was told so."""
    joined: bool = False
    """It begins by a key, so that nobody tells of a history that was cut (§7.2)."""
    ended: bool = False
    lost: bool = False
    done: int = 0
    held: deque[Step] = field(default_factory=deque)
    chunk: int = 0
    """The chunk of its result that the client can join next."""

    @property
    def followed(self) -> bool:
        """Whether the client follows it, and it goes on."""
        return self.asked and not (self.ended or self.lost)

    @property
    def comes(self) -> bool:
        """Whether anything of it may come."""
        return (self.asked or self.own) and not (self.ended or self.lost)

    def leave(self) -> bool:
        """The user unsubscribes: "nothing more comes of it, unless it is one of ours or a child".

        Return whether that changes anything.
        """
        known = self.own and self.known
        if self.followed and (self.submitted or known):
            return False
        self.unwanted, self.own, self.asked = self.own, self.own and self.comes, False
        self.dropped = False
        self.waits = known and self.own
        return True

    def begin(self, after: int) -> None:
        """Follow it from behind a position; it was not followed, or has ended."""
        if not (self.asked and self.ended and self.held):
            self.held = deque()  # What is still held is of an earlier time.
        self.submitted = False
        self.own = self.own and self.work.parent is not None
        self.asked, self.waits, self.ended, self.lost, self.unwanted = True, True, False, False, False
        self.dropped = False
        self.chunk = 0
        self.go(after)

    def drop(self) -> None:
        """The runtime ends the subscription, and the client does not ask again."""
        self.asked, self.own, self.dropped = False, False, True

    def handed(self, position: int | None) -> Taken:
        """The user holds an event, or a notice."""
        self.hand(position)
        return Taken(self, self.held)

    def join(self, chunk: int) -> None:
        """A chunk of its result has come: "the client checks order, size and end" (§7)."""
        if chunk == self.chunk or chunk == 0:
            self.chunk = max(self.chunk, chunk + 1)
        elif chunk > self.chunk:
            self.chunk = BROKEN

    def kept(self) -> View:
        """Return what another process of the client goes on with, if it begins now."""
        over = self.ended and not self.held  # A job is over for the next process once its end is processed.
        kept = View(*_ALL_OF(self))
        owed = self.dropped and bool(self.held)
        kept.own, kept.known = (self.own or owed) and not self.unwanted, self.known and self.asked
        kept.cursor, kept.ended, kept.held, kept.chunk = self.done, over, deque(), 0
        return kept


_ALL_OF: Final = attrgetter(*(part.name for part in fields(View)))
"""Every attribute of a view, in the order of its parameters: views are kept often."""


class Taken(NamedTuple):
    """An event that the user holds, with what it held of the job then."""

    view: View
    held: deque[Step]

    def processed(self) -> None:
        """It and all before it are processed."""
        if self.held is self.view.held:
            self.view.processed()


class Views:
    """All jobs of one user, and the check of each thing that it is told."""

    def __init__(self, who: str, principal: str, truth: Truth, features: frozenset[str]) -> None:
        self.jobs: dict[str, View] = {}
        self.who = who
        self.features = features
        self.session_id: str | None = None
        self.strange: set[str] = set()
        """Jobs and keys that it had asked for, and was not answered, when an earlier process died.

        A store keeps "session id, token, cursor" and no requests, so that nothing of them is owed to the next
        process; whether anything may come of them is judged in the session (see `Runs`).
        """
        self.forgotten: set[str] = set()
        """Labels of submits of which it was told that their jobs are over, and forgotten."""
        self.over: dict[str, str] = {}
        """Status of jobs that were over when they were subscribed to, until it is told as an end."""
        self.restarted = False
        """An earlier process has begun the session."""
        self._principal = principal
        self._truth = truth

    # Answers.

    def accepted(self, job_id: str, *, left: bool) -> View:
        """A submit was accepted; the job may be known. `left`: the user has unsubscribed since it asked."""
        work = self._work(job_id)
        view = self.jobs.setdefault(job_id, View(work))
        if not view.followed:
            view.begin(0)
            view.own, view.joined = True, work.key is not None
        view.submitted, view.waits = True, not left or work.home == self.session_id
        return view

    def announced(self, job_id: str, parent: View) -> None:
        """A job has delegated: what the child does comes by itself, if the job is of this session."""
        work = self._truth.jobs.get(job_id)
        if work is not None and parent.work.home == self.session_id:
            view = self.jobs.setdefault(job_id, View(work))
            view.own, view.known = True, parent.own and parent.known and parent.work.key is None

    def subscribed(self, told: Subscribed, *, after: int | None, own: bool, left: bool = False) -> None:
        """The answer to a subscribe; `after` None: live. `own`: the client's own, to go on from its cursor.

        `left` says that the user has unsubscribed since it asked.
        """
        work, view = self._work(told.job_id), self.jobs.get(told.job_id)
        if own and view is None:
            raise Broken("I1", f"{self.who} goes on with {told.job_id}, which it does not follow")
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

    # Events.

    def emitted(self, event: JobEvent) -> Taken | None:
        """An event of a job, or a notice of the session."""
        position = event.job_seq
        if position is None:
            ensure(is_notice(event.kind, event.body), "I1", f"{self.who} gets {event} without a position")
            known = self.noticed(event.job_id)
            return None if known is None else known.handed(None)
        view = self._view(event.job_id, position)
        work = view.work
        mark = work.heard[position].mark
        if mark != mark_of(event.kind, event.body):
            raise Broken("I1", f"{self.who} gets {event} as event {position} of {work.job_id}")
        if event.kind == "result_chunk" and view.asked:
            view.join(event.body["chunk_seq"])
        return self._take(view, position)

    def noticed(self, job_id: str) -> View | None:
        """Return the job of a notice, which a new process may follow from now on, from its beginning."""
        view = self.jobs.get(job_id)
        if self.restarted and (view is None or not view.comes):
            return self._found(job_id, 1)
        return self._followed(view)

    def ended(self, event: JobEnded) -> Taken | None:
        """The end of a job, or of one that was over when it was subscribed to, and of which no more comes."""
        position = event.job_seq
        if position is None:
            over = self.over.pop(event.job_id, None)
            ensure(event.final_status == over, "I1", f"{self.who} gets {event}: {event.job_id} was {over}")
            return None
        view = self._view(event.job_id, position)
        if view.work.forgotten:
            view.cut = position  # "the terminal always comes, alone if the history is gone".
        taken = self._take(view, position)
        view.ended = True
        self._check_result(view, event)
        return taken

    def _take(self, view: View, position: int) -> Taken:
        """It is the next one behind the cursor that this user takes."""
        missing = self._missed(view, position)
        if position <= view.cursor or missing is not None:
            what = f"{self.who} gets event {position} of {view.work.job_id}"
            raise Broken("I1", f"{what}: it had {view.cursor}, and the next is {missing}")
        if view.joined:
            view.cut = max(view.cut, position - 1)  # The next process is not told of the rest, either.
        view.cursor, view.joined = position, False
        return view.handed(position)

    def _missed(self, view: View, upto: int) -> int | None:
        """Return the first event behind the cursor that had to come."""
        work = view.work
        if work.cut and (view.joined or "subscribe" not in self.features):
            return None  # Nobody is told of a cut by a key, "subscribe negotiated or not".
        takes = work.takes(self._principal, self.features)
        return work.missed(max(view.cursor, view.cut), upto, takes, self.who)

    def _work(self, job_id: str) -> Work:
        work = self._truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{self.who} is answered by {job_id}, which is not kept")
        return work

    def _view(self, job_id: str, position: int) -> View:
        """A job of which something may come."""
        view = self.jobs.get(job_id)
        if view is None or not view.comes:
            view = self._found(job_id, position) or view
        if view is None or not (view.comes or view.ended):
            raise Broken("I1", f"{self.who} hears of {job_id}, which it does not follow")
        ensure(not view.ended, "I2", f"{self.who} gets event {position} of {job_id} after its end")
        return self._followed(view) or view

    def _followed(self, view: View | None) -> View | None:
        """A new process follows a child, which comes by itself, when it hears of it."""
        if view is not None and self.restarted and view.comes and not view.asked:
            view.asked, view.chunk = True, 0
        return view

    def _found(self, job_id: str, position: int) -> View | None:
        """Return a job of a request whose answer was lost; None if there is none.

        An earlier process may have asked for it. Or the user was told that the job of its submit is over, and
        forgotten; if the agent of that never started, its label is not known. The session brings what it
        submitted from its beginning, and all else from where it was asked for.
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
        asked = {job_id, work.key or ""} & self.strange
        if not asked and (view is not None or work.home != self.session_id):
            return None
        self.strange -= asked
        view = self.jobs[job_id] = View(work, cut=0 if view is None else view.cut)
        view.begin(position - 1 if asked else 0)
        view.own, view.known = True, False
        view.waits = not asked  # It is not owed to this process.
        return view

    def _check_result(self, view: View, event: JobEnded) -> None:
        """The end is what was sent, and the result what the agent returned, or its chunks joined."""
        work = view.work
        end = (None if "result_chunk" in self.features else work.end_inline) or work.end
        if end is None:
            raise Broken("I2", f"{self.who} gets the end of {work.job_id}, which was never sent")
        status, code = end["final_status"], end.get("code", "")
        streamed = bool(work.pieces) and "result" not in end and status == "success"
        if streamed and view.asked and view.chunk != work.chunks and event.code:
            return  # It lacks chunks, which the runtime may have no longer.
        same = (event.final_status, event.code) == (status, code)
        ensure(same, "I2", f"{self.who} reads {event.final_status} {event.code} in {status} {code}")
        if status != "success":
            return
        value: Any = "".join(work.pieces) if work.pieces else event.result
        if streamed and not view.asked:
            value = None  # A client joins the pieces of what it follows, and no other.
        right = event.result == value and (work.pieces or any(value == given for given in work.returned))
        ensure(right, "I2", f"{self.who} gets {event.result!r} as the result of {work.job_id}, not {value!r}")

    def lose(self, job_id: str) -> None:
        """It was told that it will not see what becomes of a job."""
        view = self.jobs.get(job_id)
        if view is not None:
            ensure(not view.ended, "I2", f"{self.who} loses {job_id}, which has ended")
            view.lost = True

    def new_session(self) -> None:
        """Nothing comes by itself in another session: the client observes what it follows."""
        self.restarted = False
        for view in self.jobs.values():
            view.own = False

    # What outlives the process.

    def keep(self) -> dict[str, View]:
        """What a user writes down at the time at which the client's store is written."""
        return {job_id: view.kept() for job_id, view in self.jobs.items()}

    def restore(self, kept: dict[str, View]) -> None:
        """The process is there again: what it had processed never comes again, and all else does."""
        self.restarted = True
        for job_id, known in kept.items():
            if self._truth.jobs.get(job_id) is known.work:
                self.jobs[job_id] = replace(known, held=deque())
