"""What the user of an honest client was promised: each event once and in order, or a word why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from arcp_proto.output import JobEmitted, JobEnded, Subscribed

from .broken import Broken, ensure
from .truth import FINAL, NO_MARK, Truth, Work, mark_of

ANY = -1
"""A place that is not known: whatever comes first is right."""


@dataclass(slots=True)
class View:
    """What one user has of one job.

    `place` is the next that it has not seen; `home` the next of those that come as its own, `observed` the
    next of those that come to an observer. `least` is the earliest that may come again when its session is
    lost after a restart.
    """

    work: Work
    place: int = 0
    home: int = 0
    observed: int = ANY
    least: int = ANY
    whole: bool = True
    """It has all from the beginning."""
    ended: bool = False
    ends: int = 0
    """How many ends may still come; each request for the past allows one more."""
    lost: bool = False
    left: bool = False
    """It does not observe it any more."""
    own: bool = False
    """It was the client that subscribed it last."""
    before: int = ANY
    """Where a replay that it had asked for was when its session was lost."""
    fresh: bool = False
    """It has been subscribed, and nothing has come since."""
    recovers: bool = False
    """The client has asked for it by itself, and may say again what was not processed before a restart."""
    again: bool = False
    """It has asked for a job that it knew: what was over may be open again."""
    partial: bool = False
    """Its process does not have what came before a restart: a streamed result is not whole."""
    handed: list[tuple[int, int, bool]] = field(default_factory=list)
    """Number and place of what was handed out, and whether it came as its own, since the session began."""


@dataclass(slots=True)
class Kept:
    """What the user keeps of a job beside the client's own store."""

    work: Work
    done: int
    """Processed up to here."""
    least: int
    """What the cursor covers."""
    home: int
    observed: int
    whole: bool
    ended: bool
    ends: int
    left: bool
    again: bool


class Views:
    """All jobs of one user, and the check of each thing that it is told."""

    def __init__(self, who: str, truth: Truth, features: frozenset[str]) -> None:
        self.jobs: dict[str, View] = {}
        self.who = who
        self.features = features
        self.restarted = False
        self.asks_by_key = False
        """A submit with a key has no answer: what it means may come before it says so."""
        self.orphans: set[str] = set()
        """Jobs that it had asked to observe when its process died: what comes of them may come or not."""
        self.labels: set[str] = {""}
        """Of all its submits, in every life of its process; a job that was never started has none."""
        self._truth = truth

    def accepted(self, job_id: str, *, left: bool) -> View:
        """A submit was accepted; the job may be known. `left`: it has unsubscribed from it since it asked."""
        view = self.jobs.get(job_id)
        work = self._truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{self.who} has the accepted job {job_id}, which is not kept")
        if view is None:
            view = self.jobs[job_id] = View(work)
        else:
            if view.ended:
                view.place = 0  # Its client had done with it: all of it comes again.
            view.ended = view.lost = False
            view.again = view.partial = True
        view.ends += 1
        view.left = left
        view.observed = ANY
        return view

    def announced(self, job_id: str) -> None:
        """A job of its own has delegated: what the child does comes by itself, in this session."""
        work = self._truth.jobs.get(job_id)
        if work is not None and job_id not in self.jobs:
            self.jobs[job_id] = View(work, ends=1)

    def subscribed(
        self, told: Subscribed, *, after: int | None, own: bool, left: bool = False, late: bool = False
    ) -> None:
        """The answer to a subscribe; `after` None: live. `own`: the client's own, to recover.

        `left` says that the user has unsubscribed since it asked, `late` that what it asked for later was, or
        may have been, carried out, and is what comes.
        """
        work = self._truth.jobs.get(told.job_id)
        if work is None:
            raise Broken("I3", f"{self.who} observes {told.job_id}, which is not kept")
        view = self.jobs.get(told.job_id)
        if view is None:
            view = self.jobs[told.job_id] = View(work, whole=False)
        elif own:
            view.whole = view.whole and told.history_from is None
        else:
            view.again = True
            view.whole = view.whole and not (view.left and after is None)  # It was not observed meanwhile.
        over = told.status in FINAL and not told.replayed
        view.whole = view.whole and not left
        view.ends += 1
        pending = view.observed if view.fresh and not view.own else ANY
        view.lost, view.left, view.fresh, view.own = False, left or over, True, own
        if own:
            unsure = (
                told.history_from is not None or not view.whole or (pending != ANY and view.before != ANY)
            )
            if pending != ANY:
                view.before = pending  # The user's own replay has not begun.
            elif ANY < view.observed < view.place:
                view.before = view.observed  # The user's own replay has not come to its end.
            view.observed = ANY if unsure else view.place
            view.recovers = view.least != ANY
            if self.restarted and view.again:
                view.observed = ANY  # How much of a replay was processed, only the client's own store says.
            return
        if after is None and work.parent is not None and work.pieces:
            view.partial = True  # The pieces of a child are joined from when it is followed.
        if left or after is not None:
            view.observed = ANY
        if after is not None and not left:
            start = _first_after(work, after) if told.history_from is None and not late else ANY
            view.observed = start
            view.whole = start == 0 or (view.whole and ANY < start <= view.place)
            view.partial = view.partial or start != 0

    def emitted(self, event: JobEmitted) -> None:
        """An event of a job."""
        view = self._view(event.job_id)
        mark = mark_of(event.kind, event.body)
        if mark == NO_MARK:
            if event.body.get("phase") == "unsubscribed":
                view.observed = ANY  # A replay that it had asked for ends here.
            return
        work = view.work
        if mark not in work.index:
            raise Broken("I3", f"{self.who} gets {mark} of {work.job_id}, which is not kept")
        place = work.index[mark]
        own = event.source_seq is None
        expected = view.home if own else view.observed
        view.handed.append((event.seq, place, own))
        if not own and work.cut and ANY < expected < place < view.place and view.home > 0:
            expected = ANY  # A subscribe sent twice: where the second's history begins is told to nobody.
        if not own and work.job_id in self.orphans:
            expected = ANY  # What it had asked for in its last life may begin at any time.
        if not own and work.cut and "subscribe" not in self.features and place > expected:
            expected = ANY  # It observes by a key, and cannot be told what was cut.
        if not own and view.recovers and view.least <= place <= view.place:
            expected = ANY
        if (
            not own
            and view.fresh
            and view.before != ANY
            and place == work.next_for(view.before, self.features)
        ):
            expected = ANY
        # It had asked for this twice: a new process is not told where the second begins, nor what is a copy.
        repeats = not own and self.restarted and view.again
        expected = ANY if repeats else expected
        view.recovers = view.fresh = False
        if expected != ANY and place != work.next_for(expected, self.features):
            expected = work.next_for(expected, self.features)
            raise Broken("I1", f"{self.who} gets event {place} of {work.job_id} and not {expected}")
        if own:
            view.home = place + 1
        else:
            view.observed = place + 1
        view.place = max(view.place, place + 1)

    def ended(self, event: JobEnded) -> None:
        """The end of a job."""
        view = self._view(event.job_id)
        work = view.work
        if view.ends <= 0 and not (self.restarted and self.asks_by_key):
            raise Broken("I2", f"{self.who} gets the end of {event.job_id} twice")
        view.ends -= 1
        own = event.source_seq is None
        view.handed.append((event.seq, len(work.marks), own))
        again, view.ended = view.ended, True
        if not view.whole or again or work.cut:
            return
        missing = work.next_for(view.place, self.features)
        if work.forgotten or (own and view.home <= 0 and work.label[:1] != "#"):
            return  # The end of a job of which all else is gone.
        if missing < len(work.marks):
            raise Broken("I1", f"{self.who} gets the end of {work.job_id} before its event {missing}")
        self._check_result(view, event)

    def _view(self, job_id: str) -> View:
        """A job that it follows; after a restart also what lies behind its cursor (K1)."""
        view = self.jobs.get(job_id)
        work = self._truth.jobs.get(job_id)
        if view is None and work is not None and (self.restarted or work.parent is not None):
            view = self.jobs[job_id] = View(work, home=ANY, ends=1, whole=False)
        if view is None or view.lost:
            raise Broken("I1", f"{self.who} hears of {job_id}, which it does not follow")
        return view

    def _check_result(self, view: View, event: JobEnded) -> None:
        work = view.work
        end = work.end or work.end_inline
        if end is None:
            raise Broken("I2", f"{self.who} gets the end of {work.job_id}, which was never sent")
        status, code = end["final_status"], end.get("code", "")
        unread = event.source_seq is not None and "result_chunk" not in self.features
        if (view.partial or unread) and work.pieces and status == "success":
            return  # What it has of a streamed result is not whole, and it is told so.
        same = (event.final_status, event.code) == (status, code)
        ensure(same, "I2", f"{self.who} reads {event.final_status} {event.code} in {status} {code}")
        if status != "success" or (work.parent is not None and work.pieces and event.result is None):
            return  # A client joins the pieces of what it follows, and no other.
        value: Any = "".join(work.pieces) if work.pieces else event.result
        right = event.result == value and (work.pieces or any(value == given for given in work.returned))
        ensure(right, "I2", f"{self.who} gets {event.result!r} as the result of {work.job_id}, not {value!r}")

    def lose(self, job_id: str) -> None:
        """It was told that it will not see what becomes of a job."""
        view = self.jobs.get(job_id)
        if view is not None:
            ensure(not view.ended or view.again, "I2", f"{self.who} loses {job_id}, which has ended")
            view.lost, view.whole = True, False

    def new_session(self) -> None:
        """Numbers begin again; what was seen was seen."""
        for view in self.jobs.values():
            view.handed.clear()
            if view.observed != ANY and not (view.fresh and view.own):
                view.before = view.observed
            view.home = ANY
            view.observed = ANY
            view.left = view.left or view.work.parent is not None  # Its client does not ask for it again.

    # What outlives the process.

    def keep(self, cursor: int, done: dict[str, int]) -> dict[str, Kept]:
        """What a user writes down together with the cursor: `done` are the places it has processed."""
        kept = {}
        for job_id, view in self.jobs.items():
            if view.lost:
                continue
            place, last = done.get(job_id, 0), len(view.work.marks)
            above = [(at, own) for seq, at, own in view.handed if seq > cursor]
            kept[job_id] = Kept(
                view.work,
                place,
                min([at for at, _ in above] + [place, last]),
                next((at for at, own in above if own), view.home),
                next((at for at, own in above if not own), view.observed),
                view.whole,
                view.ended and place > last,
                view.ends + sum(at == last for at, _ in above),
                view.left,
                view.again,
            )
        return kept

    def restore(self, kept: dict[str, Kept], keyed: bool) -> None:
        """The process is there again; `keyed`: a submit with a key had no answer when it died."""
        self.restarted = True
        for job_id, known in kept.items():
            if self._truth.jobs.get(job_id) is not known.work:
                continue
            view = self.jobs[job_id] = View(known.work, min(known.done, len(known.work.marks)))
            view.home, view.observed, view.least = known.home, known.observed, known.least
            view.whole = known.whole and not known.again
            view.ended, view.ends = known.ended, known.ends
            view.left, view.again, view.partial = known.left, known.again, True
            if known.again or known.left:  # What was asked for before is left out, if it was asked for anew.
                view.observed = ANY
            if known.ended:  # The client's store does not name it: what is behind its cursor may come (K1).
                view.observed, view.ends, view.again = ANY, view.ends + 1, True
            if job_id in self.orphans or (known.work.label[:1] != "#" and keyed):
                view.observed, view.ends, view.again = ANY, view.ends + 1, True


def _first_after(work: Work, after: int) -> int:
    """The place of the first event whose home number is above `after`; ANY if that cannot be told."""
    for place, mark in enumerate(work.marks):
        home = work.homes.get(mark)
        if home is None:
            return ANY
        if home > after:
            return place
    return ANY
