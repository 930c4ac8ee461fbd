"""The events of jobs in one session, as they leave the runtime: by position, in order, each once (§5, §7.6).

"In every session the positions of a job rise": what comes by itself goes on behind the last event, and a
history goes on from where it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from arcp_proto.features import POSITIONS

from .broken import Broken, ensure
from .truth import FINAL, Work

ANY: Final = -1
"""The place of what comes next is not known: the session has no positions, and asked by home numbers."""


@dataclass(slots=True)
class Run:
    """Events that come one after the other.

    `at` is the position of the last. A history in the submitting session comes beside what comes by itself,
    and ends at `until`.
    """

    at: int
    until: int = 0
    ended: bool = False
    off: bool = False
    """The session has unsubscribed."""
    joined: bool = False
    """It begins by a key: "history, live and end as to an observer", and nobody is told of a cut."""


class Begin(NamedTuple):
    """A request that was not answered, and may bring the history of a job from behind a position."""

    request_id: str
    after: int


class Runs:
    """All that one session was told of jobs.

    A session without positions goes by home numbers. Here its events have the places of their marks.
    """

    def __init__(self, session_id: str, principal: str, features: frozenset[str]) -> None:
        self._id = session_id
        self._principal = principal
        self._features = features
        self.placed = POSITIONS in features
        self._live: dict[str, Run] = {}
        self._replays: dict[str, Run] = {}
        self._begins: dict[str, list[Begin]] = {}
        """By job, or by key."""

    # Requests.

    def asked(self, about: str, request_id: str, after: int) -> None:
        """A subscribe, or a submit with a key, has come; its answer may be lost (§6.3). `after` ANY: live."""
        self._begins.setdefault(about, []).append(Begin(request_id, after))

    def answered(self, request_id: str) -> None:
        """A request is answered, or refused: what it brings is known."""
        for begins in self._begins.values():
            for begin in begins:
                if begin.request_id == request_id:
                    begins.remove(begin)
                    return

    def after_of(self, ask: Mapping[str, Any]) -> int:
        """Return the position behind which a subscribe asks for the history; "from_job_seq wins"."""
        if self.placed and ask.get("from_job_seq") is not None:
            return int(ask["from_job_seq"])
        return 0 if not ask.get("from_event_seq") else ANY

    def subscribed(self, work: Work, ask: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """A subscribe is answered for the first time."""
        over, last = answer["current_status"] in FINAL, answer.get("job_seq", ANY)
        flows = work.home == self._id and not over
        if not ask.get("history"):
            run = self._live.get(work.job_id)
            if not flows and not over and (run is None or run.ended or run.off):
                self._live[work.job_id] = Run(last)
            return
        after = self.after_of(ask)
        if after != ANY and answer.get("history_from") is not None:
            after = max(after, answer["history_from_job_seq"] - 1) if self.placed else ANY
        run = self._run(work)
        events = last - over if self.placed else run.at if run is not None else 0
        if flows:
            if after < events:
                self._replays[work.job_id] = Run(after, events)
        elif not (self.placed and over) or after < last:
            self._live[work.job_id] = Run(min(after, events) if self.placed else after)

    def joined(self, work: Work) -> None:
        """A submit is answered by the job of its key (§7.2)."""
        run = self._run(work)
        if run is None or run.ended or (run.off and work.home != self._id):
            self._live[work.job_id] = Run(0, joined=True)

    def left(self, job_id: str) -> None:
        """The session unsubscribes from a job."""
        self._replays.pop(job_id, None)
        if job_id in self._live:
            self._live[job_id].off = True

    def stopped(self, work: Work) -> None:
        """A notice ends an observation: "the client subscribes again from its position"."""
        self._replays.pop(work.job_id, None)
        if work.home != self._id:
            self._live.pop(work.job_id, None)

    # What leaves.

    def event(self, work: Work, position: int, *, skipped: bool) -> None:
        """An event leaves. `skipped`: the client said that it has what it has not."""
        run = self._run(work)
        if run is not None and not run.ended and position > run.at and self._follows(work, run, position):
            run.at, run.joined = position, False
            return
        replay = self._replays.get(work.job_id)
        beside = replay is not None and replay.at < position <= replay.until
        if replay is not None and beside and self._follows(work, replay, position):
            replay.at = position
        elif skipped:
            self._live[work.job_id] = Run(position)
        elif not self._begins_at(work, position):
            name = "I2" if run is not None and run.ended else "I1"
            raise Broken(name, f"{self._id} gets event {position} of {work.job_id} after {run} and {replay}")

    def end(self, work: Work, position: int, *, skipped: bool) -> None:
        """The end of a job leaves: behind everything else of it."""
        run = self._run(work) or Run(ANY)
        alone = work.forgotten  # "job over: the terminal always comes, alone if the history is gone".
        if not (run.ended or alone or skipped or self._follows(work, run, position)):
            ensure(
                self._begins_at(work, position),
                "I1",
                f"{self._id} gets the end {position} of {work.job_id} after {run}",
            )
        self._live[work.job_id] = Run(position, ended=True)

    def _run(self, work: Work) -> Run | None:
        run = self._live.get(work.job_id)
        if run is None and work.home == self._id:
            run = self._live[work.job_id] = Run(0)
        return run

    def _follows(self, work: Work, run: Run, position: int) -> bool:
        """Return whether all that the session does not take lies between."""
        if run.at == ANY or (work.cut and (run.joined or "subscribe" not in self._features)):
            return True  # A session that cannot subscribe is not told of a cut either.
        if self.placed:
            takes = work.takes(self._principal, self._features)
            return work.missed(run.at, position, takes, self._id) is None
        return work.next_for(run.at, self._features) >= position - 1

    def _begins_at(self, work: Work, position: int) -> bool:
        """Return whether a request whose answer was lost begins here.

        "Answers are replayed only to a client that asks by resume {replies:true}", and few are kept.
        """
        for about in (work.job_id, work.key or ""):
            begins = self._begins.get(about, [])
            for number, begin in enumerate(begins):
                run = Run(begin.after, joined=True)
                if position > begin.after and self._follows(work, run, position):
                    del begins[: number + 1]
                    if work.home == self._id:
                        self._replays[work.job_id] = Run(position, self._live[work.job_id].at)
                    else:
                        self._live[work.job_id] = Run(position)
                    return True
        return False
