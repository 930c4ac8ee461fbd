"""Log records as lines of JSON."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec


class JsonFormatter(logging.Formatter):
    """Formats a record as one object of JSON on one line.

    Its fields are `time` (UTC), `level`, `logger` and `message`; for sessions and jobs `what`, `principal`
    and the facts of the notice; `exception` with a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        facts = getattr(record, "facts", None)
        if isinstance(facts, dict):
            about = {name: getattr(record, name) for name in ("what", "principal") if hasattr(record, name)}
            line |= {**about, **facts}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return _written(line)


def _written(line: dict[str, Any]) -> str:
    """Return an object as JSON; a value that JSON cannot hold becomes text."""
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except UnicodeEncodeError:  # A lone surrogate, in a name that a client gave.
        return msgspec.json.encode({name: ascii(value) for name, value in line.items()}).decode()
