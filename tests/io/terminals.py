"""Commands of `arcp-io` in a pseudo terminal."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import termios
from fcntl import ioctl
from pathlib import Path
from threading import Timer

from tests.hanging import PATIENCE
from tests.io.processes import COMMAND, Served, environment


class Terminal:
    """A command in a terminal of its own; with a server, that of a client."""

    def __init__(
        self, served: Served | None, *words: str, columns: int = 80, cwd: Path | None = None, **more: str
    ) -> None:
        self._parent, child = pty.openpty()
        ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        more = {"TERM": "xterm", **more}
        variables = environment(**more) if served is None else served._variables("s3cret", **more)
        variables.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=child,
            stdout=child,
            stderr=child,
            env=variables,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
            cwd=cwd,
        )
        os.close(child)

    def read(self) -> str:
        """Return everything that it shows until its end."""
        shown = b""
        timer = Timer(PATIENCE, self.process.kill)
        timer.start()
        try:
            while data := os.read(self._parent, 65536):
                shown += data
        except OSError:  # Its end is an error, on Linux.
            pass
        finally:
            timer.cancel()
            self.process.wait()
            os.close(self._parent)
        return shown.decode(errors="replace")

    def read_until(self, words: str) -> str:
        """Return the output up to and with these words; raise AssertionError if they do not come."""
        shown = b""
        timer = Timer(PATIENCE, self.process.kill)
        timer.start()
        try:
            while words.encode() not in shown:
                shown += os.read(self._parent, 65536)
        except OSError:
            raise AssertionError(f"{words!r} did not come:\n{shown.decode(errors='replace')}") from None
        finally:
            timer.cancel()
        return shown.decode(errors="replace")

    def press_ctrl_c(self) -> None:
        """Send what the key sends: the terminal makes a signal of it."""
        os.write(self._parent, b"\x03")
