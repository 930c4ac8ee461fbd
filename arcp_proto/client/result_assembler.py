"""Streamed results as the client joins them: one a job, bounded each and in all (§8.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from arcp_proto.errors import Unreadable
from arcp_proto.ids import JobId
from arcp_proto.wire import codec
from arcp_proto.wire.messages import Result
from arcp_proto.wire.result_chunks import (
    JSON_TYPE,
    Assembler,
    ChunkError,
    ChunkReader,
    missing_chunks,
    read_chunk,
)


class _Stream:
    """The chunks of one job so far, or the fault of one of them, for which all are dropped."""

    __slots__ = ("assembler", "due", "fault", "released")

    def __init__(self, assembler: Assembler | None) -> None:
        self.assembler = assembler
        self.due = 0
        """Number of the chunk that comes next."""
        self.fault = ""
        self.released = assembler is None
        """Whether the user reads the chunks from the events of the job, and none are joined here."""


class Assembly:
    """The results that are being streamed, over any number of sessions.

    Holds at most `limit` decoded bytes of a result and `total` of all, and one chunk beyond it.
    """

    __slots__ = ("_limit", "_streams", "_total", "size")

    def __init__(self, limit: int, total: int) -> None:
        self.size = 0
        """Decoded bytes held."""
        self._limit = limit
        self._total = total
        self._streams: dict[JobId, _Stream] = {}

    def add(self, job_id: JobId, body: Mapping[str, Any]) -> None:
        """Take the body of a `result_chunk`; a fault is reported at the end of the job.

        A chunk may come again, and the first of them mends what was broken.
        """
        stream = self._streams.get(job_id)
        if stream is not None and stream.released:
            return
        if stream is None or (stream.assembler is None and body.get("chunk_seq") == 0):
            stream = self._streams[job_id] = _Stream(Assembler(self._limit))
        assembler = stream.assembler
        if assembler is None:
            return
        before = assembler.size
        try:
            chunk = read_chunk(body)
            if chunk.chunk_seq < stream.due:
                return
            if chunk.chunk_seq > stream.due:
                raise ChunkError(missing_chunks(chunk, stream.due))
            assembler.add(chunk)
            stream.due += 1
            self.size += assembler.size - before
            if self.size > self._total:
                raise ChunkError(f"the results being streamed are larger than {self._total} bytes in all")
        except ChunkError as error:
            self.size -= assembler.size
            stream.assembler, stream.fault = None, str(error)

    def finish(self, job_id: JobId, result: Result) -> Any:
        """Return the result of a job: the value in `result`, or its joined chunks; raises ChunkError.

        A runtime may leave out `result_id` when nothing was returned; some do after chunks too.
        """
        if result.result is not msgspec.UNSET and result.result is not None:
            return result.result
        stream = self._streams.get(job_id)
        if stream is not None and stream.released:
            return None
        if stream is None:
            if result.result_id is None:
                return None
            raise ChunkError("the result was streamed, and no chunk of it came")
        if stream.assembler is None:
            raise ChunkError(stream.fault)
        joined = stream.assembler.finish(result.result_id, result.result_size)
        return _parse(joined) if result.content_type == JSON_TYPE else joined

    def release(self, job_id: JobId) -> tuple[ChunkReader, str | bytes]:
        """Join no more of the result of a job: its chunks are read from its events from now on.

        Returns the reader of the chunks that follow, and the data of earlier ones. If these are lost, the
        reader is at the first chunk.
        """
        stream = self._streams.get(job_id)
        assembler = None if stream is None else stream.assembler
        self.drop(job_id)
        self._streams[job_id] = _Stream(None)
        if assembler is None:
            return ChunkReader(), ""
        assembler.reader.limit = None
        return assembler.reader, assembler.joined

    def drop(self, job_id: JobId) -> None:
        """Forget the chunks of a job."""
        stream = self._streams.pop(job_id, None)
        if stream is not None and stream.assembler is not None:
            self.size -= stream.assembler.size


def _parse(joined: str | bytes) -> Any:
    """Return the value that a runtime streamed because it was too large for one frame."""
    data = joined.encode() if isinstance(joined, str) else joined
    if not codec.check_depth(data):
        raise ChunkError("the result nests too deeply")
    try:
        return codec.decode_value(data)
    except Unreadable:
        raise ChunkError("the result is not JSON") from None
