"""The result of a job: an inline value, or a stream of chunks (§8.4)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.errors import Denied, ErrorCode, LocalProtocolError
from arcp_proto.ids import ulid
from arcp_proto.job_statuses import SUCCESS
from arcp_proto.limits import details_of
from arcp_proto.server.journal.records import JobEndedRecord, Whole
from arcp_proto.wire import codec
from arcp_proto.wire.codec import OpenObject
from arcp_proto.wire.event_bodies import RESULT_CHUNK, UNSET
from arcp_proto.wire.messages import JOB_RESULT, Result
from arcp_proto.wire.result_chunks import JSON_TYPE, encode_chunk, encode_chunks, encode_whole

from .completion import Returned, end, end_with_error, fix_outcome, outcome_of
from .job import Job, LastWord, Stream

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

UTF8: Final = "utf8"
BASE64: Final = "base64"
TOO_LARGE: Final = "the result does not fit a frame, and its session did not negotiate result_chunk"


def check_piece(job: Job, data: str | bytes) -> str:
    """Return the encoding of a piece; raises LocalProtocolError when the stream has another."""
    encoding = UTF8 if isinstance(data, str) else BASE64
    if job.stream is not None and job.stream.encoding != encoding:
        raise LocalProtocolError(
            f"this result is streamed as {job.stream.encoding}: write {_type_of(job.stream)}"
        )
    if isinstance(data, str) and not data.isascii():
        try:
            data.encode()
        except UnicodeEncodeError:
            raise LocalProtocolError("a string holds a lone surrogate, so it is not valid Unicode") from None
    return encoding


def write(state: RuntimeState, job: Job, data: str | bytes, encoding: str) -> None:
    """Publish a piece as chunks; above the limit of a result, end the job and raise Denied (§14)."""
    stream = job.stream or _open_stream(state, job, encoding)
    if not data:
        return
    size = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
    if stream.size + size > state.limits.max_result_bytes:
        message = f"a streamed result is at most {state.limits.max_result_bytes} bytes"
        fix_outcome(state, job, outcome_of(ErrorCode.INTERNAL_ERROR, message))
        raise Denied(ErrorCode.INTERNAL_ERROR, message)
    chunk, frame = state.limits.max_chunk_bytes, state.body_limit(job)
    for body in encode_chunks(stream.result_id, stream.chunks, data, chunk=chunk, frame=frame):
        state.publish(job, RESULT_CHUNK, body)
        stream.chunks += 1
    stream.size += size
    if stream.inline is not None:
        stream.inline.append(data)
        most = (
            state.result_limit(job, job.home) if job.parent is None else state.limits.max_returned_value_bytes
        )
        if stream.size > most:
            stream.inline = None


def returned(state: RuntimeState, job: Job, word: LastWord) -> None:
    """End a job with the value that its agent has returned."""
    encoded, summary = word.value, word.summary
    if job.stream is not None and encoded is not None:
        message = "mixed: the agent returned a value after it had streamed a result"
        _fail(state, job, word, ErrorCode.INVALID_REQUEST, message)
    elif job.stream is not None:
        _finish_stream(state, job, job.stream, word)
    else:
        value = UNSET if encoded is None else msgspec.Raw(encoded)
        at = state.unix
        payload = codec.encode_checked(Result(SUCCESS, state.stamp.text(at), value, summary=summary))
        how = None if job.parent is None else _for_parent(encoded)
        ended = JobEndedRecord(job.id, SUCCESS, JOB_RESULT, codec.opened(payload), at)
        if encoded is None or 2 * len(payload) <= state.payload_limit(job):
            end(state, job, ended, how)  # It fits a frame even if a quirk of the peer doubles it.
        elif not _fits(state, job, payload):
            _finish_in_chunks(state, job, encoded.decode(), word)
        elif len(payload) <= state.payload_limit(job):
            end(state, job, ended, how)
        elif _is_too_large(state, job, word, len(encoded)):
            pass
        else:
            end(state, job, _as_whole(state, job, ended, encoded, summary), how)


def _as_whole(
    state: RuntimeState, job: Job, ended: JobEndedRecord, encoded: bytes, summary: str | None
) -> JobEndedRecord:
    """Return a terminal with its value for sessions with long frames, and with a `result_id` for others."""
    at, begin = state.stamp.text(ended.at), ended.payload.index(encoded)
    result = Result(SUCCESS, at, UNSET, _new_id(state, job), len(encoded), JSON_TYPE, summary)
    whole = Whole(
        ended.payload, begin, begin + len(encoded), state.limits.max_chunk_bytes, state.body_limit(job)
    )
    payload = codec.opened(codec.encode_checked(result))
    return msgspec.structs.replace(ended, payload=payload, whole=whole)


def _finish_in_chunks(state: RuntimeState, job: Job, text: str, word: LastWord) -> None:
    if _needs_inline(job):
        _fail(state, job, word, ErrorCode.INVALID_REQUEST, TOO_LARGE)
    elif _is_too_large(state, job, word, len(text.encode())):
        pass
    else:
        stream = _open_stream(state, job, UTF8)
        chunk, frame = state.limits.max_chunk_bytes, state.body_limit(job)
        for body in encode_whole(stream.result_id, text, chunk, frame):
            state.publish(job, RESULT_CHUNK, body)
        stream.size = len(text.encode())
        _end_stream(state, job, stream, word.summary, JSON_TYPE, text)


def _finish_stream(state: RuntimeState, job: Job, stream: Stream, word: LastWord) -> None:
    """End a stream by an empty last chunk, and its job."""
    completed_at = state.time_text()
    inline = None
    if _needs_inline(job):
        inline = _inline(state, job, stream, completed_at, word.summary)
        if inline is None:
            _fail(state, job, word, ErrorCode.INVALID_REQUEST, TOO_LARGE)
            return
    end_of_data = "" if stream.encoding == UTF8 else b""
    last = encode_chunk(stream.result_id, stream.chunks, end_of_data, more=False)
    state.publish(job, RESULT_CHUNK, last)
    _end_stream(state, job, stream, word.summary, None, inline=inline)


def _end_stream(
    state: RuntimeState,
    job: Job,
    stream: Stream,
    summary: str | None,
    content_type: str | None,
    returned: str | None = None,
    inline: OpenObject | None = None,
) -> None:
    """End a job whose chunks are published; `returned` is their JSON if the agent returned a value."""
    completed_at = state.time_text()
    result = Result(SUCCESS, completed_at, UNSET, stream.result_id, stream.size, content_type, summary)
    how = None
    if job.parent is not None:
        value = _joined(stream) if returned is None else codec.decode_value(returned.encode())
        how = Returned(value, stream.result_id, stream.size)
    payload = codec.opened(codec.encode_checked(result))
    end(state, job, JobEndedRecord(job.id, SUCCESS, JOB_RESULT, payload, state.unix, inline), how)


def _inline(state: RuntimeState, job: Job, stream: Stream, at: str, summary: str | None) -> OpenObject | None:
    """Return a stream as the payload of an inline result; None if it does not fit."""
    value = _joined(stream)
    if value is None:
        return None
    if isinstance(value, bytes):
        value = base64.b64encode(value).decode()
    payload = codec.encode_checked(Result(SUCCESS, at, value, summary=summary))
    return codec.opened(payload) if _fits(state, job, payload) else None


def _joined(stream: Stream) -> str | bytes | None:
    """Return the whole stream, if its pieces were kept; else None."""
    if stream.inline is None:
        return None
    if stream.encoding == UTF8:
        return "".join(piece for piece in stream.inline if isinstance(piece, str))
    return b"".join(piece for piece in stream.inline if isinstance(piece, bytes))


def _for_parent(encoded: bytes | None) -> Returned:
    """Return the result for the parent of a job, with a value of its own."""
    return Returned(None if encoded is None else codec.decode_value(encoded), None, None)


def _open_stream(state: RuntimeState, job: Job, encoding: str) -> Stream:
    result_id = _new_id(state, job)
    kept = _needs_inline(job) or job.parent is not None
    job.stream = Stream(result_id, encoding, inline=[] if kept else None)
    return job.stream


def _is_too_large(state: RuntimeState, job: Job, word: LastWord, size: int) -> bool:
    """Return whether a returned value that does not fit an envelope is too large; end its job if so."""
    limits = state.limits
    if size > limits.max_returned_value_bytes:
        message = f"a returned value is at most {limits.max_returned_value_bytes} bytes: stream the result"
        details = details_of("max_returned_value_bytes", limits.max_returned_value_bytes)
        _fail(state, job, word, ErrorCode.INVALID_REQUEST, message, details)
    elif size > limits.max_result_bytes:  # As a stream it would fail with this code (§14).
        message = f"a returned value is at most {limits.max_result_bytes} bytes"
        _fail(state, job, word, ErrorCode.INTERNAL_ERROR, message)
    return size > min(limits.max_returned_value_bytes, limits.max_result_bytes)


def _new_id(state: RuntimeState, job: Job) -> str:
    return "res_" + ulid(state.entropy.bits(state.scope(job.terms.principal), "result"))


def _fail(
    state: RuntimeState,
    job: Job,
    word: LastWord,
    code: ErrorCode,
    message: str,
    details: dict[str, Any] | None = None,
) -> None:
    """End a job whose result cannot be sent, unless it is left to the next process.

    INVALID_REQUEST tells that another attempt fails as well.
    """
    if word.left:
        state.leave_job(job)
    else:
        end_with_error(state, job, outcome_of(code, message, details=details))


def _fits(state: RuntimeState, job: Job, payload: bytes) -> bool:
    """Return whether an inline result fits a frame of its session, even if a quirk of the peer doubles it."""
    home = job.home
    times = 2 if home is not None and home.quirk.result_as_output else 1
    return times * len(payload) <= state.result_limit(job, home)


def _needs_inline(job: Job) -> bool:
    """Return whether the submitting session is alive and cannot read chunks (§6.2)."""
    home = job.home
    return home is not None and RESULT_CHUNK not in home.features


def _type_of(stream: Stream) -> str:
    return "str" if stream.encoding == UTF8 else "bytes"
