"""Every limit in one place, each with its default and the precedent for it."""

from __future__ import annotations

from typing import Final

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

    The fields:

      message: Bytes of one inbound message; peers send chunks of up to 1 MiB, in base64.
      early_message: Bytes of one inbound message before the welcome; only a runtime applies it.
      early_control_frames: Pings, pongs and small pieces of WebSocket messages before the welcome; afterwards
        they count as requests.
      frame: Bytes of one outbound envelope; the PyPI peer's stdio reader breaks at 64 KiB.
      inline_frame: Bytes of one `job.result` with its value, to a session that reads long frames; other
        messages of a runtime have at most `frame`.
      client_frame: Bytes of one outbound envelope of a client over WebSocket; peers' default limit is 1 MiB.
      chunk: Decoded bytes of one result chunk; its base64 fits a frame.
      result: Decoded bytes of one streamed result (§14).
      returned: Bytes of JSON of one returned value; it is sent all at once, so it has to fit the session's
        log.
      hello: Seconds from the connection to its first message; websockets' open_timeout.
      authentication: Seconds from the hello to the host's answer.
      rest: Seconds from the first bytes of a message or a line to its last, while the connection is read.
      linger: Seconds from the last envelope of a closing connection to its abort.
      grace: Seconds from the cancellation of an agent to its terminal, stopped or not.
      retention: Seconds from the end of a job until it is forgotten; the resume window.
      finished_jobs: Jobs of one principal that have ended and are not forgotten; the oldest are dropped.
      finished_jobs_total: Finished jobs of all principals; the oldest of the principal with most of them are
        dropped.
      held_messages: Messages held while a hello is being verified; more stop the reading.
      held_bytes: Bytes of the messages held while a hello is being verified.
      bad_messages: Unreadable or unknown messages in a second, after which the connection is closed.
      session_events: Events of one session's log; the Node and Rust SDKs read 10,000.
      session_bytes: Bytes of one session's log; the Node SDK's 16 MiB.
      principal_events: Events of all logs and histories of one principal; its oldest are dropped.
      principal_bytes: Bytes held for one principal: events, finished jobs, idempotency keys, the inputs and
        leases of running jobs, and incomplete messages. Inputs and leases of more than 512 bytes count by
        their JSON, or by the memory of their values if that is more. They, incomplete messages of more than
        64 KiB, and keys whose jobs have ended may take half of it: a submit for more is refused, and a
        connection that sends more is closed. Of the rest the oldest events and finished jobs are dropped. A
        finished job counts by its lease and its end, if they have more than 512 bytes.
      total_events: Events of all logs and histories; the oldest of the principal with most of them are
        dropped.
      total_bytes: Bytes held for all principals, by the same rule.
      history_events: Events of one job's history, from which observers are served (§7.6).
      history_bytes: Bytes of one job's history.
      backlog_events: Events of a requested history that are numbered at once for an observer.
      backlog_bytes: Bytes of the events that are numbered at once for an observer.
      subscriptions: Jobs that one session observes.
      replies: Answers to submit and subscribe that one session keeps for a resume (§6.3).
      reply_bytes: Bytes of the answers that one session keeps for a resume.
      lag: Unacknowledged events of a session before it gets a back-pressure notice; half of its log.
      page: Jobs of one page of a listing (§6.6), and jobs that a filtered page examines.
      idempotency: Seconds from the end of a job until its idempotency key is forgotten (§7.2).
      idempotency_keys: Keys of one principal; more are refused. Each takes 280 bytes or more of
        `idempotency_bytes`, so this limit is reached first only with the smallest answers and results.
      idempotency_keys_total: Keys of all principals.
      idempotency_bytes: Bytes kept for the keys of one principal, which count to `principal_bytes`; beyond it
        new keys are refused.
      control_envelopes: Answers waiting for one connection's transport; more close it.
      control_bytes: Bytes of the answers waiting for one connection's transport.
      running_jobs: Jobs of all principals that have not stopped.
      principal_jobs: Running jobs of one principal, and of all anonymous clients together, so that none can
        use all of `running_jobs`.
      requests_per_sec: Requests of one connection, after a burst of twice as many; nghttp2 takes 1,000
        streams and their resets at once (CVE-2023-44487). Each 50 jobs that a listing examines count as one
        more, and each 64 events of a requested history; these wait while less than half of the burst is left.
      principal_requests_per_sec: Requests on all connections of one principal, after a burst of twice as
        many.
      over_rate: Seconds for which a connection may exceed its rate, before it is closed.
      sessions: Sessions of one principal, including detached ones (§14).
      anonymous_sessions: Sessions of all anonymous clients together, each of which is a principal of its own.
      idle_session: Seconds with nothing but ping and pong after which an attached session may be ended for a
        new one.
      connections: Connections of one principal, from the welcome until they are gone: one for each session,
        and one that is closing.
      early_connections: Connections before their welcome, at most half of them from one address; a listener's
        queue is 1,024. Up to 64 more, half of them from one address, wait for their hello to be refused. A
        server takes fewer if few files may be open.
      failed_authentications: Failures from one address at once, and then in a minute (OpenSSH drops after 6
        in one connection, and 10 to 100 unauthenticated connections).
      peers: Addresses whose failed authentications are counted; the one that was quiet longest is dropped for
        a new one.
      delegation_depth: Ancestors of a delegated job; a deeper one is refused (§10).
      children: Unfinished jobs of one parent.
      descendants: Unfinished jobs below one that a client submitted.
      issue: Seconds from the request for credentials to their arrival; a submit waits for them (§9.8).
      waiting_submits: Submits of one session that wait for credentials, or for earlier submits; with more the
        connection is not read. Each takes up to 3 KiB beside an input, which counts to `principal_bytes`.
      revocation: Seconds from the end of a job to its terminal, while its credentials are being revoked.
      revocation_pause: The longest pause in seconds between two attempts to revoke a credential; the first is
        a second.
      requests: Requests of one client that wait for their answers; half of `control_envelopes`.
      gap: Seconds from an event that came too early to giving up the missing ones before it (client).
      gap_events: Events held back for missing ones; with more the missing ones are given up at once.
      gap_bytes: Bytes of the events held back; each takes up to 768 bytes beside its JSON.
      unprocessed_bytes: Bytes of events that the user of a client has not processed, before reading stops;
        four times as many while a request waits for its answer, which may stand behind events. Each takes up
        to 768 bytes beside its JSON.
      results: Decoded bytes of all streamed results that one client is joining; four of the largest.
      pull_envelopes: Envelopes of one pull.
      pull_bytes: Bytes after which one pull stops.
    """

    message: int = 4 * MIB
    early_message: int = 64 * KIB
    early_control_frames: int = 16
    frame: int = 60 * KIB
    inline_frame: int = MIB - KIB
    client_frame: int = MIB - KIB
    chunk: int = 40 * KIB
    result: int = 64 * MIB
    returned: int = 8 * MIB
    hello: int = 10
    authentication: int = 10
    rest: int = 60
    linger: int = 5
    grace: int = 5
    retention: int = 600
    finished_jobs: int = 10_000
    finished_jobs_total: int = 100_000
    held_messages: int = 64
    held_bytes: int = 256 * KIB
    bad_messages: int = 10
    session_events: int = 10_000
    session_bytes: int = 16 * MIB
    principal_events: int = 100_000
    principal_bytes: int = 64 * MIB
    total_events: int = 1_000_000
    total_bytes: int = 256 * MIB
    history_events: int = 10_000
    history_bytes: int = 4 * MIB
    backlog_events: int = 256
    backlog_bytes: int = 64 * KIB
    subscriptions: int = 1_000
    replies: int = 64
    reply_bytes: int = 256 * KIB
    lag: int = 5_000
    page: int = 1_000
    idempotency: int = 24 * 3600
    idempotency_keys: int = 50_000
    idempotency_keys_total: int = 400_000
    idempotency_bytes: int = 16 * MIB
    control_envelopes: int = 1_000
    control_bytes: int = 4 * MIB
    running_jobs: int = 1_000
    principal_jobs: int = 500
    requests_per_sec: int = 1_000
    principal_requests_per_sec: int = 4_000
    over_rate: int = 10
    sessions: int = 64
    anonymous_sessions: int = 1_000
    idle_session: int = 3_600
    connections: int = 128
    early_connections: int = 1_000
    failed_authentications: int = 20
    peers: int = 10_000
    delegation_depth: int = 8
    children: int = 64
    descendants: int = 256
    issue: int = 30
    waiting_submits: int = 64
    revocation: int = 2
    revocation_pause: int = 300
    requests: int = 500
    gap: int = 1
    gap_events: int = 256
    gap_bytes: int = 16 * MIB
    unprocessed_bytes: int = 16 * MIB
    results: int = 256 * MIB
    pull_envelopes: int = 256
    pull_bytes: int = 64 * KIB
