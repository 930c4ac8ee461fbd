"""Functions for sockets that both loops share."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

import anyio

from arcp_io.forks import keep_from_copies

BACKLOG: Final = 1024
ACCEPTED_AT_ONCE: Final = 16
"""Connections accepted before other tasks get their turn."""
RETRY_DELAY: Final = 0.1
"""Seconds without accepting after a failure, for example because no descriptor is free."""


async def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host, on one port; 0 means a free one. Raises OSError."""
    found = await _addresses(host, port)
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if port == 0 and listeners:
                address = (address[0], listeners[0].getsockname()[1], *address[2:])
            listeners.append(_listen(family, address))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def open_unix_listener(path: str) -> socket.socket:
    """Listen on a socket of Unix at a path, in place of one on which no program listens. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        _remove_stale(path)
        listener.bind(path)
        listener.listen(BACKLOG)
        keep_from_copies(listener.fileno())
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror or str(error), path) from None
    return listener


def inherited_listener(descriptor: int) -> socket.socket:
    """Return the listening socket that is open as a file descriptor. Raises OSError if it is not one."""
    try:
        listener = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise OSError(error.errno, f"file descriptor {descriptor} is not a listening socket") from None
    listening = getattr(socket, "SO_ACCEPTCONN", None)
    if listening is not None and not listener.getsockopt(socket.SOL_SOCKET, listening):
        listener.close()
        raise OSError(errno.EINVAL, f"file descriptor {descriptor} is not a listening socket")
    listener.setblocking(False)
    keep_from_copies(listener.fileno())
    return listener


def is_private(listener: socket.socket) -> bool:
    """Return whether only this machine can reach a listening socket."""
    return listener.family == socket.AF_UNIX or is_loopback(listener.getsockname()[0])


def remove_socket(path: str) -> None:
    """Remove the socket of Unix at a path, if there is one."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove a socket at a path on which no program listens; raises OSError if one does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except ConnectionRefusedError:
            remove_socket(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


async def _addresses(host: str, port: int) -> Any:
    kind, passive = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:  # An address needs no lookup.
        return socket.getaddrinfo(host, port, type=kind, flags=passive | socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return await anyio.getaddrinfo(host, port, type=kind, flags=passive)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_text(address: Any) -> str:
    """Return the address of a peer as a label: host:port."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address) or "unix"


def send_at_once(connected: socket.socket) -> None:
    """Send small segments at once (TCP_NODELAY); harmless on sockets that are not TCP or are closed."""
    with suppress(OSError):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _listen(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        keep_from_copies(listener.fileno())
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, address_text(address)) from None
    except BaseException:
        listener.close()
        raise
    return listener


def bracketed(host: str) -> str:
    """Return a host as it stands in front of a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
