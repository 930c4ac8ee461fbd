"""The lines on stderr that concern a server process as a whole, for its operator: its address, and failures.

No level of the log leaves them out. A line is the message alone, unless the lines are passed to a handler of
logging, as `--log-format json` does.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NAME: Final = "arcp_io.operator"
"""The logger that the records name."""
_handlers: Final[list[logging.Handler]] = []


def tell(
    message: str, level: int = logging.INFO, *, what: str = "", trace: str = "", **facts: object
) -> None:
    """Tell the operator a message, after the text of a traceback if there is one.

    A handler finds `what`, the name of the kind of message, and `facts` as attributes of the record.
    """
    if not _handlers:
        print(f"{trace}{message}", file=sys.stderr, flush=True)
        return
    record = logging.LogRecord(NAME, level, __file__, 0, message, None, None)
    if what:
        vars(record).update(what=what, facts=facts)
    record.exc_text = trace.rstrip("\n") or None
    _handlers[-1].handle(record)


@contextmanager
def passed_to(handler: logging.Handler) -> Iterator[None]:
    """Pass each line as a record to a handler, in place of stderr, until the block is left."""
    _handlers.append(handler)
    try:
        yield
    finally:
        _handlers.remove(handler)
