"""The notes of clients, against what was told to them and against what is there at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from arcp_proto.client.stored_session import Resumption
from tests.kill9.audit import History, is_notice
from tests.kill9.client import read_notes

Note = dict[str, Any]


class Life:
    """The notes of one process of a client that is killed."""

    def __init__(self) -> None:
        self.events: list[Note] = []
        self.repeats: list[Note] = []


class Judged(NamedTuple):
    """The counts of what was looked at, and what is wrong."""

    jobs: int
    events: int
    repeats: int
    wrong: list[str]


class Stored(NamedTuple):
    """The events that a dead client has stored as processed: all up to a number, and more of some jobs."""

    cursor: int = 0
    positions: Mapping[str, int] = {}
    ended: Collection[str] = ()

    def has(self, note: Note) -> bool:
        """Return whether an event that was noted is stored as processed."""
        job_id = note["job"]
        if note["seq"] <= self.cursor or job_id in self.ended:
            return True
        return bool(note["position"] <= self.positions.get(job_id, 0))


def stored(store: Path) -> Stored:
    """Return what a client that is dead has stored; nothing when it has no store yet."""
    if not store.exists():
        return Stored()
    kept = Resumption.of_json(store.read_bytes())
    positions = {job.job_id: job.cursor for job in kept.jobs}
    return Stored(kept.cursor, positions, {job_id for job_id, _ in kept.ended})


def lives_of(path: Path) -> int:
    """Return how many processes of a client have begun to work; some are killed before that."""
    return sum(note["what"] == "life" for note in read_notes(path)) if path.exists() else 0


def jobs_in(path: Path) -> set[str]:
    """Return the jobs that the notes of a client name; nothing when it has no notes yet."""
    return {note["job"] for note in read_notes(path) if "job" in note} if path.exists() else set()


def judge(path: Path, history: Callable[[str], History], told: Iterable[str]) -> Judged:
    """Check the notes of a client that was never killed, or of all its lives: each event is there once.

    `told` are the jobs whose acceptance was told to it, whether or not it lived to read that.
    """
    notes = [note for note in read_notes(path) if not (note["what"] == "event" and is_notice(note))]
    wrong = [f"{path.name}: {note['error']} {note['causes']}" for note in notes if note["what"] == "failed"]
    if notes[-1]["what"] != "left":
        wrong.append(f"{path.name}: did not end by itself")
    if len(sessions := _sessions(notes)) > 1:
        wrong.append(f"{path.name}: worked in {len(sessions)} sessions: {sessions}")
    events = _by_job(notes, "event")
    ends = _by_job(notes, "end")
    accepted = {note["job"] for note in notes if note["what"] == "accepted"}
    over = {note["job"] for note in notes if note["what"] == "over"}
    unfinished = (accepted | set(told)) - set(ends) - over
    wrong += [f"{path.name}: job {job_id} has no end" for job_id in unfinished]
    for job_id, end in ends.items():
        wrong += [
            f"{path.name}: {found}" for found in _check_job(job_id, events.get(job_id, []), end, history)
        ]
    return Judged(
        len(ends),
        sum(map(len, events.values())),
        sum(note["what"] == "repeat" for note in notes),
        wrong,
    )


def check_tags(paths: Iterable[Path], history: Callable[[str], History], jobs: Iterable[str]) -> list[str]:
    """Check that no submit was carried out twice: each tag belongs to one job."""
    owners: dict[str, list[str]] = defaultdict(list)
    for job_id in jobs:
        for payload in history(job_id).values():
            body = payload.get("body") or {}
            if payload.get("kind") == "log":
                owners[body["message"].split(" ")[0]].append(job_id)
                break
            if payload.get("kind") == "status" and body["phase"] == "streaming":
                owners[body["message"]].append(job_id)
                break
    submitted = {note["tag"] for path in paths for note in read_notes(path) if note["what"] == "submit"}
    wrong = [f"{tag} was carried out as {found}" for tag, found in owners.items() if len(found) > 1]
    return wrong + [f"no client submitted {tag}" for tag in owners if tag not in submitted]


def check_repeats(path: Path, stores: Mapping[int, Stored]) -> list[str]:
    """Return where a life got again what its store held as processed, or not what it did not hold.

    An event is known by its job and position: one that a subscription brings again has another number.
    """
    wrong = []
    known: dict[tuple[str, int], Note] = {}
    for number, life in enumerate(_lives(read_notes(path))):
        store = stores.get(number, Stored())
        behind = {key for key, note in known.items() if not store.has(note)}
        repeated = {(note["job"], note["position"]) for note in life.repeats}
        if len(repeated) != len(life.repeats):
            wrong.append(f"{path.name}: life {number} got an event twice")
        wrong += [
            f"{path.name}: life {number} got {position} of {job_id} again, and its store was {store}"
            for job_id, position in sorted(repeated - behind)
        ]
        went_on = {note["job"] for note in life.events}
        wrong += [
            f"{path.name}: life {number} went on with {job_id} without {position}, and its store was {store}"
            for job_id, position in sorted(behind - repeated)
            if job_id in went_on
        ]
        known |= {(note["job"], note["position"]): note for note in life.events if not is_notice(note)}
    return wrong


def _lives(notes: list[Note]) -> list[Life]:
    lives: list[Life] = []
    for note in notes:
        match note["what"]:
            case "life":
                lives.append(Life())
            case "event":
                lives[-1].events.append(note)
            case "repeat":
                lives[-1].repeats.append(note)
    return lives


def _sessions(notes: list[Note]) -> list[str]:
    """Return the lives in which an event of a job came: one that is killed before has stored none."""
    found: dict[str, None] = {}
    session = ""
    for note in notes:
        if note["what"] == "session":
            session = note["id"]
        elif note["what"] in ("accepted", "event", "repeat"):
            found[session] = None
    return list(found)


def _by_job(notes: list[Note], what: str) -> dict[str, list[Note]]:
    jobs: dict[str, list[Note]] = defaultdict(list)
    for note in notes:
        if note["what"] == what:
            jobs[note["job"]].append(note)
    return jobs


def _check_job(
    job_id: str, events: list[Note], ends: list[Note], history: Callable[[str], History]
) -> list[str]:
    held = history(job_id)
    numbers = [note["position"] for note in events]
    wrong = []
    if numbers != sorted(set(numbers)):
        wrong.append(f"{job_id}: twice, or out of order: {numbers}")
    noted: Mapping[int, Any] = {note["position"]: (note["kind"], note["body"]) for note in events}
    there = {
        number: (payload["kind"], payload["body"]) for number, payload in held.items() if "kind" in payload
    }
    missing = sorted(set(there) - set(noted))
    if missing:
        wrong.append(f"{job_id}: {missing} were never seen, of {min(there)} to {max(there)}")
    wrong += [
        f"{job_id} {number}: {body}, is {there.get(number)}"
        for number, body in noted.items()
        if there.get(number) != body
    ]
    terminals = {number: payload for number, payload in held.items() if "final_status" in payload}
    for end in ends:
        terminal = terminals.get(end["position"])
        if terminal is None or terminal["final_status"] != end["status"]:
            wrong.append(f"{job_id}: ended as {end}, and is {terminals}")
        elif _result(held, terminal) != end["result"]:
            wrong.append(f"{job_id}: returned {end['result']!r}, and is {_result(held, terminal)!r}")
    return wrong


def _result(held: History, terminal: Mapping[str, Any]) -> Any:
    """Return what the job returned, or has streamed as text."""
    if "result_id" not in terminal:
        return terminal.get("result")
    chunks = (held[number] for number in sorted(held) if held[number].get("kind") == "result_chunk")
    return "".join(chunk["body"]["data"] for chunk in chunks)
