"""arcp_io.server.json_log: log records as lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from arcp_io.server.json_log import JsonFormatter


def line(message: str, *args: object, **fields: Any) -> dict[str, Any]:
    """Return a formatted record, read again."""
    record = logging.LogRecord(
        "arcp_io", logging.INFO, "x.py", 1, message, args, fields.pop("exc_info", None)
    )
    vars(record).update(fields)
    record.created = 1_780_000_000.25
    written = JsonFormatter().format(record)
    assert "\n" not in written
    found: dict[str, Any] = json.loads(written)
    return found


def test_a_record_is_one_object() -> None:
    assert line("job %s\nended", "a") == {
        "time": "2026-05-28T20:26:40.250Z",
        "level": "info",
        "logger": "arcp_io",
        "message": "job a\nended",
    }


def test_the_facts_of_a_notice_are_fields() -> None:
    found = line("x", what="job_started", principal="alice", facts={"job_id": "job_1", "attempt": 2})
    assert (found["what"], found["principal"], found["job_id"], found["attempt"]) == (
        "job_started",
        "alice",
        "job_1",
        2,
    )


def test_a_traceback_stands_in_its_field() -> None:
    try:
        raise LookupError("gone")
    except LookupError:
        found = line("failed", exc_info=sys.exc_info())
    assert "LookupError: gone" in found["exception"]


@pytest.mark.parametrize("text", ["\ud800", "\u2028", '"', "\x00"])
def test_any_text_can_be_written(text: str) -> None:
    assert line("%s", text)["message"]
    assert line("x", what="session_opened", principal=text, facts={"peer": object()})["principal"]
