"""The task that an engine runs on its worker: it starts the agent's end of a link, and waits for its end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

import msgspec

from .frames import SILENT_BEATS
from .placement import Invitation

__all__ = ["DialInFailed", "dial_in"]

BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from arcp_io.placing.far_end import main; main()"
)
FIRST_SEC: Final = 60.0
"""Seconds until the end of a link gives its first sign of life; on a loaded machine Python starts slowly."""
LATER_BEATS: Final = 3
"""Heartbeats by which the worker gives the end of a link up later than the runtime, which says why."""
EXIT_SEC: Final = 10.0
"""Seconds that it has to end the agent before it is killed."""
BEAT: Final = b"."
"""A sign of life of the end of a link to this process."""


class DialInFailed(RuntimeError):
    """The failure of a worker to dial in, or a refusal of its ticket."""


def dial_in(invitation: Invitation) -> None:
    """Run an agent in a process below this one, and return when it has ended; called by the engine.

    The process finds modules where this one does, and has its environment. It ends with this one. Raises
    DialInFailed when the runtime cannot be reached or turns the invitation away.
    """
    path = json.dumps([entry or os.getcwd() for entry in sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", BOOT, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            _invite(process, invitation)
            if not _watch(process, (SILENT_BEATS + LATER_BEATS) * invitation.heartbeat):
                process.kill()
        finally:
            _end(process)


def _invite(process: subprocess.Popen[bytes], invitation: Invitation) -> None:
    """Hand an invitation over in the pipe, which stays open as long as this process lives."""
    if process.stdin is not None:
        process.stdin.write(msgspec.json.encode((os.getpid(), invitation)) + b"\n")
        process.stdin.flush()


def _watch(process: subprocess.Popen[bytes], patience: float) -> bool:
    """Wait until the process has closed its pipe; return False if it has given no sign of life for long."""
    if process.stdout is None:
        return False
    pipe, said = process.stdout.fileno(), b""
    first = max(FIRST_SEC, patience)
    while select.select([pipe], [], [], patience if said else first)[0]:
        data = os.read(pipe, 4096)
        if not data:
            if refusal := said.strip(BEAT):
                raise DialInFailed(refusal.decode(errors="replace").strip())
            return True
        said = (said + data).lstrip(BEAT)[:4096] or BEAT
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process by closing its pipe; by force after EXIT_SEC, or when this call is interrupted."""
    try:
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        due = time.monotonic() + EXIT_SEC
        while process.poll() is None and time.monotonic() < due:
            time.sleep(0.01)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # Not reaped before: no other group has the number.
        process.wait()
