"""arcp_io.server.service: what a service and its manager tell each other."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest

from arcp_io.server.service import Service, inherited_fds


class Manager:
    """A service manager: a socket that is told about a service."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{path[1:]}" if path.startswith("@") else path)
        self.socket.setblocking(False)

    def told(self) -> list[str]:
        """Return the messages so far."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@arcp-test-{os.getpid()}"


def test_a_manager_is_told_the_state(address: str) -> None:
    manager = Manager(address)
    with manager.socket:
        service = Service({"NOTIFY_SOCKET": address})
        service.ready("serving here")
        service.stopping("going")
        assert manager.told() == ["READY=1\nSTATUS=serving here", "STOPPING=1\nSTATUS=going"]


def test_without_a_manager_nothing_is_told(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        service = Service(environment)
        service.ready("serving")
        assert service.watchdog_sec == 0


def test_signs_of_life_come_twice_as_often_as_they_are_wanted(address: str) -> None:
    manager = Manager(address)

    async def live() -> None:
        with anyio.move_on_after(0.25):
            await Service({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}).keep_alive()

    with manager.socket:
        anyio.run(live)
        assert 2 <= len(manager.told()) <= 6


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "often"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
    ],
)
def test_the_watchdog_is_for_this_process_alone(environment: dict[str, str], seconds: float) -> None:
    assert Service(environment).watchdog_sec == seconds


@pytest.mark.parametrize(
    ("environment", "fds"),
    [
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, (3, 4)),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, ()),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, ()),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "x"}, ()),
        ({"LISTEN_FDS": "2"}, ()),
        ({}, ()),
    ],
)
def test_sockets_are_inherited_once_by_the_process_they_are_for(
    environment: dict[str, str], fds: tuple[int, ...]
) -> None:
    assert inherited_fds(environment, lambda: 7) == fds
    assert inherited_fds(environment, lambda: 7) == ()
    assert environment == {}


def test_a_manager_passes_on_no_more_than_sixty_four_sockets() -> None:
    environment = {"LISTEN_PID": "7", "LISTEN_FDS": "1000"}
    assert len(inherited_fds(environment, lambda: 7)) == 64
