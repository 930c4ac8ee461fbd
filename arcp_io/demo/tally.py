"""Counts of the text files of a directory tree: lines, words, identifiers; read block by block."""

from __future__ import annotations

import codecs
import heapq
import os
import re
import stat
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, NamedTuple, Self

BLOCK: Final = 256 * 1024
"""Bytes of a file that are processed together."""
HEAD: Final = 8192
"""Bytes at the start of a file in which a NUL makes it binary."""
LARGEST: Final = 10
FREQUENT: Final = 20
LONGEST_NAME: Final = 64 * 1024
"""Characters of an identifier; longer ones are left out."""
NAMES_SIZE: Final = 128 * 1024 * 1024
"""Bytes of distinct identifiers kept, each counted as its characters and NAME_COST; about a million names."""
NAME_COST: Final = 110
"""Measured bytes of an entry in a table of counts, beside its characters."""

IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Directory(NamedTuple):
    """A directory that counts: its path below the root (`""`: the root) and its number of regular files."""

    path: str
    files: int


class Unreadable(NamedTuple):
    """A file or directory that could not be read, and why."""

    path: str
    reason: str

    @classmethod
    def of(cls, path: str, error: OSError) -> Self:
        return cls(written(path), error.strerror or type(error).__name__)


class Tally:
    """The counts of a tree, as far as it has been read."""

    def __init__(self) -> None:
        self.files = self.bytes = self.lines = self.words = 0
        self.binary = self.unreadable = 0
        self.by_extension: dict[str, dict[str, int]] = {}
        self.largest: list[tuple[int, str]] = []
        self.names = Names()

    @property
    def seen(self) -> int:
        """Regular files so far, including skipped ones."""
        return self.files + self.binary + self.unreadable

    def add(self, path: str, text: Text) -> None:
        """Count one text file; `path` is relative to the root."""
        self.files += 1
        self.bytes += text.bytes
        self.lines += text.lines
        self.words += text.words
        extension = PurePosixPath(path).suffix.lower()
        kind = self.by_extension.setdefault(extension, {"files": 0, "bytes": 0, "lines": 0})
        kind["files"] += 1
        kind["bytes"] += text.bytes
        kind["lines"] += text.lines
        self.largest = sorted([*self.largest, (-text.bytes, path)])[:LARGEST]
        self.names.add(text.names.counts)
        self.names.low_by += text.names.low_by

    def report(self) -> dict[str, Any]:
        """Return the counts as the JSON object that `index` returns."""
        return {
            "files": self.files,
            "bytes": self.bytes,
            "lines": self.lines,
            "words": self.words,
            "by_extension": dict(sorted(self.by_extension.items())),
            "largest": [{"path": path, "bytes": -size} for size, path in self.largest],
            "identifiers": [[name, count] for name, count in self.names.most_frequent(FREQUENT)],
            "skipped": {"binary": self.binary, "unreadable": self.unreadable},
        }


class Text:
    """The counts of one text file, fed in blocks that may end between any two characters."""

    def __init__(self) -> None:
        self.bytes = self.lines = self.words = 0
        self.names = Names()
        self._in_word = False
        self._cut_name = ""

    def feed(self, text: str) -> None:
        if not text:
            return
        self.words += len(text.split())
        if self._in_word and not text[0].isspace():
            self.words -= 1
        self._in_word = not text[-1].isspace()
        text = self._cut_name + text
        names = IDENTIFIER.findall(text)
        self._cut_name = ""
        if names and text.endswith(names[-1]):
            self._cut_name = names.pop()[: LONGEST_NAME + 1]
        self.names.add(Counter(names))

    def end(self) -> None:
        if self._cut_name:
            self.names.add({self._cut_name: 1})


class Names:
    """The counts of identifiers, in bounded memory.

    Exact until NAMES_SIZE is reached. Then the rarer half is forgotten, and a count may be low by `low_by`.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.low_by = 0
        self._size = 0

    def add(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            known = self.counts.get(name)
            if known is not None:
                self.counts[name] = known + count
            elif len(name) <= LONGEST_NAME:
                self.counts[name] = count
                self._size += len(name) + NAME_COST
                if self._size > NAMES_SIZE:
                    self._forget()

    def most_frequent(self, number: int) -> list[tuple[str, int]]:
        """Return the most frequent names with their counts, ties by name."""
        return heapq.nsmallest(number, self.counts.items(), key=lambda entry: (-entry[1], entry[0]))

    def _forget(self) -> None:
        ranked = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        self.counts = {}
        self._size = 0
        for name, count in ranked:
            if self._size >= NAMES_SIZE // 2:
                self.low_by += count
                break
            self.counts[name] = count
            self._size += len(name) + NAME_COST


def directories(root: str) -> Iterator[Directory]:
    """Yield the directories below `root` that count, parents first, by name; `root` is the first.

    A directory whose name begins with a dot is left out with everything below it, and links are not followed.
    An unreadable directory has no files: reading it again by `count_directory` gives the reason.
    """
    pending = [""]
    while pending:
        directory = pending.pop()
        below: list[str] = []
        files = 0
        try:
            with os.scandir(os.path.join(root, directory)) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        files += 1
                    elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        below.append(os.path.join(directory, entry.name))
        except OSError:
            below = []
        yield Directory(directory, files)
        pending.extend(sorted(below, reverse=True))


def count_directory(root: str, directory: str, tally: Tally) -> Iterator[Unreadable | None]:
    """Count the regular files of one directory into `tally`, by name.

    Yields None after each block and each file, so that the caller can pause, and an Unreadable for each file
    that cannot be read. Raises OSError if the directory itself cannot be read.
    """
    with os.scandir(os.path.join(root, directory)) as entries:
        files = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    for name in files:
        path = os.path.join(directory, name)
        try:
            text = yield from read_text(os.path.join(root, path))
        except OSError as error:
            tally.unreadable += 1
            yield Unreadable.of(path, error)
            continue
        if text is None:
            tally.binary += 1
        else:
            tally.add(written(path), text)
        yield None


def read_text(path: str) -> Generator[None, None, Text | None]:
    """Read one file, yielding after each block; return its counts, None if it is not text. Raises OSError."""
    with _open_regular(path) as file:
        block = file.read(BLOCK)
        if b"\0" in block[:HEAD]:
            return None
        text = Text()
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block:
                text.bytes += len(block)
                text.lines += block.count(b"\n")
                text.feed(decoder.decode(block))
                yield
                block = file.read(BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return None
    text.end()
    return text


def written(path: str) -> str:
    """Return a path as written in events and in the report: with `/`, and bytes that are not UTF-8
    replaced.
    """
    return os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/")


def _open_regular(path: str) -> BinaryIO:
    # A link or a pipe may have replaced the file: neither is followed or waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(0, "no longer a regular file", path)
    return file
