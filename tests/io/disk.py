"""A disk that loses its power: every write, sync and rename of a journal is noted, and replayed up to a cut.

Between SQLite and the files stands a layer that notes what is done to those of one directory. What was
written since the last sync of a file may be there after the cut, or not, or in part, sector by sector, in any
order; so may be, from the last on, what was done to the directory since its last sync.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

SECTOR: Final = 512

_Pointer = ctypes.c_void_p
_Open = ctypes.CFUNCTYPE(
    ctypes.c_int, _Pointer, _Pointer, _Pointer, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int)
_Close = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int)


class _Vfs(ctypes.Structure):
    """The first fields of sqlite3_vfs."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("most_path", ctypes.c_int),
        ("next", _Pointer),
        ("name", ctypes.c_char_p),
        ("data", _Pointer),
        ("open", _Open),
        ("delete", _Delete),
    )


class _Methods(ctypes.Structure):
    """The structure sqlite3_io_methods."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("close", _Close),
        ("read", _Pointer),
        ("write", _Write),
        ("truncate", _Truncate),
        ("sync", _Sync),
        ("others", _Pointer * 13),
    )


class Did(NamedTuple):
    """An operation: create, write, truncate, sync, delete, rename, sync directory, or told (as durable)."""

    what: str
    name: str = ""
    at: int = 0
    data: bytes = b""
    to: str = ""


@contextmanager
def noted(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Did]]:
    """Note the operations on the files of a directory, in their order."""
    log: list[Did] = []
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None).contents
    before = _fixed(_Open, vfs.open), _fixed(_Delete, vfs.delete)
    layer = _Layer(str(directory), log, *before)
    vfs.open, vfs.delete = layer.open, layer.delete
    _note_calls(str(directory), log, monkeypatch)
    try:
        yield log
    finally:
        vfs.open, vfs.delete = before


def _fixed(kind: Any, function: Any) -> Any:
    """Return a function that keeps its value when the field that it was read from changes."""
    return kind(ctypes.cast(function, _Pointer).value)


def _inside(directory: str, path: int) -> str:
    """Return the name of a file of the directory, or an empty text for a file outside it."""
    head, name = os.path.split(ctypes.string_at(path).decode())
    return name if head == directory else ""


class _Layer:
    """Functions that SQLite calls in place of its own: each notes the call and calls the original."""

    def __init__(self, directory: str, log: list[Did], open_file: Any, delete: Any) -> None:
        self._log = log
        self._names: dict[int, str] = {}
        self._originals: dict[int, Any] = {}
        self._methods: dict[int, _Methods] = {}

        def opened(vfs: int, path: int | None, file: int, flags: int, out: Any) -> int:
            name = "" if path is None else _inside(directory, path)
            new = not os.path.exists(os.path.join(directory, name))
            code: int = open_file(vfs, path, file, flags, out)
            if code == 0 and name:
                self._wrap(file, name)
                if new:
                    log.append(Did("create", name))
            return code

        def deleted(vfs: int, path: int, synced: int) -> int:
            code: int = delete(vfs, path, synced)
            if code == 0 and (name := _inside(directory, path)):
                log.append(Did("delete", name))
            return code

        self.open, self.delete = _Open(opened), _Delete(deleted)

    def _wrap(self, file: int, name: str) -> None:
        """Replace the methods of a file that was opened."""
        address = _Pointer.from_address(file).value
        assert address is not None
        if address not in self._methods:
            self._methods[address] = self._noting(_Methods.from_address(address))
        self._names[file], self._originals[file] = name, address
        _Pointer.from_address(file).value = ctypes.addressof(self._methods[address])

    def _noting(self, original: _Methods) -> _Methods:
        def closed(file: int) -> int:
            _Pointer.from_address(file).value = self._originals.pop(file)
            del self._names[file]
            code: int = original.close(file)
            return code

        def written(file: int, data: int, size: int, at: int) -> int:
            self._log.append(Did("write", self._names[file], at, ctypes.string_at(data, size)))
            code: int = original.write(file, data, size, at)
            return code

        def truncated(file: int, size: int) -> int:
            self._log.append(Did("truncate", self._names[file], size))
            code: int = original.truncate(file, size)
            return code

        def synced(file: int, flags: int) -> int:
            code: int = original.sync(file, flags)
            self._log.append(Did("sync", self._names[file]))
            return code

        return _Methods(
            min(original.version, 3),
            _Close(closed),
            original.read,
            _Write(written),
            _Truncate(truncated),
            _Sync(synced),
            original.others,
        )


def _note_calls(directory: str, log: list[Did], monkeypatch: pytest.MonkeyPatch) -> None:
    """Note the system calls that the journal itself makes."""
    create, replace, fsync, remove = os.open, os.replace, os.fsync, os.remove

    def opened(path: Any, flags: int, *more: Any, **others: Any) -> int:
        descriptor = create(path, flags, *more, **others)
        if os.path.dirname(path) == directory and flags & os.O_CREAT and flags & os.O_WRONLY:
            log.append(Did("create", os.path.basename(path)))
        return descriptor

    def replaced(old: Any, new: Any) -> None:
        replace(old, new)
        log.append(Did("rename", os.path.basename(old), to=os.path.basename(new)))

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        if os.path.samestat(os.fstat(descriptor), os.stat(directory)):
            log.append(Did("sync directory"))

    def removed(path: Any) -> None:
        remove(path)
        if os.path.dirname(path) == directory:
            log.append(Did("delete", os.path.basename(path)))

    for name, function in (("open", opened), ("replace", replaced), ("fsync", synced), ("remove", removed)):
        monkeypatch.setattr(os, name, function)


class File:
    """A file: the bytes that are on the disk, and the operations on it since it was last synced."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pending: list[Did] = []

    def sync(self) -> None:
        """Bring every pending operation to the disk."""
        for did in self.pending:
            self._do(did)
        self.pending.clear()

    def cut(self, chance: random.Random) -> bytes:
        """Return the content after a power cut, which keeps a random part of the pending operations."""
        share = chance.choice((0.0, 0.3, 0.7, 1.0))
        pieces = [piece for did in self.pending for piece in sectors(did)]
        there = [piece for piece in pieces if chance.random() < share]
        if chance.random() < 0.5:
            chance.shuffle(there)
        for piece in there:
            self._do(piece)
        ends = [piece.at + len(piece.data) for piece in pieces if piece.what == "write"]
        if ends and chance.random() < 0.3:  # The file has grown, but its new bytes were not written.
            self.data.extend(bytes(max(0, max(ends) - len(self.data))))
        return bytes(self.data)

    def _do(self, did: Did) -> None:
        if did.what == "truncate":
            del self.data[did.at :]
        else:
            self.data.extend(bytes(max(0, did.at - len(self.data))))
            self.data[did.at : did.at + len(did.data)] = did.data


def sectors(did: Did) -> Iterator[Did]:
    """Yield the parts of a write that a disk writes atomically, of at most one sector each."""
    if did.what != "write":
        yield did
        return
    at, end = did.at, did.at + len(did.data)
    while at < end:
        after = min(end, (at // SECTOR + 1) * SECTOR)
        yield did._replace(at=at, data=did.data[at - did.at : after - did.at])
        at = after


def _enter(name: str, file: File, files: dict[str, File]) -> None:
    files[name] = file


def _remove(name: str, files: dict[str, File]) -> None:
    files.pop(name, None)


def _rename(old: str, new: str, files: dict[str, File]) -> None:
    files[new] = files.pop(old)


def after_cut(log: list[Did], chance: random.Random) -> dict[str, bytes]:
    """Return the files of the directory after a power cut at the end of a log."""
    there: dict[str, File] = {}
    """The files of the directory as the running system sees them."""
    on_disk: dict[str, File] = {}
    entries: list[Callable[[dict[str, File]], object]] = []
    """Changes of the directory since it was last synced."""

    def enter(did: Callable[[dict[str, File]], object]) -> None:
        did(there)
        entries.append(did)

    def sync_directory() -> None:
        for entry in entries:
            entry(on_disk)
        entries.clear()

    for did in log:
        match did.what:
            case "create":
                enter(partial(_enter, did.name, File()))
            case "delete":
                enter(partial(_remove, did.name))
            case "rename":
                enter(partial(_rename, did.name, did.to))
            case "write" | "truncate":
                there[did.name].pending.append(did)
            case "sync":
                there[did.name].sync()
                made = on_disk.get(did.name) is not there[did.name]
                if did.name.endswith("-wal") and made:  # Then SQLite syncs the directory, too.
                    sync_directory()
            case "sync directory":
                sync_directory()
    for entry in entries[: chance.randint(0, len(entries))]:
        entry(on_disk)
    return {name: file.cut(chance) for name, file in on_disk.items()}
