"""`arcp-io replay`: run a recording again, and show what the machine sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from arcp_proto import InvariantViolated, LocalProtocolError

from .exit_codes import Exit
from .options import JsonLines
from .output import print_out
from .printable import one_line

_Recording = Annotated[
    str, typer.Argument(metavar="RECORDING", help="The file with the recording; - is stdin.")
]


def replay(recording: _Recording, as_json: JsonLines = False) -> None:
    """Run a recording again, and print each envelope that the runtime or client sent, in order.

    A recording has every input of a state machine, as 'arcp-io serve --record' and arcp_proto.record write
    it. The machine does again what it did, without a network and without a clock, so a bug comes back where
    it was. Secrets are replaced by others of the same length. A last line that is cut off, as by the kill of
    a server, is left out.

    \b
    Examples:
      arcp-io replay runtime.recording
      arcp-io replay runtime.recording --json | jq -r .envelope.type
    """
    lines = _Lines()
    try:
        with sys.stdin.buffer if recording == "-" else open(recording, "rb") as file:
            told = _replayed(lines.counted(file))
    except OSError as error:
        _fail("RECORDING", f"cannot read {recording}: {error.strerror}", as_json=as_json)
    except UnicodeDecodeError:
        _fail("RECORDING", f"{recording} is not a recording: it is not text", as_json=as_json)
    except LocalProtocolError as error:
        _fail("RECORDING", f"line {lines.count} of {recording}: {error}", as_json=as_json)
    except InvariantViolated as error:
        _fail("INVARIANT_VIOLATED", f"the machine stops at line {lines.count}: {error}", as_json=as_json)
    for number, envelope in told.envelopes:
        if as_json:
            print_out(json.dumps({"connection": number, "envelope": json.loads(envelope)}))
        else:
            print_out(f"{number:>4}  {one_line(envelope.decode(), longest=len(envelope))}")
    if not as_json:
        machine = type(told.machine).__name__.lower()
        counted = f"{len(told.outputs):,} inputs, {len(told.envelopes):,} envelopes sent"
        print(f"{machine}: {counted}{lines.cut_off}", file=sys.stderr)


class _Lines:
    """The lines of a file, and how many of them have been read."""

    def __init__(self) -> None:
        self.count = 0
        self.cut_off = ""
        """A note about a last line that has no end, and is left out."""

    def counted(self, lines: Iterable[bytes]) -> Iterator[str]:
        for line in lines:
            if self.count and not line.endswith(b"\n") and not _is_json(line):
                self.cut_off = "; the last line is cut off"
                return
            self.count += 1
            yield line.decode()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _replayed(lines: Iterable[str]) -> Any:
    from arcp_proto import replay as run

    return run(lines)


def _fail(code: str, message: str, *, as_json: bool) -> Any:
    print(f"cannot replay: {one_line(message)}", file=sys.stderr)
    if as_json:
        print_out(json.dumps({"error": {"code": code, "message": message, "retryable": False}}))
    raise typer.Exit(Exit.ERROR)
