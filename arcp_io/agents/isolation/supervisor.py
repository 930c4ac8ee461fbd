"""The process between a runtime and an isolated agent: it starts the agent's process and cleans up after
it.

The runtime starts one supervisor for each job, with the pipes of the agent as its standard streams, and with
one end of a socket pair. It sends the order over the socket, with a length prefix. When the socket is closed,
by the runtime or by its end, the supervisor kills everything. The supervisor forks the agent's process, which
makes a session of its own and carries out the order (`child`), and waits for its end. Then it writes one line
that reports how that process ended. Nothing is left by then:

1. The agent's process is not reaped before its process group is killed, so that no other group can have the
same number.

2. On Linux the supervisor is a subreaper: a process whose parent has ended becomes its child, even in a
session or group of its own. The supervisor kills its children and their groups as long as it has any; when
the system reports none, no process that the agent has started exists. Where Linux refuses it (a seccomp
filter), the supervisor kills the group alone, and reports that more may be left.

The supervisor is a separate process because a subreaper gets every orphan: in the process of the runtime
those of the host's program would be among them. It imports only a little of the standard library, since there
is one for each job. An agent runs as the same user and may stop or kill it: that ends the agent's process,
and the runtime notices the missing report.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NoReturn

LENGTH_SIZE: Final = 8
"""Bytes of the length of an order, in hexadecimal."""
FIRST_PAUSE: Final = 0.001
"""Seconds until the supervisor checks again for killed processes; each pause doubles the last."""
LONGEST_PAUSE: Final = 0.1

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that would end the supervisor before the agent."""
SET_PDEATHSIG: Final = 1
"""Names the signal that a process gets when its parent ends, on Linux."""
_SET_CHILD_SUBREAPER: Final = 36


def main(control: int) -> None:
    """Supervise the agent of one order.

    Returns only in the agent's process, after the order is carried out.
    """
    order = _read_order(control)
    if order is None:
        _tell_end(control, None, whole=True)
    whole = prctl(_SET_CHILD_SUBREAPER, 1) or sys.platform != "linux"
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        _supervise(pid, control, whole=whole)
    os.close(control)
    os.setsid()  # A separate group can be killed with every process that the agent starts.
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == supervisor:
        from .child import main as carry_out

        carry_out(order)


def _supervise(pid: int, control: int, *, whole: bool) -> NoReturn:
    """Wait for the end of the agent's process, or for the runtime to ask for it; then report how it ended."""
    try:
        agent = _Agent(pid)
        _let_go_of_streams()
        _wait(agent, control)
        _tell_end(control, agent.kill_all(), whole=whole)
    finally:
        os._exit(1)


def _tell_end(control: int, code: int | None, *, whole: bool) -> NoReturn:
    """Report to the runtime how the agent's process ended, None if there was none.

    `whole` says that nothing is left of it, as far as the system lets a supervisor know.
    """
    with suppress(OSError):  # The runtime is gone.
        os.write(control, json.dumps({"code": code, "whole": whole}).encode() + b"\n")
    os._exit(0)


def _wait(agent: _Agent, control: int) -> None:
    """Return when the agent's process has ended, or when the runtime has closed `control`."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _awake)
    awaited = select.poll()
    awaited.register(control, select.POLLIN)
    awaited.register(waking, select.POLLIN)
    while not agent.has_ended():
        ready = [descriptor for descriptor, _ in awaited.poll()]
        if control in ready:
            return
        os.read(waking, 4096)


class _Agent:
    """The agent's process, and every process that it has started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._code: int | None = None
        """The exit code, or minus the number of a signal; None until the process is reaped."""

    def has_ended(self) -> bool:
        """Return whether the process has ended, without reaping it; reap orphans that have ended."""
        if sys.platform == "darwin":  # Before Python 3.13 there is no `waitid`, and never a subreaper.
            self._reap()
            return self._code is not None
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if ended.si_pid == self._pid:
                return True
            os.waitpid(ended.si_pid, 0)
        return False

    def kill_all(self) -> int:
        """Kill every process until there is none, without a time limit.

        Returns how the agent's process ended.
        """
        _kill_group(self._pid)
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)  # The process may not have made its group yet.
        pause = FIRST_PAUSE
        while self._reap():
            if pause > FIRST_PAUSE:  # In most cases there are no others to search for.
                for child in _children():
                    _kill_with_group(child)
            select.select([], [], [], pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return 0 if self._code is None else self._code

    def _reap(self) -> bool:
        """Reap the children that have ended; return whether any are left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._pid:
                self._code = os.waitstatus_to_exitcode(status)


def _kill_with_group(child: int) -> None:
    """Kill a child that is not reaped, and its group, so that a process that keeps forking cannot escape.

    All processes of the group come from the agent, which has a session of its own.
    """
    try:
        group = os.getpgid(child)
    except ProcessLookupError:
        return
    if group != os.getpgrp():
        _kill_group(group)
    with suppress(ProcessLookupError, PermissionError):
        os.kill(child, signal.SIGKILL)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _children() -> Iterator[int]:
    """Yield the children of this process, newest first; none where there is no /proc."""
    ours = os.getpid()
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return
    for pid in sorted(pids, reverse=True):
        if _parent_of(pid) == ours:
            yield pid


def _parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _read_order(control: int) -> str | None:
    """Return the order, or None if the runtime does not send all of it: the job ended before it began."""
    length = _read_exactly(control, LENGTH_SIZE)
    order = None if length is None else _read_exactly(control, int(length, 16))
    return None if order is None else order.decode()


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        try:
            more = os.read(descriptor, size - len(data))
        except ConnectionError:
            more = b""
        if not more:
            return None
        data += more
    return data


def _let_go_of_streams() -> None:
    """Leave the pipes to the agent, so that they end with its process; the supervisor does not use them."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def prctl(option: int, value: int) -> bool:
    """Set an attribute of this process on Linux; return whether that succeeded."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _awake(number: int, frame: object) -> None:
    """Accept a signal, so that it is written to the wakeup descriptor."""
