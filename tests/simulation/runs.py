"""The events of jobs in one session, as they leave the runtime: by position, in order, each once (§5, §7.6).

In every session the positions of a job rise. A history that is asked for goes on from where it was asked for,
and what is published waits behind it. What comes by itself goes on behind the last event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from arcp_proto.features import Feature

from .broken import Broken
from .truth import FINAL, Work
from .unsubscribes import Unsubscribes

ANY: Final = -1
"""It is not known where the next event stands: "`from_event_seq` are home numbers", the `event_seq` of the
session that has submitted the job, which it may not have been sent, and which other sessions never see."""


class Ask(NamedTuple):
    """One request, as it came first; `at` is by the clock of `Works.tick`."""

    kind: str
    payload: dict[str, Any]
    at: int

    def brings(self, work: Work, subscribes: bool) -> bool:
        """Return whether it asks for a job: to subscribe to it, or to submit it by its key."""
        if subscribes:
            return self.kind == "job.subscribe" and self.payload.get("job_id") == work.job_id
        key = self.payload.get("idempotency_key")
        return self.kind == "job.submit" and key is not None and key == work.key


@dataclass(slots=True)
class Run:
    """The events of a job that one session gets: `at` is the position of the last."""

    at: int
    since: int = 0
    """When the session asked for it last, by the clock of `Works.tick`."""
    own: bool = False
    """The session has submitted it: an unsubscribe "only ends observing"."""
    joined: bool = False
    """It begins by a key: "history, live and end as to an observer", and nobody is told of a cut."""
    alone: bool = False
    """Its end comes alone."""
    ended: bool = False
    """The job has, or the session gets no more of it."""


class Begin(NamedTuple):
    """A request that the runtime has carried out; what it brings begins behind the number `seq`."""

    job_id: str
    request_id: str
    """Empty if the job is to be forgotten while its history is owed, so that its end comes alone."""
    answer: Mapping[str, Any] | None
    """The answer to a subscribe; None for a submit with a key."""
    gone: bool = False
    """The job was forgotten."""
    seq: int = 0
    at: int = 0
    """When it was, by the clock of `Works.tick`."""
    record: int = -1
    """Which record of the present runtime says so; -1 for one of before."""


class Runs:
    """All that one session was told of jobs."""

    def __init__(
        self, session_id: str, principal: str, features: frozenset[str], unsubscribes: Unsubscribes
    ) -> None:
        self.id = session_id
        self._principal = principal
        self._features = features
        self._unsubscribes = unsubscribes
        self._runs: dict[str, Run] = {}
        self._again: dict[str, str] = {}
        """Submits that came again, by request, with their keys."""

    # Requests.

    def after_of(self, ask: Mapping[str, Any]) -> int:
        """Return the position behind which a subscribe asks for the history; "from_job_seq wins"."""
        if ask.get("from_job_seq") is not None:
            return int(ask["from_job_seq"])
        return 0 if not ask.get("from_event_seq") else ANY

    def subscribed(self, work: Work, ask: Ask, answer: Mapping[str, Any]) -> None:
        """A subscribe is answered: the history goes on from where it was asked for, unless it is there."""
        over, last = answer["current_status"] in FINAL, answer["job_seq"]
        run, after = self._current(work, ask.at), last
        if ask.payload.get("history"):
            after, cut = self.after_of(ask.payload), answer.get("history_from_job_seq", 1) - 1
            after = ANY if after == ANY else max(after, cut)
        if run is None and not (over and after >= last):
            self._runs[work.job_id] = Run(min(after, last), ask.at)
        elif run is not None:
            run.at, run.since = min(run.at, after), ask.at

    def joined(self, work: Work, begin: Begin, at: int) -> None:
        """A submit is answered by the job of its key (§7.2), "unless it already flows in that session".

        "Job over: the terminal always comes, again if need be, alone if the history is gone."
        """
        self._again.pop(begin.request_id, None)
        if begin.gone or self._current(work, at) is None:
            self._runs[work.job_id] = Run(0, at, joined=True, alone=begin.gone)

    def asked_again(self, key: str, request_id: str) -> None:
        """A submit comes again. If it was carried out, "the terminal always comes, again if need be"."""
        self._again[request_id] = key

    def stopped(self, work: Work) -> None:
        """A notice ends an observation: "the client subscribes again from its position"."""
        run = self._run(work)
        if run is not None and not run.own:
            run.ended = True

    def forgotten(self, work: Work) -> None:
        """A job is forgotten before the session took its history: "the terminal always comes, alone"."""
        run = self._run(work)
        if run is not None:
            run.alone = True

    # What leaves.

    def event(self, work: Work, position: int, *, skipped: bool) -> None:
        """An event leaves. `skipped`: the client said that it has what it has not."""
        self._leaves(work, position, f"event {position}", skipped=skipped).at = position

    def end(self, work: Work, position: int, *, skipped: bool) -> None:
        """The end of a job leaves, behind everything else of it."""
        run = self._leaves(work, position, f"the end {position}", skipped=skipped, ends=True)
        run.at, run.ended = position, True

    def _leaves(self, work: Work, position: int, what: str, *, skipped: bool, ends: bool = False) -> Run:
        run = self._run(work)
        goes_on = run is not None and not run.ended and position > run.at
        if run is not None and goes_on and ((ends and run.alone) or self._follows(work, run, position)):
            run.joined = False
            return run
        again = None if goes_on else self._sent_again(work)
        if again is not None and self._follows(work, again, position):
            self._runs[work.job_id] = again
            return again
        if not skipped:
            name = "I2" if run is not None and run.ended else "I1"
            raise Broken(name, f"{self.id} gets {what} of {work.job_id} after {run}")
        run = self._runs[work.job_id] = Run(position, own=run is not None and run.own)
        return run

    def _sent_again(self, work: Work) -> Run | None:
        """Return what a submit brings that came again when its job was over; None for none."""
        request_id = next((one for one, key in self._again.items() if key == work.key), None)
        if request_id is None or work.ended_at is None:
            return None
        del self._again[request_id]
        return Run(0, joined=True)

    def _run(self, work: Work) -> Run | None:
        run = self._runs.get(work.job_id)
        if run is None and work.home == self.id:
            run = self._runs[work.job_id] = Run(0, own=True)
        return run

    def _current(self, work: Work, at: int) -> Run | None:
        """Return what the session got when it asked; None when it did not get the job."""
        run = self._run(work)
        if run is None or run.ended:
            return None
        left = self._unsubscribes.between(work.job_id, run.since, at)
        return run if run.own or not left else None

    def _follows(self, work: Work, run: Run, position: int) -> bool:
        """Return whether all that the session does not take lies between."""
        if run.at == ANY:
            return True
        if work.cut and not run.own and (run.joined or "subscribe" not in self._features):
            return True  # A session that cannot subscribe is not told of a cut either.
        takes = work.takes(self._principal, self._features)
        return work.missed(run.at, position, takes, self.id) is None


def runs_of(session_id: str, principal: str, features: frozenset[str], unsubscribes: Unsubscribes) -> Runs:
    """Return the record of a new session."""
    kind = Runs if Feature.POSITIONS in features else NumberedRuns
    return kind(session_id, principal, features, unsubscribes)


class NumberedRuns(Runs):
    """The same of a session without positions, which goes by home numbers; a place is that of its mark.

    There "events come at once", in the submitting session too, and a history that is asked for between them.
    """

    def __init__(
        self, session_id: str, principal: str, features: frozenset[str], unsubscribes: Unsubscribes
    ) -> None:
        super().__init__(session_id, principal, features, unsubscribes)
        self._replays: dict[str, Run] = {}

    def after_of(self, ask: Mapping[str, Any]) -> int:
        """Return 0 for a whole history: nobody tells the home numbers of places."""
        return 0 if not ask.get("from_event_seq") else ANY

    def subscribed(self, work: Work, ask: Ask, answer: Mapping[str, Any]) -> None:
        """A subscribe is answered."""
        over, run = answer["current_status"] in FINAL, self._current(work, ask.at)
        after = self.after_of(ask.payload) if ask.payload.get("history") else ANY
        after = ANY if answer.get("history_from") is not None else after
        if run is None and not (over and not ask.payload.get("history")):
            self._runs[work.job_id] = Run(after, ask.at)
        elif run is not None and ask.payload.get("history"):
            if run.own:
                self._replays[work.job_id] = Run(after)
            else:
                run.at, run.since = after, ask.at

    def _leaves(self, work: Work, position: int, what: str, *, skipped: bool, ends: bool = False) -> Run:
        run, replay = self._run(work), self._replays.get(work.job_id)
        again = run is not None and run.own and not run.ended and position <= run.at
        if again and replay is not None and replay.at < position and self._follows(work, replay, position):
            return replay
        return super()._leaves(work, position, what, skipped=skipped, ends=ends)

    def _follows(self, work: Work, run: Run, position: int) -> bool:
        if run.at == ANY or (work.cut and (run.joined or "subscribe" not in self._features)):
            return True
        return work.next_for(run.at, self._features) >= position - 1
