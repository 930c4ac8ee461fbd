"""The bundled agent `index`: count the text files of a directory.

Input `{"path": "..."}`, by default the current directory. The streamed result is one JSON object: `files`,
`bytes`, `lines`, `words`, `by_extension`, `largest`, `identifiers`, `skipped`. A file counts if it is
regular, no directory on its path below `path` begins with a dot, it can be read, has no NUL in its first
8,192 bytes and is UTF-8. Each file that cannot be read is a `log` event and counts as `skipped.unreadable`; a
directory that cannot be read is a `log` event too, and counts nowhere.

Memory grows with the number of directories and extensions, and with the files of one directory, but not with
the number of all files. The identifiers are exact up to about a million different ones (`tally.NAMES_SIZE`);
beyond that a `log` event says by how much their counts may be low.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio.to_thread import run_sync

from arcp_io.errors import InvalidRequest

from .tally import Directory, Tally, Unreadable, count_directory, directories, written

if TYPE_CHECKING:
    from arcp_io.agents.context import JobContext

VERSION: Final = "1.0.0"
TOOL: Final = "index.directory"
SLICE: Final = 0.05
"""Seconds for which a worker thread reads at a time; in between the agent can be cancelled."""
PROGRESS_EVERY: Final = 0.1
"""Seconds between two progress events."""

_Step = TypeVar("_Step")


async def index(job: JobContext, input: Any) -> None:
    """Index the tree at `input["path"]`; raises InvalidRequest if it is not a directory."""
    root = await run_sync(_root, input)
    found: list[Directory] = []
    walk = directories(root)
    while steps := await run_sync(_slice, walk):
        found += steps
    indexing = _Indexing(job, root, sum(directory.files for directory in found))
    for directory in found:
        await indexing.read(directory.path)
    await indexing.finish()


class _Indexing:
    """One run of the agent: reads the directories one by one, and reports progress."""

    def __init__(self, job: JobContext, root: str, total: int) -> None:
        self._job = job
        self._root = root
        self._total = total
        self._tally = Tally()
        self._next_progress = monotonic()

    async def read(self, directory: str) -> None:
        """Read one directory, by its path below the root, as one tool call."""
        tally = self._tally
        files, size = tally.files, tally.bytes
        async with self._job.tool(TOOL, {"path": written(directory) or "."}) as call:
            reading = count_directory(self._root, directory, tally)
            try:
                while steps := await run_sync(_slice, reading):
                    for step in steps:
                        if step is not None:
                            await self._log(step)
                    await self._say_progress()
            except OSError as error:
                await self._log(Unreadable.of(directory or ".", error))
            call.result = {"files": tally.files - files, "bytes": tally.bytes - size}

    async def finish(self) -> None:
        """Publish the last progress, the metrics, and the report as the streamed result."""
        tally = self._tally
        self._next_progress = monotonic()
        await self._say_progress()
        for name in ("files", "bytes", "lines", "words"):
            await self._job.metric(f"index.{name}", getattr(tally, name), unit=name)
        if tally.names.low_by:
            await self._job.log("warn", f"too many identifiers: a count may be low by {tally.names.low_by}")
        async with self._job.stream_result(encoding="utf8") as out:
            for part in _parts(tally.report()):
                await out.write(part)

    async def _say_progress(self) -> None:
        if (now := monotonic()) >= self._next_progress:
            self._next_progress = now + PROGRESS_EVERY
            seen = self._tally.seen
            await self._job.progress(seen, total=max(self._total, seen), units="files")

    async def _log(self, unreadable: Unreadable) -> None:
        await self._job.log("warn", f"cannot read {unreadable.path}: {unreadable.reason}")


def _root(input: Any) -> str:
    path = input.get("path", ".") if isinstance(input, Mapping) else "."
    if not isinstance(path, str) or "\0" in path or not os.path.isdir(path):
        raise InvalidRequest("path is not a directory")
    return os.path.realpath(path)


def _slice(steps: Iterator[_Step]) -> list[_Step]:
    """Return the next steps, for SLICE seconds; empty at the end."""
    taken: list[_Step] = []
    until = monotonic() + SLICE
    for step in steps:
        taken.append(step)
        if monotonic() >= until:
            break
    return taken


def _parts(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report as JSON, key by key."""
    before = "{"
    for key, value in report.items():
        yield f"{before}{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}"
        before = ","
    yield "}"
