"""The process between a runtime and an isolated agent: it starts the agent's, and leaves nothing of it.

The runtime starts one supervisor a job, with the pipes of the agent as its standard streams, and with one end
of a socket pair. Over that it sends the order, its length before it. When the stream ends, by the will of the
runtime or with its life, everything is killed. The supervisor forks the agent's process, which makes a
session of its own and carries the order out (`child`), and waits for its end. It writes one line at last:
how that process ended. Nothing is left by then:

1. The agent's process is not reaped before its process group is killed, so that the number of the group
   cannot be another group's.
2. On Linux the supervisor is a subreaper: a process whose parent has ended becomes its child, also one that
   has made a session or a group of its own. It kills its children and their groups as long as it has any;
   when the system says that there are none, nothing exists that the agent has started. Where Linux does not
   let it become one (a seccomp filter), it kills the group alone, and says that more may be left.

It is a process of its own because a subreaper gets every orphan: in the process of the runtime those of the
host's program would be among them. It needs nothing but a little of the standard library, since there is one
for each job. An agent runs as the same user and may stop or kill it: that ends the agent's process, and the
runtime knows that it has not been told the end.
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
"""Seconds until the supervisor looks again for what it has killed; twice as long each time."""
LONGEST_PAUSE: Final = 0.1

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that would end the supervisor before the agent."""
_SET_PDEATHSIG: Final = 1
_SET_CHILD_SUBREAPER: Final = 36


def main(control: int) -> None:
    """Supervise the agent of one order; returns in the agent's process, when the order is carried out."""
    order = _read_order(control)
    if order is None:
        _tell_end(control, None, whole=True)
    whole = _prctl(_SET_CHILD_SUBREAPER, 1) or sys.platform != "linux"
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        _supervise(pid, control, whole=whole)
    os.close(control)
    os.setsid()  # A group of its own: it is killed with every process that the agent has started.
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == supervisor:
        from .child import main as carry_out

        carry_out(order)


def _supervise(pid: int, control: int, *, whole: bool) -> NoReturn:
    """Wait for the end of the agent's process, or for the runtime to ask for it; then tell how it ended."""
    try:
        agent = _Agent(pid)
        _let_go_of_streams()
        _wait(agent, control)
        _tell_end(control, agent.kill_all(), whole=whole)
    finally:
        os._exit(1)


def _tell_end(control: int, code: int | None, *, whole: bool) -> NoReturn:
    """Tell the runtime how the agent's process ended, None if there was none.

    `whole`: nothing is left of it, as far as the system lets a supervisor know.
    """
    with suppress(OSError):  # The runtime is gone.
        os.write(control, json.dumps({"code": code, "whole": whole}).encode() + b"\n")
    os._exit(0)


def _wait(agent: _Agent, control: int) -> None:
    """Return when the agent's process has ended, or `control` has."""
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
    """The agent's process, and everything that it has started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._code: int | None = None
        """How it ended: its exit code, or minus the number of a signal; None until it is reaped."""

    def has_ended(self) -> bool:
        """Return whether the process has ended, and leave it unreaped; orphans that have ended are reaped."""
        if sys.platform == "darwin":  # Before Python 3.13 there is no `waitid`, and never a subreaper.
            self._reap()
            return self._code is not None
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if ended.si_pid == self._pid:
                return True
            os.waitpid(ended.si_pid, 0)
        return False

    def kill_all(self) -> int:
        """Kill every process until there is none, however long that takes; returns how the agent's ended."""
        _kill_group(self._pid)
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)  # It may not have made its group yet.
        pause = FIRST_PAUSE
        while self._reap():
            if pause > FIRST_PAUSE:  # Most often nothing else is there, and need not be looked for.
                for child in _children():
                    _kill_with_group(child)
            select.select([], [], [], pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return 0 if self._code is None else self._code

    def _reap(self) -> bool:
        """Reap what has ended; returns whether anything has not."""
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
    """Kill a child that is not reaped, and its group: a process that forks on and on cannot run away from it.

    All of the group has come from the agent, which has a session of its own.
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
    """Yield the children of this process, the newest first; where there is no /proc, none are known."""
    ours = os.getpid()
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return
    for pid in sorted(pids, reverse=True):
        if _parent_of(pid) == ours:
            yield pid


def _parent_of(pid: int) -> int:
    """Return the parent of a process; 0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _read_order(control: int) -> str | None:
    """Return the order; None when the runtime does not send all of it: the job ended before it began."""
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
    """Leave the pipes to the agent: they end with its process, and this one does not read or print."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _prctl(option: int, value: int) -> bool:
    """Set an attribute of this process, on Linux; returns whether that could be done."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _awake(number: int, frame: object) -> None:
    """Take a signal, so that it is written to the descriptor that is waited for."""
