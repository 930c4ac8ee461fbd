"""Every story comes out as it is written, keeps the rules, and is repeated by its recording.

`pytest tests/transcripts --rewrite` writes what comes out into the stories: review the diff.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from arcp_proto.recording import replay
from arcp_proto.server.runtime import Runtime

from .story import perform

STORIES: Final = sorted(Path(__file__).parent.glob("*.txt"))
HEAD: Final = ("arcp", "id", "type", "session_id", "job_id", "trace_id", "event_seq", "extensions", "payload")
TERMINALS: Final = ("job.result", "job.error")
AGAIN: Final = ("idempotency", "subscribe")
"""Stories in which clients without positions get the history or the end of a job again."""
MAX_FRAME: Final = 60 * 1024
MAX_RESULT_FRAME: Final = 1024 * 1024 - 1024
"""Of a `job.result` with its value."""

each_story = pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])


@each_story
def test_a_story_comes_out_as_it_is_written(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text()
    lines = perform(written).lines
    if request.config.getoption("rewrite"):
        path.write_text("\n".join(lines) + "\n")
    else:
        assert lines == written.splitlines()


@each_story
def test_the_recording_of_a_story_repeats_it(path: Path) -> None:
    stage = perform(path.read_text()).stage
    again = replay(stage.recording).envelopes
    if stage.was_slow:  # A replay takes everything at once, and so what a slow client never got.
        assert not Counter(stage.pulled) - Counter(again)
    else:
        assert _by_connection(stage.pulled) == _by_connection(again)


@each_story
def test_a_story_keeps_the_rules_of_ids_and_shapes(path: Path) -> None:
    stage = perform(path.read_text()).stage
    seen: dict[tuple[str, str], bytes] = {}
    for _, raw in stage.pulled:
        frame = json.loads(raw)
        assert frame["arcp"] == "1.1"
        assert list(frame) == [name for name in HEAD if name in frame], "fields come in their order"
        most = MAX_RESULT_FRAME if "result" in frame["payload"] else MAX_FRAME
        assert len(json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()) <= most
        nulls = [name for name, value in frame["payload"].items() if value is None]
        assert nulls == [] or (frame["type"], nulls) == ("session.jobs", ["next_cursor"])
        known = seen.setdefault((frame["session_id"], frame["id"]), raw)
        replayed = "event_seq" in frame and known == raw
        assert known is raw or replayed or "java" in path.stem, "an id is that of one frame in a session"


@each_story
def test_a_story_keeps_the_rules_of_numbers_and_ends(path: Path) -> None:
    stage = perform(path.read_text()).stage
    ended: set[tuple[str, str]] = set()
    numbers: dict[int, int] = {}
    positions: Counter[tuple[str, str]] = Counter()
    last: Counter[str] = Counter()
    for connection, raw in stage.pulled:
        frame = json.loads(raw)
        if "event_seq" not in frame:
            continue
        session_id, number = frame["session_id"], frame["event_seq"]
        before, numbers[connection] = numbers.get(connection), number
        acked_unseen = stage.was_slow and number > (before or 0)
        assert before is None or number == before + 1 or acked_unseen, "numbers have no gap"
        if number <= last[session_id]:
            continue  # Replayed: a frame of that number has been looked at.
        assert number == last[session_id] + 1 or stage.was_slow, "a resume leaves no gap either"
        last[session_id] = number
        about = (session_id, frame["job_id"])
        position, highest = frame["payload"].get("job_seq"), positions[about]
        again = frame["type"] == "job.cancelled" or path.stem in AGAIN
        again = again or (position is not None and position <= highest)
        positions[about] = max(highest, position or 0)
        assert about not in ended or again, "nothing follows the end of a job but what is asked for again"
        if frame["type"] in TERMINALS:
            ended.add(about)


@each_story
def test_a_snapshot_restores_what_the_records_of_a_story_restore(path: Path) -> None:
    stage = perform(path.read_text()).stage
    if not stage.config.journal:
        assert not stage.runtime.record_count
        return
    moment: dict[str, Any] = {"seed": bytes(32), "now": stage.now, "unix": stage.now}
    from_records = Runtime.restore(stage.config, stage.durable_records + stage.records, **moment)
    from_snapshot = Runtime.restore(stage.config, stage.runtime.snapshot(), **moment)
    assert from_snapshot.snapshot() == from_records.snapshot()


def test_there_are_stories() -> None:
    assert len(STORIES) >= 14


@pytest.mark.parametrize("line", ["job-1 emits nothing", "2< {}", "@ 5s", "1>{}"])
def test_a_line_that_says_nothing_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="a story cannot say"):
        perform(line)


def _by_connection(envelopes: list[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    return {number: [raw for connection, raw in envelopes if connection == number] for number, _ in envelopes}
