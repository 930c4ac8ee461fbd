"""The events and ends of jobs that leave the runtime in one session, by the rules of the reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from arcp_proto.features import Feature
from tests.reference.streams import ANY, FAR, Stream, Streams
from tests.reference.wire import FINAL

from .broken import Broken
from .truth import Work
from .unsubscribes import Unsubscribes


class Ask(NamedTuple):
    """The first copy of a request; `at` is by the clock of `Works.tick`."""

    kind: str
    payload: dict[str, Any]
    at: int

    def brings(self, work: Work, subscribes: bool) -> bool:
        """Return whether a request asks for a job: by a subscribe, or by a submit with its key."""
        if subscribes:
            return self.kind == "job.subscribe" and self.payload.get("job_id") == work.job_id
        key = self.payload.get("idempotency_key")
        return self.kind == "job.submit" and key is not None and key == work.key


class Begin(NamedTuple):
    """A request that was carried out; the events that it brings have numbers above `seq`."""

    job_id: str
    request_id: str
    """Empty if the job is forgotten before the session has its history, so that its end comes alone."""
    answer: Mapping[str, Any] | None
    """The answer to a subscribe; None for a submit with a key."""
    gone: bool = False
    """The job was forgotten."""
    seq: int = 0
    at: int = 0
    """When the request was carried out, by the clock of `Works.tick`."""
    record: int = -1
    """The number of its record in the present runtime; -1 if an earlier runtime has made it."""


class Runs:
    """The events of all jobs of one session, by the rules of `tests.reference.streams`.

    An unsubscribe has no answer, so that envelopes do not show when it is carried out.
    """

    def __init__(
        self, session_id: str, principal: str, features: frozenset[str], unsubscribes: Unsubscribes
    ) -> None:
        self.id = session_id
        self._principal = principal
        self._features = features
        self._unsubscribes = unsubscribes
        self._streams = Streams(Feature.POSITIONS in features)

    # Requests.

    def after_of(self, ask: Mapping[str, Any]) -> int:
        """Return the position behind which a subscribe asks for the history.

        "from_job_seq wins", for a session that has negotiated positions. The numbers of `from_event_seq` give
        no position here.
        """
        if self._streams.placed and ask.get("from_job_seq") is not None:
            return int(ask["from_job_seq"])
        return 0 if not ask.get("from_event_seq") else ANY

    def subscribed(self, work: Work, ask: Ask, answer: Mapping[str, Any]) -> None:
        """Take the answer to a subscribe: its history begins where the request says, unless the job comes."""
        streams, history = self._streams, bool(ask.payload.get("history"))
        after = self.after_of(ask.payload) if history else None
        if streams.placed:
            last, first = answer["job_seq"], answer.get("history_from_job_seq", 1)
            after = after if after in (None, ANY) else max(after, first - 1)
        else:  # Where a live subscription begins is not known; each history is before it.
            last = FAR if history else ANY
            after = ANY if history and answer.get("history_from") is not None else after
        current = self._current(work, ask.at)
        before = streams.jobs.pop(work.job_id, None) if current is None else None
        begun = streams.subscribed(work.job_id, after, last, over=answer["current_status"] in FINAL)
        if begun is None and before is not None:
            streams.jobs[work.job_id] = before
        for stream in (begun, current):
            if stream is not None:
                stream.since = ask.at

    def joined(self, work: Work, begin: Begin, at: int) -> None:
        """Take a submit that a job answers by its key (§7.2), "unless it already flows in that session"."""
        if begin.gone or self._current(work, at) is None:
            self._streams.joined(work.job_id, gone=begin.gone).since = at

    def stopped(self, work: Work) -> None:
        """Take a notice that ends an observation: "the client subscribes again from its position"."""
        self._known(work)
        self._streams.left(work.job_id)

    def forgotten(self, work: Work) -> None:
        """Take the loss of a job before the session had its history: "the terminal always comes, alone"."""
        stream = self._known(work)
        if stream is not None:
            stream.alone = True

    # Envelopes that leave.

    def event(self, work: Work, position: int, *, skipped: bool) -> None:
        """Take an event that leaves. `skipped`: the client has acked numbers that it did not get."""
        self._leaves(work, position, f"event {position}", skipped=skipped)

    def end(self, work: Work, position: int, *, skipped: bool) -> None:
        """Take the end of a job that leaves, behind all its events."""
        self._leaves(work, position, f"the end {position}", skipped=skipped, ends=True)

    def _leaves(self, work: Work, position: int, what: str, *, skipped: bool, ends: bool = False) -> None:
        def missing(stream: Stream, position: int) -> bool:
            return self._misses(work, stream, position)

        known, streams = self._known(work), self._streams
        stream = streams.goes_on(work.job_id, position, missing, ends=ends)
        if stream is None and not skipped:
            name = "I2" if known is not None and known.ended else "I1"
            raise Broken(name, f"{self.id} gets {what} of {work.job_id} after {known}")
        if stream is None:
            stream = streams.jobs[work.job_id] = Stream(position, own=known is not None and known.own)
        streams.take(stream, position, ends=ends)

    def _known(self, work: Work) -> Stream | None:
        """Return the stream of a job; a submitted job has one from the beginning."""
        if work.home == self.id and work.job_id not in self._streams.jobs:
            self._streams.submitted(work.job_id)
        return self._streams.jobs.get(work.job_id)

    def _current(self, work: Work, at: int) -> Stream | None:
        """Return the stream of a job at the time of a request; None if the session did not get the job."""
        self._known(work)
        stream = self._streams.going(work.job_id)
        if stream is None:
            return None
        left = self._unsubscribes.between(work.job_id, stream.since, at)
        return stream if stream.own or not left else None

    def _misses(self, work: Work, stream: Stream, position: int) -> bool:
        """Return whether the session has to get an event before this position."""
        placed, untold = self._streams.placed, stream.joined or "subscribe" not in self._features
        if stream.at == ANY or (work.cut and untold and not (placed and stream.own)):
            return False  # A session without subscribe is not told of a cut history.
        if not placed:  # Positions are not negotiated: they are places of marks.
            return work.next_for(stream.at, self._features) < position - 1
        takes = work.takes(self._principal, self._features)
        return work.missed(stream.at, position, takes, self.id) is not None
