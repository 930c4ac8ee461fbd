"""The result of a job as a stream of pieces, read in constant memory (§8.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from arcp_io.errors import HistoryCut, ResultIncomplete
from arcp_proto import EventKind, JobEvent, wire
from arcp_proto.wire import JSON_TYPE, ChunkError, missing_chunks, read_chunk

if TYPE_CHECKING:
    from .job import Job

__all__ = ["ResultReader"]


class ResultReader:
    """Iterates over the pieces of a job's result; `Job.result_stream` makes it.

    A piece is never empty and counts as processed when the next one is requested. When the iteration is given
    up, a later `Job.result_stream` continues after its last piece.
    """

    def __init__(self, job: Job, on_event: Callable[[JobEvent], object] | None) -> None:
        self._job = job
        self._on_event = on_event
        self._events = aiter(job)
        self._kept = job._keeps_result
        self._chunks, self._early = job._release_result()
        self._done = False
        self.history_cut: HistoryCut | None = None
        """Set when events of the job are lost.

        None of them was a chunk as long as the iteration continues.
        """

    @property
    def content_type(self) -> str | None:
        """`application/json` when the pieces are the JSON text of a returned value, None for a stream.

        It is known from the first piece on if the runtime is ours, otherwise at the end.
        """
        return self._chunks.content_type

    @property
    def size(self) -> int:
        """Bytes of the result received so far; of text in UTF-8."""
        return self._chunks.size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next piece; raises the errors of `Job.result_stream`."""
        while not isinstance(item := await self.next_item(), str | bytes):
            if item is None:
                raise StopAsyncIteration
            if self._on_event is not None:
                self._on_event(item)
        return item

    async def next_item(self) -> JobEvent | str | bytes | None:
        """Return the next piece, or an event that is not a chunk; None at the end."""
        if self._early:
            early, self._early = self._early, ""
            return early
        while not self._done:
            event = await self._next_event()
            if event is None:
                self._done = True
                return (await self._rest()) or None
            if event.kind != EventKind.RESULT_CHUNK:
                return event
            if piece := self._read(event):
                return piece
        return None

    async def _next_event(self) -> JobEvent | None:
        """Return the next event of the job, None at its end."""
        while True:
            try:
                return await anext(self._events, None)
            except HistoryCut as cut:
                self.history_cut = cut
                self._events = aiter(self._job)

    def _read(self, event: JobEvent) -> str | bytes:
        """Return the data of a chunk; empty if it was read before."""
        if self._kept:
            return ""
        try:
            chunk = read_chunk(event.body)
            due = self._chunks.due
            if chunk.chunk_seq < due:
                return ""
            if chunk.chunk_seq > due:
                raise ChunkError(missing_chunks(chunk, due))
            data = self._chunks.read(chunk)
        except ChunkError as error:
            if self._job._failed:  # The error of the job counts, at the end.
                return ""
            raise self._incomplete(error) from self.history_cut
        return data.decode() if chunk.encoding == "utf8" else data

    async def _rest(self) -> str | bytes:
        """Check the end of the job, and return a result that was kept or came inline."""
        if self._kept:
            await self._job.result()
        end = self._job._successful_end()
        if self._kept or (not self._chunks.due and end.result_id is None):
            is_text = isinstance(end.result, str) and end.result_id is not None
            if isinstance(end.result, bytes) or (is_text and end.content_type != JSON_TYPE):
                return self._at_once(end.result)
            return "" if end.result is None else self._at_once(_json(end.result), JSON_TYPE)
        try:
            self._chunks.finish(end.result_id, end.result_size)
        except ChunkError as error:
            raise self._incomplete(error) from self.history_cut
        self._chunks.content_type = end.content_type
        return ""

    def _at_once(self, data: str | bytes, content_type: str | None = None) -> str | bytes:
        """Return all of the result as one piece."""
        self._chunks.size = len(data if isinstance(data, bytes) else data.encode())
        self._chunks.content_type = content_type
        return data

    def _incomplete(self, error: ChunkError) -> ResultIncomplete:
        self._done = True
        details = {"chunks": self._chunks.due, "size": self._chunks.size}
        return ResultIncomplete(str(error), details=details, job_id=self._job.id)


def _json(value: Any) -> str:
    return wire.encode_value(value).decode()
