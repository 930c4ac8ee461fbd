"""The events of jobs in one session: by position, in order, each once (draft §7.6, §8.3; protocol §5, §6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

ANY: Final = -1
"""The place of a stream whose next event has an unknown position."""
FAR: Final = 1 << 62
"""A position behind every other."""


@dataclass(slots=True)
class Stream:
    """The events of one job that one session gets: `at` is the position of the last."""

    at: int
    own: bool = False
    """The session has submitted the job: an unsubscribe "only ends observing"."""
    alone: bool = False
    """The job is forgotten, so that its end comes alone."""
    ended: bool = False
    """The job has ended here, or the session gets no more of it."""
    until: int = FAR
    """The position of the last event, of a history that stands beside what flows."""
    floor: int = 0
    """Events up to this position are gone, or may be."""
    live: bool = False
    """Published events are numbered at once; else they wait behind a history, or for a client that reads."""
    by_itself: bool = False
    """The stream waits unasked: a child behind its parent, or an end behind that of a child."""
    since: int = 0
    """When the session asked for it last, by the clock of a judge."""
    joined: bool = False
    """The stream begins by a key, and no event has come: no frame tells of a history that was cut."""

    def __str__(self) -> str:
        words = (name for name in ("own", "joined", "alone", "ended") if getattr(self, name))
        return " ".join((f"position {self.at}", *words))


def begins(after: int | None, last: int) -> int:
    """Return behind which position a subscription begins that asks for what is above one, or from now on."""
    return last if after is None else min(after, last)


Missing = Callable[[Stream, int], bool]
"""Whether a session has to get an event between the place of a stream and a position."""


class Streams:
    """All that one session gets of jobs. `placed`: it is told positions."""

    def __init__(self, placed: bool) -> None:
        self.placed = placed
        self.jobs: dict[str, Stream] = {}
        self.replays: dict[str, Stream] = {}
        """Histories beside what flows at home, in a session without positions."""

    def going(self, job_id: str) -> Stream | None:
        """Return what flows of a job; None for nothing."""
        stream = self.jobs.get(job_id)
        return None if stream is None or stream.ended else stream

    # Requests that are carried out.

    def submitted(self, job_id: str) -> None:
        """Begin the stream of a job in the session that has submitted it."""
        self.jobs[job_id] = Stream(0, own=True, live=True)

    def subscribed(self, job_id: str, after: int | None, last: int, *, over: bool) -> Stream | None:
        """Carry out a subscription to a job with `last` events, of which its end is one if it is `over`.

        It asks for what is above a position, or for what comes from now on. Return the stream that it has
        begun or set back; None for nothing.
        """
        place, stream = begins(after, last), self.going(job_id)
        if over and place >= last:
            return None  # It asks for nothing, and what an earlier request has asked for still comes.
        if stream is None:
            return self._begin(job_id, Stream(place))
        if after is None:
            return None
        if not stream.own or self.placed:
            stream.at = min(stream.at, place) if self.placed else place
            stream.live = stream.live and place >= last
            stream.by_itself = stream.by_itself and place >= last
            return stream
        if place < last:
            self.replays[job_id] = Stream(place, until=last)
        return self.replays.get(job_id)

    def joined(self, job_id: str, *, gone: bool) -> Stream:
        """Begin the stream of a submit that is answered by the job of its key, which may be forgotten."""
        return self._begin(job_id, Stream(0, joined=True, alone=gone))

    def left(self, job_id: str) -> bool:
        """End an observation, and return whether there was one."""
        stream = self.going(job_id)
        replayed = self.replays.pop(job_id, None) is not None
        observed = stream is not None and not stream.own
        if stream is not None and observed:
            stream.ended = True
        return replayed or observed

    def _begin(self, job_id: str, stream: Stream) -> Stream:
        self.jobs.pop(job_id, None)
        self.replays.pop(job_id, None)
        self.jobs[job_id] = stream
        return stream

    # What is numbered, or leaves.

    @property
    def own(self) -> dict[str, Stream]:
        """The streams of the jobs that the session has submitted."""
        return {job_id: stream for job_id, stream in self.jobs.items() if stream.own and not stream.ended}

    @property
    def observed(self) -> dict[str, Stream]:
        """The streams of other jobs, and histories beside streams of the session's own jobs."""
        others = {job_id: stream for job_id, stream in self.jobs.items() if not (stream.own or stream.ended)}
        return others | self.replays

    def goes_on(self, job_id: str, position: int, missing: Missing, *, ends: bool = False) -> Stream | None:
        """Return the stream in which an event is the next one, or the end of the job; None for none."""
        stream, replay = self.going(job_id), self.replays.get(job_id)
        if not ends and replay is not None and (stream is None or position <= stream.at):
            stream = replay
        if stream is None or not stream.at < position <= stream.until:
            return None
        return stream if (ends and stream.alone) or not missing(stream, position) else None

    def take(self, stream: Stream, position: int, *, ends: bool = False) -> None:
        """Note that an event, or the end, has come."""
        stream.at, stream.joined = position, False
        stream.ended = stream.ended or ends
