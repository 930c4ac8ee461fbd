"""Streamed results as the client joins them: one a job, bounded each and in all (§8.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from . import wire
from .chunks import Assembler, ChunkError
from .errors import Unreadable
from .events import ResultChunk
from .ids import JobId
from .messages import Result

JSON_TYPE: Final = "application/json"


class _Stream:
    """The chunks of one job so far, or what was wrong with one of them; then they are dropped."""

    __slots__ = ("assembler", "due", "fault", "result_id")

    def __init__(self, assembler: Assembler) -> None:
        self.assembler: Assembler | None = assembler
        self.due = 0
        """Number of the chunk that comes next."""
        self.result_id = ""
        self.fault = ""


class Assembly:
    """The results that are being streamed, whatever sessions bring their parts.

    Holds at most `limit` decoded bytes of a result and `total` of all, and one chunk beyond it.
    """

    __slots__ = ("_limit", "_streams", "_total", "size")

    def __init__(self, limit: int, total: int) -> None:
        self.size = 0
        """Decoded bytes held."""
        self._limit = limit
        self._total = total
        self._streams: dict[JobId, _Stream] = {}

    def add(self, job_id: JobId, body: Mapping[str, Any], *, replayed: bool = False) -> None:
        """Take the body of a `result_chunk`. What is wrong with it is said at the end of the job.

        One that is `replayed` may have come before, and the first of them mends what was broken.
        """
        stream = self._streams.get(job_id)
        if stream is None or (replayed and stream.assembler is None and body.get("chunk_seq") == 0):
            stream = self._streams[job_id] = _Stream(Assembler(self._limit))
        assembler = stream.assembler
        if assembler is None:
            return
        before = assembler.size
        try:
            chunk = _read(body)
            if replayed and chunk.chunk_seq < stream.due:
                return
            if chunk.chunk_seq > stream.due:
                raise ChunkError(_gone(chunk, stream.due))
            assembler.add(chunk)
            stream.result_id = chunk.result_id
            stream.due += 1
            self.size += assembler.size - before
            if self.size > self._total:
                raise ChunkError(f"the results being streamed are larger than {self._total} bytes in all")
        except ChunkError as error:
            self.size -= assembler.size
            stream.assembler, stream.fault = None, str(error)

    def finish(self, job_id: JobId, result: Result) -> Any:
        """What a job returned: the value in `result`, or what its chunks make; raises ChunkError.

        Ours and peers' runtimes alike may leave out `result_id` when nothing was returned; some do after
        chunks too.
        """
        if result.result is not msgspec.UNSET and result.result is not None:
            return result.result
        stream = self._streams.get(job_id)
        if stream is None:
            if result.result_id is None:
                return None
            raise ChunkError("the result was streamed, and no chunk of it came")
        if stream.assembler is None:
            raise ChunkError(stream.fault)
        joined = stream.assembler.finish(result.result_id or stream.result_id, result.result_size)
        return _parse(joined) if result.content_type == JSON_TYPE else joined

    def drop(self, job_id: JobId) -> None:
        """The job is over."""
        stream = self._streams.pop(job_id, None)
        if stream is not None and stream.assembler is not None:
            self.size -= stream.assembler.size


def _gone(chunk: ResultChunk, due: int) -> str:
    last = chunk.chunk_seq - 1
    which = f"chunk {due} is" if due == last else f"chunks {due} to {last} are"
    return f"{which} gone: chunk {chunk.chunk_seq} came where {due} was due"


def _read(body: Mapping[str, Any]) -> ResultChunk:
    fields = {"encoding": "utf8", **{name: value for name, value in body.items() if value is not None}}
    try:
        return msgspec.convert(fields, ResultChunk, strict=False)
    except msgspec.ValidationError as error:
        raise ChunkError(f"a chunk cannot be read: {error}") from None


def _parse(joined: str | bytes) -> Any:
    """The value that a runtime streamed because it was too large for one frame."""
    data = joined.encode() if isinstance(joined, str) else joined
    if not wire.check_depth(data):
        raise ChunkError("the result nests too deeply")
    try:
        return wire.decode_value(data)
    except Unreadable:
        raise ChunkError("the result is no JSON") from None
