"""The events of jobs in one session, as they leave the runtime: by position, in order, each once (§5, §7.6).

In every session the positions of a job rise. A history that is asked for goes on from where it was asked for,
and what is published waits behind it. What comes by itself goes on behind the last event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from arcp_proto.features import POSITIONS

from .broken import Broken
from .truth import FINAL, Work

ANY: Final = -1
"""It is not known where the next event stands: "`from_event_seq` are home numbers", which nobody tells."""


class Ask(NamedTuple):
    """One request, as it came first; `at` is by the clock of `Works.tick`."""

    kind: str
    payload: dict[str, Any]
    at: int


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
    ended: bool = False
    """The job has, or the session gets no more of it."""


class Begin(NamedTuple):
    """A request that was not answered, and may bring a job from behind a position."""

    request_id: str
    after: int
    at: int
    resumes: int
    """How often the session had been resumed when it came; -1 if it had come before."""


class Runs:
    """All that one session was told of jobs."""

    def __init__(self, session_id: str, principal: str, features: frozenset[str]) -> None:
        self.id = session_id
        self.resumes = 0
        """How often it was resumed."""
        self._principal = principal
        self._features = features
        self._runs: dict[str, Run] = {}
        self._begins: dict[str, list[Begin]] = {}
        """By job, or by key."""
        self._left: dict[str, list[int]] = {}
        """When the session has unsubscribed from a job, by the clock of `Works.tick`."""
        self._carried_out: set[bytes] = set()
        self._asked: set[str] = set()

    # Requests.

    def asked(self, about: str, request_id: str, after: int, at: int) -> None:
        """A subscribe, or a submit with a key, has come; its answer may be lost (§6.3). `after` ANY: live."""
        again = request_id in self._asked
        self._asked.add(request_id)
        self._begins.setdefault(about, []).append(Begin(request_id, after, at, -1 if again else self.resumes))

    def left(self, job_id: str, at: int) -> None:
        """The session unsubscribes from a job."""
        self._left.setdefault(job_id, []).append(at)

    def left_since(self, job_id: str, at: int) -> bool:
        """Return whether the session has unsubscribed from a job after a time."""
        return any(left > at for left in self._left.get(job_id, ()))

    def answered(self, request_id: str) -> None:
        """A request is answered, or refused: what it brings is known."""
        for begins in self._begins.values():
            for begin in begins:
                if begin.request_id == request_id:
                    begins.remove(begin)
                    return

    def is_carried_out(self, payload: Mapping[str, Any]) -> bool:
        """Return whether an answer is of a request that was carried out now, unlike a copy of one.

        A client that resumes is told the kept answers, and once more when it sends such a request again. One
        whose answer is kept no longer is carried out again, and may say the same: see `_begun`.
        """
        said = {name: value for name, value in payload.items() if name != "credentials"}
        digest = hashlib.blake2b(msgspec.json.encode(said, order="sorted"), digest_size=8).digest()
        if digest in self._carried_out:
            return False
        self._carried_out.add(digest)
        self.answered(payload["request_id"])
        return True

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

    def joined(self, work: Work, at: int) -> None:
        """A submit is answered by the job of its key (§7.2), "unless it already flows in that session"."""
        if self._current(work, at) is None:
            self._runs[work.job_id] = Run(0, at, joined=True)

    def stopped(self, work: Work) -> None:
        """A notice ends an observation: "the client subscribes again from its position"."""
        run = self._run(work)
        if run is not None and not run.own:
            run.ended = True

    # What leaves.

    def event(self, work: Work, position: int, *, skipped: bool) -> None:
        """An event leaves. `skipped`: the client said that it has what it has not."""
        self._leaves(work, position, f"event {position}", skipped=skipped).at = position

    def end(self, work: Work, position: int, *, skipped: bool) -> None:
        """The end of a job leaves, behind everything else of it."""
        alone = work.forgotten  # "job over: the terminal always comes, alone if the history is gone".
        run = self._leaves(work, position, f"the end {position}", skipped=skipped, alone=alone)
        run.at, run.ended = position, True

    def _leaves(self, work: Work, position: int, what: str, *, skipped: bool, alone: bool = False) -> Run:
        run = self._run(work)
        goes_on = run is not None and not run.ended and position > run.at
        if run is not None and goes_on and ((alone and not run.own) or self._follows(work, run, position)):
            run.joined = False
            return run
        begun = self._begun(work, run, position, alone=alone)
        if begun is None and not skipped:
            name = "I2" if run is not None and run.ended else "I1"
            raise Broken(name, f"{self.id} gets {what} of {work.job_id} after {run}")
        begun = begun or Run(position, own=run is not None and run.own)
        self._runs[work.job_id] = begun
        return begun

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
        left = any(run.since < left < at for left in self._left.get(work.job_id, ()))
        return run if run.own or not left else None

    def _follows(self, work: Work, run: Run, position: int) -> bool:
        """Return whether all that the session does not take lies between."""
        if run.at == ANY:
            return True
        if work.cut and not run.own and (run.joined or "subscribe" not in self._features):
            return True  # A session that cannot subscribe is not told of a cut either.
        takes = work.takes(self._principal, self._features)
        return work.missed(run.at, position, takes, self.id) is None

    def _begun(self, work: Work, run: Run | None, position: int, *, alone: bool) -> Run | None:
        """Return the run that a request begins here of which the answer was lost; None for none.

        "Answers are replayed only to a client that asks by resume {replies:true}", and few are kept.
        """
        for about in (work.job_id, work.key or ""):
            begins = self._begins.get(about, [])
            for number, begin in enumerate(begins):
                current = self._current(work, begin.at)
                if begin.resumes == self.resumes or (begin.after == ANY and current is not None):
                    continue
                begun = Run(begin.after, begin.at, joined=True)
                if position > begin.after and (alone or self._follows(work, begun, position)):
                    del begins[: number + 1]
                    begun.own, begun.joined = run is not None and run.own and not run.ended, False
                    return begun
        return None


def runs_of(session_id: str, principal: str, features: frozenset[str]) -> Runs:
    """Return the record of a new session."""
    return (Runs if POSITIONS in features else NumberedRuns)(session_id, principal, features)


class NumberedRuns(Runs):
    """The same of a session without positions, which goes by home numbers; a place is that of its mark.

    There "events come at once", in the submitting session too, and a history that is asked for between them.
    """

    def __init__(self, session_id: str, principal: str, features: frozenset[str]) -> None:
        super().__init__(session_id, principal, features)
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

    def _leaves(self, work: Work, position: int, what: str, *, skipped: bool, alone: bool = False) -> Run:
        run, replay = self._run(work), self._replays.get(work.job_id)
        if run is not None and run.own and not run.ended and position <= run.at:
            if replay is None or replay.at >= position or not self._follows(work, replay, position):
                replay = self._begun(work, None, position, alone=False)
            if replay is not None:
                self._replays[work.job_id] = replay
                return replay
        return super()._leaves(work, position, what, skipped=skipped, alone=alone)

    def _follows(self, work: Work, run: Run, position: int) -> bool:
        if run.at == ANY or (work.cut and (run.joined or "subscribe" not in self._features)):
            return True
        return work.next_for(run.at, self._features) >= position - 1
