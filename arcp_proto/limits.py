"""Every limit in one place, each with its default and the precedent for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_ID_LENGTH: Final = 256
"""Characters of an envelope id, a job id, a nonce (protocol: any string up to 256)."""
MAX_TOKEN_LENGTH: Final = 16 * KIB
"""Bytes of a bearer token; HTTP servers stop at 8 to 16 KiB of header."""
MAX_REASON_LENGTH: Final = 1000
"""Characters kept of a cancel or close reason, and of an error message."""
MAX_IDEMPOTENCY_KEY_LENGTH: Final = 256
MAX_AGENT_LENGTH: Final = 256
MAX_RUNTIME_SEC: Final = 2**31
MAX_DEPTH: Final = 64
"""Nesting of JSON in and out; msgspec stops somewhere below 1,000, depending on the caller's stack."""
MAX_CONTAINERS: Final = 100_000
"""Objects and lists of one message; each takes some 100 bytes of memory, for few bytes of text."""
MAX_STATUS_WORDS: Final = 16
"""Words of `filter.status` in a listing; there are six statuses."""
MAX_READ_KINDS: Final = 16
"""Kinds of events that a read names."""
MAX_LEASE_BYTES: Final = 16 * KIB
"""Bytes of a `lease_request` as we write it, so that accepted, subscribed and jobs always fit a frame."""
MAX_PATTERNS: Final = 64
MAX_PATTERN_BYTES: Final = 512
MAX_TARGET_BYTES: Final = 8 * KIB
"""Bytes of a path, a URL or a name that is checked; PATH_MAX is 4 KiB, and HTTP servers take 8 KiB."""
MAX_NAMESPACES: Final = 32
MAX_TRACESTATE_LENGTH: Final = 512
"""W3C Trace Context, 3.3.1.5: propagate at least 512 characters."""
MAX_FEATURES: Final = 64
MAX_NAME_LENGTH: Final = 256


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that a host may change: sizes in bytes, times in seconds.

    Beside the stated bytes, Python takes about 160 bytes for an event, 1.5 KiB for a job, 768 bytes for an
    idempotency key, 4 KiB for a session with its connection, 3 KiB for a connection before its welcome and
    512 bytes for an address whose failures are counted; for a moment a message takes up to 25 times its
    bytes, and a returned value six times (`tests/memory` measures it).

    Messages:
      max_message_bytes: Bytes of one inbound message; peers send chunks of up to 1 MiB, in base64.
      max_early_message_bytes: Bytes of one inbound message before the welcome; only a runtime applies it.
      max_early_control_frames: Pings, pongs and small pieces of WebSocket messages before the welcome;
        afterwards they count as requests.
      max_envelope_bytes: Bytes of one outbound envelope; the PyPI peer's stdio reader breaks at 64 KiB.
      max_client_envelope_bytes: Bytes of one outbound envelope of a client over WebSocket; peers' default
        limit is 1 MiB.
      max_inline_result_bytes: Bytes of one `job.result` with its value, to a session that reads long
        frames; other messages of a runtime have at most `max_envelope_bytes`.
      max_held_messages: Messages held while a hello is being verified; more stop the reading.
      max_held_message_bytes: Bytes of the messages held while a hello is being verified.
      max_bad_messages_per_sec: Unreadable or unknown messages in a second, after which the connection is
        closed.
      max_control_envelopes: Answers waiting for one connection's transport; more close it.
      max_control_bytes: Bytes of the answers waiting for one connection's transport.
      max_pull_envelopes: Envelopes of one pull.
      max_pull_bytes: Bytes after which one pull stops.

    Results:
      max_chunk_bytes: Decoded bytes of one result chunk; its base64 fits a frame.
      max_result_bytes: Decoded bytes of one streamed result (§14).
      max_returned_value_bytes: Bytes of JSON of one returned value; it is sent all at once, so it has to
        fit the session's log.
      max_joined_results_bytes: Decoded bytes of all streamed results that one client is joining; four of
        the largest.

    Connections and sessions:
      max_early_connections: Connections before their welcome, at most half of them from one address; a
        listener's queue is 1,024. Up to 64 more, half of them from one address, wait for their hello to be
        refused. A server takes fewer if few files may be open.
      max_principal_connections: Connections of one principal, from the welcome until they are gone: one for
        each session, and one that is closing.
      max_principal_sessions: Sessions of one principal, including detached ones (§14).
      max_anonymous_sessions: Sessions of all anonymous clients together, each of which is a principal of
        its own.
      idle_session_sec: Seconds with nothing but ping and pong after which an attached session may be ended
        for a new one.
      hello_timeout_sec: Seconds from the connection to its first message; websockets' open_timeout.
      authentication_timeout_sec: Seconds from the hello to the host's answer.
      message_timeout_sec: Seconds from the first bytes of a message or a line to its last, while the
        connection is read.
      close_linger_sec: Seconds from the last envelope of a closing connection to its abort.
      max_failed_authentications: Failures from one address at once, and then in a minute (OpenSSH drops
        after 6 in one connection, and 10 to 100 unauthenticated connections).
      max_failing_addresses: Addresses whose failed authentications are counted; the one that was quiet
        longest is dropped for a new one.
      max_requests_per_sec: Requests of one connection, after a burst of twice as many; nghttp2 takes 1,000
        streams and their resets at once (CVE-2023-44487). Each 50 jobs that a listing examines count as one
        more, and each 64 events of a requested history; these wait while less than half of the burst is
        left.
      max_principal_requests_per_sec: Requests on all connections of one principal, after a burst of twice
        as many.
      over_rate_sec: Seconds for which a connection may exceed its rate, before it is closed.

    Jobs:
      max_principal_running_jobs: Running jobs of one principal, and of all anonymous clients together, so
        that none can use all of `max_total_running_jobs`.
      max_total_running_jobs: Jobs of all principals that have not stopped.
      max_session_waiting_submits: Submits of one session that wait for credentials, or for earlier submits;
        with more the connection is not read. Each takes up to 3 KiB beside an input, which counts to
        `max_principal_bytes`.
      max_delegation_depth: Ancestors of a delegated job; a deeper one is refused (§10).
      max_job_children: Unfinished jobs of one parent.
      max_job_descendants: Unfinished jobs below one that a client submitted.
      max_page_jobs: Jobs of one page of a listing (§6.6), and jobs that a filtered page examines.
      stop_grace_sec: Seconds from the cancellation of an agent to its terminal, stopped or not.
      max_principal_finished_jobs: Jobs of one principal that have ended and are not forgotten; the oldest
        are dropped.
      max_total_finished_jobs: Finished jobs of all principals; the oldest of the principal with most of
        them are dropped.
      retention_sec: Seconds from the end of a job until it is forgotten; the resume window.

    Events:
      max_session_events: Events of one session's log; the Node and Rust SDKs read 10,000.
      max_session_bytes: Bytes of one session's log; the Node SDK's 16 MiB.
      max_history_events: Events of one job's history, from which observers are served (§7.6).
      max_history_bytes: Bytes of one job's history.
      max_backlog_events: Events of a requested history that are numbered at once for an observer.
      max_backlog_bytes: Bytes of the events that are numbered at once for an observer.
      max_principal_events: Events of all logs and histories of one principal; its oldest are dropped.
      max_total_events: Events of all logs and histories; the oldest of the principal with most of them are
        dropped.
      max_principal_bytes: Bytes held for one principal: events, finished jobs, idempotency keys, the inputs
        and leases of running jobs, and incomplete messages. Inputs and leases of more than 512 bytes count
        by their JSON, or by the memory of their values if that is more. They, incomplete messages of more
        than 64 KiB, and keys whose jobs have ended may take half of it: a submit for more is refused, and a
        connection that sends more is closed. Of the rest the oldest events and finished jobs are dropped. A
        finished job counts by its lease and its end, if they have more than 512 bytes.
      max_total_bytes: Bytes held for all principals, by the same rule.
      max_session_subscriptions: Jobs that one session observes. A job that has ended is observed beside
        them when its submit, which has a key, is sent again after a resume (§7.2).
      max_connection_reads: Requests to read the events of a job that wait on one connection.
      max_page_events: Events in the answer to one of them.
      max_read_wait_sec: Seconds for which such a request waits for an event at most.
      max_session_replies: Answers to submit and subscribe that one session keeps for a resume (§6.3).
      max_session_reply_bytes: Bytes of the answers that one session keeps for a resume.
      back_pressure_events: Unacknowledged events of a session before it gets a back-pressure notice; half
        of its log.

    Idempotency keys:
      max_principal_idempotency_keys: Keys of one principal; more are refused. Each takes 280 bytes or more
        of `max_principal_idempotency_bytes`, so this limit is reached first only with the smallest answers
        and results.
      max_total_idempotency_keys: Keys of all principals.
      max_principal_idempotency_bytes: Bytes kept for the keys of one principal, which count to
        `max_principal_bytes`; beyond it new keys are refused.
      idempotency_retention_sec: Seconds from the end of a job until its idempotency key is forgotten
        (§7.2).

    Credentials:
      issue_timeout_sec: Seconds from the request for credentials to their arrival; a submit waits for them
        (§9.8).
      revocation_timeout_sec: Seconds from the end of a job to its terminal, while its credentials are being
        revoked.
      max_revocation_pause_sec: The longest pause in seconds between two attempts to revoke a credential;
        the first is a second.

    Clients:
      max_pending_requests: Requests of one client that wait for their answers; half of
        `max_control_envelopes`.
      max_unprocessed_bytes: Bytes of events that the user of a client has not processed, before reading
        stops; four times as many while a request waits for its answer, which may stand behind events. Each
        takes up to 768 bytes beside its JSON.
      max_gap_events: Events held back for missing ones; with more the missing ones are given up at once.
      max_gap_bytes: Bytes of the events held back; each takes up to 768 bytes beside its JSON.
      gap_timeout_sec: Seconds from an event that came too early to giving up the missing ones before it
        (client).
    """

    max_message_bytes: int = 4 * MIB
    max_early_message_bytes: int = 64 * KIB
    max_early_control_frames: int = 16
    max_envelope_bytes: int = 60 * KIB
    max_client_envelope_bytes: int = MIB - KIB
    max_inline_result_bytes: int = MIB - KIB
    max_held_messages: int = 64
    max_held_message_bytes: int = 256 * KIB
    max_bad_messages_per_sec: int = 10
    max_control_envelopes: int = 1_000
    max_control_bytes: int = 4 * MIB
    max_pull_envelopes: int = 256
    max_pull_bytes: int = 64 * KIB

    max_chunk_bytes: int = 40 * KIB
    max_result_bytes: int = 64 * MIB
    max_returned_value_bytes: int = 8 * MIB
    max_joined_results_bytes: int = 256 * MIB

    max_early_connections: int = 1_000
    max_principal_connections: int = 128
    max_principal_sessions: int = 64
    max_anonymous_sessions: int = 1_000
    idle_session_sec: int = 3_600
    hello_timeout_sec: int = 10
    authentication_timeout_sec: int = 10
    message_timeout_sec: int = 60
    close_linger_sec: int = 5
    max_failed_authentications: int = 20
    max_failing_addresses: int = 10_000
    max_requests_per_sec: int = 1_000
    max_principal_requests_per_sec: int = 4_000
    over_rate_sec: int = 10

    max_principal_running_jobs: int = 500
    max_total_running_jobs: int = 1_000
    max_session_waiting_submits: int = 64
    max_delegation_depth: int = 8
    max_job_children: int = 64
    max_job_descendants: int = 256
    max_page_jobs: int = 1_000
    stop_grace_sec: int = 5
    max_principal_finished_jobs: int = 10_000
    max_total_finished_jobs: int = 100_000
    retention_sec: int = 600

    max_session_events: int = 10_000
    max_session_bytes: int = 16 * MIB
    max_history_events: int = 10_000
    max_history_bytes: int = 4 * MIB
    max_backlog_events: int = 256
    max_backlog_bytes: int = 64 * KIB
    max_principal_events: int = 100_000
    max_total_events: int = 1_000_000
    max_principal_bytes: int = 64 * MIB
    max_total_bytes: int = 256 * MIB
    max_session_subscriptions: int = 1_000
    max_connection_reads: int = 256
    max_page_events: int = 1_000
    max_read_wait_sec: int = 30
    max_session_replies: int = 64
    max_session_reply_bytes: int = 256 * KIB
    back_pressure_events: int = 5_000

    max_principal_idempotency_keys: int = 50_000
    max_total_idempotency_keys: int = 400_000
    max_principal_idempotency_bytes: int = 16 * MIB
    idempotency_retention_sec: int = 24 * 3600

    issue_timeout_sec: int = 30
    revocation_timeout_sec: int = 2
    max_revocation_pause_sec: int = 300

    max_pending_requests: int = 500
    max_unprocessed_bytes: int = 16 * MIB
    max_gap_events: int = 256
    max_gap_bytes: int = 16 * MIB
    gap_timeout_sec: int = 1


WIRE_WORDS: Final[Mapping[str, str]] = {
    "max_returned_value_bytes": "returned",
    "max_early_connections": "early_connections",
    "max_principal_connections": "connections",
    "max_principal_sessions": "sessions",
    "max_anonymous_sessions": "anonymous_sessions",
    "max_failed_authentications": "failed_authentications",
    "max_requests_per_sec": "requests_per_sec",
    "max_principal_requests_per_sec": "principal_requests_per_sec",
    "max_principal_running_jobs": "principal_jobs",
    "max_total_running_jobs": "running_jobs",
    "max_delegation_depth": "delegation_depth",
    "max_job_children": "children",
    "max_job_descendants": "descendants",
    "max_principal_bytes": "principal_bytes",
    "max_total_bytes": "total_bytes",
    "max_session_subscriptions": "subscriptions",
    "max_connection_reads": "reads",
    "max_principal_idempotency_keys": "idempotency_keys",
    "max_total_idempotency_keys": "idempotency_keys_total",
    "max_principal_idempotency_bytes": "idempotency_bytes",
}
"""Fields of `Limits` whose excess is told to a peer, and their words in the `details.limit` of an error."""


def details_of(limit: str, most: int) -> dict[str, Any]:
    """Return the `details` of an error for a field of `Limits` that has the value `most`."""
    return {"limit": WIRE_WORDS[limit], "max": most}
