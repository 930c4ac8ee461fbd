"""Open exactly the file that was checked: no link, rename or `..` puts another one in its place.

A path is walked from the root, name by name, each opened in the directory before it and never through a link:
links are read and walked themselves. So the lease is checked for the real path, and the file is opened in the
directory that was reached. Then it is looked up once more by that path; it is truncated and returned only if
it is still found there. Permission is checked before anything is opened, created or reported, even whether
the file exists.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Final, NamedTuple

from arcp_proto import Denied, ErrorCode
from arcp_proto.leases import Namespace, is_too_long

Ask = Callable[[str, str], None]
"""The check of the lease: (capability, target); raises Denied."""

MODES: Final = ("r", "w", "a", "x")
LINKS: Final = 40
"""Links on one path, as many as the kernel allows."""
DEPTH: Final = 256
"""Directories on one path; each is open while it is walked."""
ATTEMPTS: Final = 16
"""Number of attempts to walk a path that keeps changing."""

_FLAGS: Final = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY,
    "a": os.O_WRONLY | os.O_APPEND,
    "x": os.O_WRONLY,
}
_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Non-blocking, since a pipe may have replaced the file, and opening it would wait for its other end."""


class Mode(NamedTuple):
    """The meaning of a mode of the built-in `open`."""

    action: str
    """The action: r, w, a or x."""
    binary: bool
    flags: int
    capabilities: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Mode:
        """Return the meaning of a mode; raises ValueError for an invalid mode."""
        actions = [letter for letter in text if letter in MODES]
        if (
            len(actions) != 1
            or len(set(text)) != len(text)
            or set(text) - set("rwax+bt")
            or {*"bt"} <= {*text}
        ):
            raise ValueError(
                f"{text!r} is not a valid mode: use one of r, w, a, x, optionally with + and b or t"
            )
        action, both = actions[0], "+" in text
        flags = _FLAGS[action]
        if both:
            flags = flags & ~os.O_WRONLY | os.O_RDWR
        reads, writes = action == "r" or both, action != "r" or both
        capabilities = (*((Namespace.FS_READ,) if reads else ()), *((Namespace.FS_WRITE,) if writes else ()))
        return cls(action, "b" in text, flags, capabilities)


def open_allowed(
    path: str | os.PathLike[str],
    mode: str,
    ask: Ask,
    *,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    hard_links: bool = False,
) -> IO[Any]:
    """Open a regular file that `ask` allows, as the built-in `open`: fs.read, fs.write, or with `+` both.

    Text is UTF-8 unless `encoding` is given. A file with more than one name could be outside the lease by
    another one, and is refused unless `hard_links`. Raises Denied, and OSError as `open` does, but only for
    allowed paths; also OSError for a path that keeps changing.
    """
    wanted = Mode.of(mode)
    if not wanted.binary and encoding is None:
        encoding = "utf-8"
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a path is a str or a PathLike of one, not {type(path).__name__}")
    if "\0" in text:
        raise ValueError("a path has no null characters")
    text = posixpath.join(os.getcwd(), text)
    if is_too_long(text):
        for capability in wanted.capabilities:
            ask(capability, text)
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    for _ in range(ATTEMPTS):
        with suppress(_Changed), _Walk() as walk:
            opened = _open(walk, text, wanted, ask, hard_links)
            return _file(opened, mode, wanted, buffering, encoding, errors, newline)
    raise OSError(errno.ELOOP, "the path keeps changing while it is opened", text)


class _Changed(Exception):
    """A directory or file on the path was replaced while the path was walked."""


class _Opened(NamedTuple):
    path: str
    descriptor: int
    created: bool


class _Walk:
    """The open directories from the root to the one that a path leads to."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._descriptors = [os.open("/", _DIRECTORY)]

    def __enter__(self) -> _Walk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._back_to(0)
        os.close(self._descriptors.pop())

    @property
    def directory(self) -> int:
        """The descriptor of the last directory."""
        return self._descriptors[-1]

    def path(self, *names: str) -> str:
        """Return the path of a name below the last directory."""
        return "/" + "/".join((*self._names, *names))

    def to(self, path: str, asked: Callable[[str], None]) -> str:
        """Walk to the directory that holds the target of a path.

        Returns the target's name there, which is not a link. `asked` gets the real path before anything about
        it is reported. Raises OSError.
        """
        ahead = _names(path)
        links = 0
        while ahead:
            name = ahead.pop()
            if name == "..":
                self._back_to(max(0, len(self._names) - 1))
                continue
            try:
                target = _link(name, self.directory)
                if target is None and ahead:
                    self._enter(name)
                elif target is not None and (links := links + 1) > LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            except OSError as error:
                asked(posixpath.normpath(self.path(name, *reversed(ahead))))
                raise OSError(error.errno, error.strerror, path) from None
            if target is not None:
                if target.startswith("/"):
                    self._back_to(0)
                ahead += _names(target)
            elif not ahead:
                asked(self.path(name))
                return name
        asked(self.path())
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def again(self, path: str) -> os.stat_result:
        """Return the state of a path without links, by a new walk. Raises OSError."""
        *directories, name = path[1:].split("/")
        for directory in directories:
            self._enter(directory)
        return os.stat(name, dir_fd=self.directory, follow_symlinks=False)

    def _enter(self, name: str) -> None:
        if len(self._names) >= DEPTH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._descriptors.append(os.open(name, _DIRECTORY, dir_fd=self.directory))
        self._names.append(name)

    def _back_to(self, depth: int) -> None:
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._descriptors.pop())


def _names(path: str) -> list[str]:
    """Return the names on a path, last first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _link(name: str, directory: int) -> str | None:
    """Return the target of a link; None if it is not a link, or if the last name does not exist."""
    try:
        return os.readlink(name, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _open(walk: _Walk, text: str, wanted: Mode, ask: Ask, hard_links: bool) -> _Opened:
    """Open the target of a path once it is allowed; raises _Changed if another file was opened."""

    def asked(path: str) -> None:
        for capability in wanted.capabilities:
            ask(capability, path)

    name = walk.to(text, asked)
    path = walk.path(name)
    if text.endswith("/"):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), text)
    created = not _is_there(walk, name, path)
    if created and wanted.action == "r":
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
    if not created and wanted.action == "x":
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), text)
    descriptor = _open_at(walk, name, wanted.flags, text, created=created)
    try:
        _verify(descriptor, path, hard_links)
        os.set_blocking(descriptor, True)
    except BaseException:
        if created:
            _remove(walk, name, descriptor)
        os.close(descriptor)
        raise
    return _Opened(path, descriptor, created)


def _is_there(walk: _Walk, name: str, path: str) -> bool:
    try:
        found = os.stat(name, dir_fd=walk.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(found.st_mode):
        raise _Changed
    _check_regular(found, path)
    return True


def _open_at(walk: _Walk, name: str, flags: int, text: str, *, created: bool) -> int:
    """Open, or create, exactly the file that was seen; raises _Changed if it has been replaced."""
    making = os.O_CREAT | os.O_EXCL if created else 0
    try:
        return os.open(name, flags | _FILE | making, 0o666, dir_fd=walk.directory)
    except (FileNotFoundError, FileExistsError):
        raise _Changed from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # A link, or a pipe without a reader.
            raise _Changed from None
        raise OSError(error.errno, error.strerror, text) from None


def _verify(descriptor: int, path: str, hard_links: bool) -> None:
    """Check an opened file; raises Denied if it may not be opened, _Changed if it is not at its path."""
    opened = os.fstat(descriptor)
    _check_regular(opened, path)
    if opened.st_nlink > 1 and not hard_links:
        raise Denied(
            ErrorCode.PERMISSION_DENIED,
            f"{path} is one of {opened.st_nlink} names of a file, and the lease may not cover the others:"
            " job.open(..., hard_links=True) opens it even so",
        )
    try:
        with _Walk() as walk:
            found = walk.again(path)
    except OSError:
        raise _Changed from None
    if not os.path.samestat(opened, found):
        raise _Changed


def _check_regular(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
        raise Denied(
            ErrorCode.PERMISSION_DENIED,
            f"{path} is a pipe, socket or device, and job.open opens regular files only",
        )


def _remove(walk: _Walk, name: str, descriptor: int) -> None:
    """Remove a file that was created in a wrong place."""
    with suppress(OSError):
        found = os.stat(name, dir_fd=walk.directory, follow_symlinks=False)
        if os.path.samestat(found, os.fstat(descriptor)):
            os.unlink(name, dir_fd=walk.directory)


def _file(
    opened: _Opened,
    mode: str,
    wanted: Mode,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """Return the descriptor as a file object; truncate the file only when everything else has succeeded."""

    owned = True

    def taken(path: str, flags: int) -> int:
        nonlocal owned
        owned = False
        return opened.descriptor

    def made() -> IO[Any]:
        return open(opened.path, mode, buffering, encoding, errors, newline, opener=taken)

    try:
        file = made()
    except BaseException:
        if owned:
            os.close(opened.descriptor)
        raise
    if wanted.action == "w" and not opened.created:
        os.ftruncate(opened.descriptor, 0)
    return file
