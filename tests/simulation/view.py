"""What the user of an honest client was promised: each event of a job once, in order, or a word why not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from arcp_proto.engine.output import JobEmitted, JobEnded, Subscribed

from .broken import Broken, ensure
from .truth import FINAL, Truth, Work, is_notice, mark_of


@dataclass(slots=True)
class Replay:
    """What a user has asked for again: the events behind `at`, up to `until`; it has processed `done`."""

    at: int
    until: int
    done: int


@dataclass(slots=True)
class View:
    """What one user has of one job: `cursor` is the position of the last event that it was handed."""

    work: Work
    cursor: int = 0
    cut: int = 0
    """Events up to this position may be missing: the user was told so, or did not ask for them."""
    joined: bool = False
    """It begins by a key, so that nobody tells of a history that was cut (§7.2)."""
    replay: Replay | None = None
    ended: bool = False
    lost: bool = False
    left: bool = False
    """The user has unsubscribed: it waits for no end."""
    gone: bool = False
    """It did not come by itself then: nothing comes of it any more."""
    own: bool = False
    """It comes by itself in this session, also to a user who has unsubscribed."""
    done: int = 0
    """The position up to which everything is processed."""
    begun: int = 0
    """How often it was begun: what is held of an earlier time is not of this one."""
    pieces: list[int] = field(default_factory=list)
    """The chunks of its result that came to this process."""

    @property
    def followed(self) -> bool:
        """Whether anything of it may come."""
        return not (self.ended or self.lost or self.gone)

    def leave(self) -> None:
        """The user unsubscribes: "nothing more comes of it, unless it is one of ours or a child"."""
        self.left, self.gone = True, self.gone or not (self.own or self.ended)

    def begin(self, after: int) -> None:
        """Follow it from behind a position; nothing before that was asked for."""
        self.cursor = self.done = self.cut = after
        self.replay, self.pieces, self.begun = None, [], self.begun + 1
        self.ended = self.lost = self.left = self.gone = False


class Taken(NamedTuple):
    """An event that the user holds: processed, it moves `done` of its view, or of a replay."""

    view: View
    position: int
    begun: int
    replay: Replay | None = None

    def processed(self) -> None:
        """It and all before it are processed."""
        if self.replay is None and self.begun == self.view.begun:
            self.view.done = max(self.view.done, self.position)
        elif self.replay is not None:
            self.replay.done = max(self.replay.done, self.position)


class Views:
    """All jobs of one user, and the check of each thing that it is told."""

    def __init__(self, who: str, principal: str, truth: Truth, features: frozenset[str]) -> None:
        self.jobs: dict[str, View] = {}
        self.who = who
        self.features = features
        self.strange: set[str] = set()
        """Jobs and keys that it had asked for, and was not answered, when an earlier process died."""
        self.restarted = False
        self._principal = principal
        self._truth = truth

    # Answers.

    def accepted(self, job_id: str, *, left: bool) -> View:
        """A submit was accepted; the job may be known. `left`: the user has unsubscribed since it asked."""
        work = self._work(job_id)
        view = self.jobs.get(job_id)
        if view is None:
            view = self.jobs[job_id] = View(work, joined=work.key is not None)
        elif not view.followed:
            view.begin(0)
            view.joined = True
        view.own, view.left = True, left
        return view

    def announced(self, job_id: str) -> None:
        """A job of its own has delegated: what the child does comes by itself, in this session."""
        work = self._truth.jobs.get(job_id)
        if work is not None and job_id not in self.jobs:
            self.jobs[job_id] = View(work, own=True)

    def subscribed(self, told: Subscribed, *, after: int | None, own: bool, left: bool = False) -> None:
        """The answer to a subscribe; `after` None: live. `own`: the client's own, to go on from its cursor.

        `left` says that the user has unsubscribed since it asked.
        """
        work = self._work(told.job_id)
        view = self.jobs.get(told.job_id)
        known = view is not None and view.followed
        if view is None and own and self.restarted:
            view = self.jobs[told.job_id] = View(work, own=True)  # An earlier process has submitted it.
        elif view is None:
            view = self.jobs[told.job_id] = View(work, left=True, gone=True)
        if told.history_from is not None:
            view.cut = max(view.cut, told.history_from - 1)
        if work.parent is not None:
            view.pieces = []  # Pieces of a child are joined from when it is followed.
            view.gone = view.gone and not own  # A new process may follow it as any job.
        if own or left:
            return
        after = None if after is None else min(after, told.subscribed_from)
        over = told.status in FINAL and (after is None or 0 < told.subscribed_from <= after)
        if after is not None and told.history_from is not None:
            after = max(after, told.history_from - 1)
        if over:
            return
        if not known:
            view.begin(told.subscribed_from if after is None else after)
        elif after is None and view.left:
            view.cut, view.left = max(view.cut, told.subscribed_from), False
        elif after is not None:
            if after < view.cursor:
                view.replay = Replay(after, view.cursor, after)
            view.cut, view.left = max(view.cut, after), False

    # Events.

    def emitted(self, event: JobEmitted) -> Taken | None:
        """An event of a job; None for a notice of the session."""
        position = event.job_seq
        if position is None:
            ensure(is_notice(event.kind, event.body), "I1", f"{self.who} gets {event} without a position")
            return None
        view = self._view(event.job_id, position)
        work = view.work
        mark = work.heard[position].mark
        same = mark == mark_of(event.kind, event.body)
        ensure(same, "I1", f"{self.who} gets {event} as event {position} of {work.job_id}")
        if event.kind == "result_chunk":
            view.pieces.append(event.body["chunk_seq"])
        ensure(not view.ended, "I2", f"{self.who} gets event {position} of {work.job_id} after its end")
        return self._take(view, position)

    def ended(self, event: JobEnded) -> Taken:
        """The end of a job."""
        position = event.job_seq
        if position is None:
            raise Broken("I1", f"{self.who} gets the end of {event.job_id} without a position")
        view = self._view(event.job_id, position)
        work = view.work
        ensure(not view.ended, "I2", f"{self.who} gets the end of {work.job_id} twice")
        if work.forgotten:
            view.cut = position  # "the terminal always comes, alone if the history is gone".
        taken = self._take(view, position)
        replay = view.replay
        if replay is not None and not view.own:  # "In the submitting session ... history may be replayed".
            missing = self._missed(view, replay.at, replay.until + 1)
            ensure(missing is None, "I1", f"{self.who} gets the end of {work.job_id} before event {missing}")
        view.ended = True
        self._check_result(view, event)
        return taken

    def _take(self, view: View, position: int) -> Taken:
        """It is the next one, or the next of a replay that the user has asked for."""
        replay = view.replay
        if replay is not None and replay.at < position <= replay.until:
            missing, replay.at = self._missed(view, replay.at, position), position
            view.cursor = max(view.cursor, position)
        elif position > view.cursor:
            missing, replay, view.cursor = self._missed(view, view.cursor, position), None, position
        else:
            raise Broken(
                "I1",
                f"{self.who} gets event {position} of {view.work.job_id} twice: it had {view.cursor}",
            )
        view.joined = False
        ensure(
            missing is None, "I1", f"{self.who} gets {position} of {view.work.job_id} before event {missing}"
        )
        return Taken(view, position, view.begun, replay)

    def _missed(self, view: View, after: int, upto: int) -> int | None:
        """Return the first event between that had to come."""
        work = view.work
        if work.cut and (view.joined or "subscribe" not in self.features):
            return None  # Nobody is told of a cut by a key, "subscribe negotiated or not".
        takes = work.takes(self._principal, self.features)
        return work.missed(max(after, view.cut), upto, takes, self.who)

    def _work(self, job_id: str) -> Work:
        work = self._truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{self.who} is answered by {job_id}, which is not kept")
        return work

    def _view(self, job_id: str, position: int) -> View:
        """A job that it follows. A new process is not told of requests that an earlier one has made."""
        view = self.jobs.get(job_id)
        work = self._truth.jobs.get(job_id)
        if work is not None and self.restarted and (view is None or not view.followed):
            asked = {job_id, work.key or ""} & self.strange
            if view is None:
                view = self.jobs[job_id] = View(work, own=True)  # Whose it is, the new process cannot know.
            if asked:
                self.strange -= asked
                view.begin(position - 1)
        if view is None or view.lost or view.gone:
            raise Broken("I1", f"{self.who} hears of {job_id}, which it does not follow")
        return view

    def _check_result(self, view: View, event: JobEnded) -> None:
        work = view.work
        end = work.end or work.end_inline
        if end is None:
            raise Broken("I2", f"{self.who} gets the end of {work.job_id}, which was never sent")
        status, code = end["final_status"], end.get("code", "")
        chunks = list(range(work.chunks))
        if status == "success" and work.pieces and view.pieces != chunks and event.code:
            return  # It has not got every chunk once and in order, and is told so.
        same = (event.final_status, event.code) == (status, code)
        ensure(same, "I2", f"{self.who} reads {event.final_status} {event.code} in {status} {code}")
        if status != "success" or (work.pieces and event.result is None and view.pieces != chunks):
            return
        if work.pieces and event.result is None and work.parent is not None:
            return  # A client joins the pieces of what it follows, and no other.
        value: Any = "".join(work.pieces) if work.pieces else event.result
        right = event.result == value and (work.pieces or any(value == given for given in work.returned))
        ensure(right, "I2", f"{self.who} gets {event.result!r} as the result of {work.job_id}, not {value!r}")

    def lose(self, job_id: str) -> None:
        """It was told that it will not see what becomes of a job."""
        view = self.jobs.get(job_id)
        if view is not None:
            ensure(not view.ended, "I2", f"{self.who} loses {job_id}, which has ended")
            view.lost = True

    def new_session(self) -> None:
        """Children come in the session that has submitted their root, and no other."""
        for view in self.jobs.values():
            view.own = view.own and view.work.parent is None
            if view.work.parent is not None:
                view.leave()

    # What outlives the process.

    def keep(self) -> dict[str, View]:
        """What a user writes down at the time at which the client's store is written."""
        return {
            job_id: replace(view, replay=view.replay and replace(view.replay), pieces=[])
            for job_id, view in self.jobs.items()
        }

    def restore(self, kept: dict[str, View]) -> None:
        """The process is there again: what it had processed never comes again, and all else does."""
        self.restarted = True
        for job_id, known in kept.items():
            if self._truth.jobs.get(job_id) is not known.work:
                continue
            if known.own and known.work.key is not None:
                self.strange.add(known.work.key)  # "The terminal always comes, again if need be".
            view = self.jobs[job_id] = replace(known, cursor=known.done, pieces=[])
            view.ended = known.ended and known.done == known.cursor
            view.replay = None
            if known.replay is not None and known.replay.done < known.replay.until:
                done = known.replay.done
                view.replay = Replay(done, known.replay.until, done)
