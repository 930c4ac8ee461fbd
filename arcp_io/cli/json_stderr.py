"""Standard error as lines of JSON, for `serve --log-format json`: the log, warnings, failures and prints."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TextIO

from .exit_codes import Exit

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

LONGEST: Final = 64 * 1024
"""Characters of a printed line that make one object; the rest of a longer line makes further ones."""
_OPTION: Final = "--log-format"


def asks_for_json(words: Sequence[str]) -> bool:
    """Return whether a command line is `serve` with `--log-format json`; the last of several counts.

    The words are looked at before they are parsed, since an error of parsing is told in this form as well.
    """
    form = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, given, value = word.partition("=")
        if name == _OPTION:
            form = value if given else following
    return words[:1] == ["serve"] and form == "json"


@contextmanager
def json_stderr(*, also_stdout: bool = False) -> Iterator[None]:
    """Write each line that Python writes to stderr within the block as one object of JSON.

    Loggers of libraries, warnings and exceptions that end a thread or the command are logged; other text, as
    of `print`, becomes one record a line, of the logger "stderr". A line that is an object of JSON already
    stays as it is. With `also_stdout` the same holds for what is printed on stdout, which goes to stderr.

    Lines that other processes and the interpreter itself write are not changed. Raises SystemExit(1) in place
    of an exception that leaves the block.
    """
    from arcp_io.server.json_log import JsonFormatter
    from arcp_io.server.operator_log import passed_to

    stdout, stderr = sys.stdout, sys.stderr
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(JsonFormatter())
    printed = _Printed(stderr, handler)
    hooks = threading.excepthook, sys.unraisablehook
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    threading.excepthook, sys.unraisablehook = _thread_failed, _not_raised
    sys.stderr = printed
    if also_stdout:
        sys.stdout = printed
    try:
        with passed_to(handler):
            yield
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        logging.getLogger("arcp_io").critical("%s: %s", type(error).__name__, error, exc_info=error)
        raise SystemExit(Exit.ERROR) from None
    finally:
        printed.end()
        sys.stdout, sys.stderr = stdout, stderr
        threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        root.removeHandler(handler)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        name = "" if failed.thread is None else failed.thread.name
        exception: Any = (failed.exc_type, failed.exc_value, failed.exc_traceback)
        logging.getLogger("arcp_io").error("the thread %s has failed", name, exc_info=exception)


def _not_raised(failed: UnraisableHookArgs) -> None:
    exception: Any = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    text = failed.err_msg or "an exception was ignored"
    logging.getLogger("arcp_io").error("%s: %r", text, failed.object, exc_info=exception)


class _Printed(io.TextIOBase):
    """The text that is printed on stderr: each line of it is passed to a handler, in order."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO, handler: logging.Handler) -> None:
        self._stream = stream
        self._handler = handler
        self._lock = threading.RLock()
        self._begun = ""

    @property
    def buffer(self) -> BinaryIO:
        return self._stream.buffer

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._stream.flush()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            if len(self._begun) >= LONGEST:
                lines, self._begun = [*lines, self._begun], ""
            for line in lines:
                self._pass_on(line)
        return len(text)

    def end(self) -> None:
        """Pass on a line that has no end."""
        if self._begun:
            self.write("\n")

    def _pass_on(self, line: str) -> None:
        if _is_object(line):
            self._stream.write(f"{line}\n")
            self._stream.flush()
            return
        for at in range(0, len(line.rstrip()), LONGEST):
            record = logging.LogRecord("stderr", logging.INFO, "", 0, line[at : at + LONGEST], None, None)
            self._handler.handle(record)


def _is_object(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
