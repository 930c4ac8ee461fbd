"""Every page of a listing, against what was there while it was made: nothing more, nothing less (§6.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tests.reference.visibility import STATUSES, is_asked_for, page_size

from .broken import Broken, ensure
from .truth import GONE, UNSURE, Work

if TYPE_CHECKING:
    from .told import Ask
    from .world import World

NEWEST = 1 << 62
"""Above the number of every job."""


class Place(NamedTuple):
    """Where a listing goes on: when it began, the last job that it has shown, all of them, and its terms."""

    since: int
    last: int
    shown: frozenset[str]
    principal: str
    terms: bytes


class Pages:
    """The cursors that were told, and the check of each page."""

    def __init__(self, world: World) -> None:
        self.cursors: dict[str, Place] = {}
        self._world = world

    def told(self, principal: str, ask: Ask, payload: Mapping[str, Any]) -> None:
        """A page leaves, and answers this request."""
        asked, now = ask.payload, self._world.works.tick()
        place = self._place(principal, ask)
        most = page_size(asked.get("limit"), self._world.options.limits.max_page_jobs)
        entries = payload["jobs"]
        ensure(len(entries) <= most, "I9", f"a page of {most} has {len(entries)} jobs")
        last, shown = place.last, set(place.shown)
        for entry in entries:
            work = self._entry(principal, entry, ask, now)
            ensure(work.number < last, "I7", f"{work.job_id} stands behind one that is older, or twice")
            last = work.number
            shown.add(work.job_id)
        cursor = payload["next_cursor"]
        end = -1 if cursor is None else last if entries else place.last
        for work in self._world.truth.jobs.values():
            if end < work.number < place.last and work.job_id not in shown:
                there = self._is_there(principal, work, asked, place.since, now)
                ensure(
                    not there,
                    "I7",
                    f"a page for {principal} leaves out {work.owner}'s {work.job_id}: {asked}",
                )
        if cursor is not None:
            self.cursors[cursor] = Place(place.since, last, frozenset(shown), principal, place.terms)
        self._world.count("page" if place.last == NEWEST else "next page")

    def _place(self, principal: str, ask: Ask) -> Place:
        """Where the page begins; only a cursor that was told to somebody brings him on."""
        cursor = ask.payload.get("cursor")
        if cursor is None:
            return Place(ask.at, NEWEST, frozenset(), principal, terms_of(ask.payload))
        place = self.cursors.get(cursor)
        if place is None or not self.fits(principal, ask):
            raise Broken("I9", f"{principal} goes on with {cursor}, which was not told for that: {place}")
        return place

    def fits(self, principal: str, ask: Ask) -> bool:
        """Whether the cursor of a request was told to this principal, for the same filter."""
        place = self.cursors.get(str(ask.payload.get("cursor")))
        return place is not None and (place.principal, place.terms) == (principal, terms_of(ask.payload))

    def _entry(self, principal: str, entry: Mapping[str, Any], ask: Ask, now: int) -> Work:
        """One job of a page was there, could be seen, and is shown as it was."""
        works, job_id = self._world.works, entry["job_id"]
        work = self._world.truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{principal} is shown {job_id}, which is not kept")
        if not works.may_list(principal, work.owner, ask.at):
            raise Broken("I9", f"{principal} sees {work.owner}'s {job_id} in a list")
        had = work.had(ask.at, now)
        ensure(
            {entry["status"], UNSURE} & had, "I7", f"{job_id} is listed as {entry['status']}, and was {had}"
        )
        ensure(entry.get("parent_job_id") == work.parent, "I7", f"{job_id} is listed with another parent")
        ensure(_matches(work, had, ask.payload), "I7", f"{job_id} is listed, which was not asked for")
        return work

    def _is_there(self, principal: str, work: Work, asked: Mapping[str, Any], since: int, now: int) -> bool:
        """Whether a job had to be shown: it was there all the time, and all the time as it was asked for."""
        if "" in self._world.works.rights(principal, work.owner, since):
            return False
        had = work.had(since, now)
        return not {GONE, UNSURE} & had and all(_matches(work, {status}, asked) for status in had)


def _matches(work: Work, had: set[str], asked: Mapping[str, Any]) -> bool:
    """Whether a job with one of these statuses is asked for."""
    names = (work.agent, f"{work.agent}@{work.version}") if work.version else (work.agent,)
    terms = asked.get("filter") or {}
    return is_asked_for(terms, STATUSES if UNSURE in had else had, names)


def terms_of(asked: Mapping[str, Any]) -> bytes:
    """A filter, in one form."""
    terms = {name: value for name, value in (asked.get("filter") or {}).items() if value is not None}
    return msgspec.json.encode(terms, order="sorted")
