"""Every page of a listing, checked against the jobs that existed while it was made (§6.6)."""

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
"""A number above those of all jobs."""


class Place(NamedTuple):
    """The position of a cursor: when its listing began, the last job, all jobs, principal and filter."""

    since: int
    last: int
    shown: frozenset[str]
    principal: str
    terms: bytes


class Pages:
    """The cursors that clients were given, and the check of each page."""

    def __init__(self, world: World) -> None:
        self.cursors: dict[str, Place] = {}
        self._world = world

    def told(self, principal: str, ask: Ask, payload: Mapping[str, Any]) -> None:
        """Check a page that leaves as the answer to a request."""
        asked, now = ask.payload, self._world.works.tick()
        place = self._place(principal, ask)
        most = page_size(asked.get("limit"), self._world.options.limits.max_page_jobs)
        entries = payload["jobs"]
        ensure(len(entries) <= most, "I9", f"a page of {most} has {len(entries)} jobs")
        last, shown = place.last, set(place.shown)
        for entry in entries:
            work = self._entry(principal, entry, ask, now)
            ensure(work.number < last, "I7", f"{work.job_id} is listed twice, or behind an older job")
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
                    f"a page for {principal} lacks {work.job_id} of {work.owner}: {asked}",
                )
        if cursor is not None:
            self.cursors[cursor] = Place(place.since, last, frozenset(shown), principal, place.terms)
        self._world.count("page" if place.last == NEWEST else "next page")

    def _place(self, principal: str, ask: Ask) -> Place:
        """Return the position at which the page begins; a cursor is valid for its own principal only."""
        cursor = ask.payload.get("cursor")
        if cursor is None:
            return Place(ask.at, NEWEST, frozenset(), principal, terms_of(ask.payload))
        place = self.cursors.get(cursor)
        if place is None or not self.fits(principal, ask):
            raise Broken("I9", f"{principal} gets a page for the cursor {cursor}, which is of {place}")
        return place

    def fits(self, principal: str, ask: Ask) -> bool:
        """Return whether the cursor of a request was given to this principal, for the same filter."""
        place = self.cursors.get(str(ask.payload.get("cursor")))
        return place is not None and (place.principal, place.terms) == (principal, terms_of(ask.payload))

    def _entry(self, principal: str, entry: Mapping[str, Any], ask: Ask, now: int) -> Work:
        """Check that a job of a page was visible, and had the listed status; return it."""
        works, job_id = self._world.works, entry["job_id"]
        work = self._world.truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{principal} is shown {job_id}, which does not exist")
        if not works.may_list(principal, work.owner, ask.at):
            raise Broken("I9", f"{principal} is shown {job_id} of {work.owner} in a page")
        had = work.had(ask.at, now)
        ensure(
            {entry["status"], UNSURE} & had,
            "I7",
            f"{job_id} is listed as {entry['status']}, but had the statuses {had}",
        )
        ensure(entry.get("parent_job_id") == work.parent, "I7", f"{job_id} is listed with another parent")
        ensure(_matches(work, had, ask.payload), "I7", f"{job_id} is listed, but does not match the filter")
        return work

    def _is_there(self, principal: str, work: Work, asked: Mapping[str, Any], since: int, now: int) -> bool:
        """Return whether a job has to be listed: it was visible and matched the filter all the time."""
        if "" in self._world.works.rights(principal, work.owner, since):
            return False
        had = work.had(since, now)
        return not {GONE, UNSURE} & had and all(_matches(work, {status}, asked) for status in had)


def _matches(work: Work, had: set[str], asked: Mapping[str, Any]) -> bool:
    """Return whether a job with one of these statuses matches the filter."""
    names = (work.agent, f"{work.agent}@{work.version}") if work.version else (work.agent,)
    terms = asked.get("filter") or {}
    return is_asked_for(terms, STATUSES if UNSURE in had else had, names)


def terms_of(asked: Mapping[str, Any]) -> bytes:
    """Return a filter in canonical form."""
    terms = {name: value for name, value in (asked.get("filter") or {}).items() if value is not None}
    return msgspec.json.encode(terms, order="sorted")
