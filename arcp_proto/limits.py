"""Every bound in one place, each with its default and where the default comes from."""

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
"""Objects and lists of one message, which take some 100 bytes of memory each, however few bytes of text."""
MAX_STATUS_WORDS: Final = 16
"""Words of `filter.status` in a listing; there are six statuses."""
MAX_LEASE_BYTES: Final = 16 * KIB
"""Of a `lease_request` as we write it, so that accepted, subscribed and jobs always fit a frame."""
MAX_PATTERNS: Final = 64
MAX_PATTERN_BYTES: Final = 512
MAX_TARGET_BYTES: Final = 8 * KIB
"""Of a path, a URL or a name that the gate is asked for; PATH_MAX is 4 KiB, and HTTP servers take 8 KiB."""
MAX_NAMESPACES: Final = 32
MAX_TRACESTATE_LENGTH: Final = 512
"""W3C Trace Context, 3.3.1.5: propagate at least 512 characters."""
MAX_FEATURES: Final = 64
MAX_NAME_LENGTH: Final = 256


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds a host may change. Sizes in bytes, times in seconds, unless the name says otherwise.

    Beside the bytes that are stated, Python takes about 160 bytes for an event, 1.5 KiB for a job, 768 bytes
    for an idempotency key, 4 KiB for a session with its connection, 3 KiB for a connection before its welcome
    and 512 bytes for a place whose failures are counted; for a moment a message takes up to 25 times its
    bytes, and a returned value six times (`tests/memory` measures it).

    The fields:

      message: One inbound message; peers send chunks of up to 1 MiB, in base64.
      early_message: One inbound message before the welcome; of a runtime alone.
      early_control_frames: Pings, pongs and small pieces of WebSocket messages before the welcome; later
        they are requests.
      frame: One outbound envelope; the PyPI peer's stdio reader breaks at 64 KiB.
      inline_frame: One `job.result` with its value, to a session that reads long frames; all else that a
        runtime sends has at most `frame`.
      client_frame: One outbound envelope of a client over WebSocket; peers' default limit is 1 MiB.
      chunk: Decoded bytes of one result chunk; its base64 fits a frame.
      result: Decoded bytes of one streamed result (§14).
      returned: JSON of one returned value; it goes out all at once, so it has to fit the session's log.
      hello: From the connection to its first message; websockets' open_timeout.
      authentication: From the hello to the host's answer.
      rest: From the first bytes of a message or a line to its last, while the connection is read.
      linger: From the last envelope of a closing connection to its abort.
      grace: From the cancellation of an agent to its terminal, stopped or not.
      retention: From the end of a job until it is forgotten; the resume window.
      finished_jobs: Jobs of one principal that have ended and are not forgotten; the oldest go first.
      finished_jobs_total: Of all principals; the oldest of the one that has most go first.
      held_messages: Messages held while a hello is being verified; more stops reading.
      held_bytes: Bytes of them.
      bad_messages: Unreadable or unknown messages a second, before the connection is closed.
      session_events: Events of one session's log; the Node and Rust SDKs read 10,000.
      session_bytes: Bytes of them; the Node SDK's 16 MiB.
      principal_events: Events of all logs and histories of one principal; its oldest go first.
      principal_bytes: Bytes of all that is held for one principal: events, finished jobs, idempotency keys,
        what running jobs were given, and parts of messages that are not whole. Inputs and leases of more
        than 512 bytes count by their JSON, or by what their values take in memory if that is more. They,
        parts of messages of more than 64 KiB, and keys whose jobs have ended may be half of it: a submit
        for more is refused, and a connection that sends more is closed. Of the rest the oldest events and
        finished jobs go. A finished job counts by its lease and its end, if they have more than 512 bytes.
      total_events: Events of all logs and histories; the oldest of the principal that holds most go
        first.
      total_bytes: Bytes of all that is held for all principals, by the same rule.
      history_events: Events of one job's history, from which observers are served (§7.6).
      history_bytes: Bytes of them.
      backlog_events: Events of a history that are numbered at once for an observer who asked for it.
      backlog_bytes: Bytes of them.
      subscriptions: Jobs that one session observes.
      replies: Answers to submit and subscribe that one session keeps for a resume (§6.3).
      reply_bytes: Bytes of them.
      lag: Events that a session may leave unacknowledged before it is told of back-pressure; half of its
        log.
      page: Jobs of one page of a listing (§6.6), and jobs that a filtered page looks at.
      idempotency: From the end of a job until its idempotency key is forgotten (§7.2).
      idempotency_keys: Keys of one principal; more are refused. Each takes 280 bytes or more of
        `idempotency_bytes`, so this is met first with the smallest answers and results only.
      idempotency_keys_total: Keys of all principals.
      idempotency_bytes: Bytes of what is kept for the keys of one principal, which count to
        `principal_bytes`; when it is full, new keys are refused.
      control_envelopes: Answers waiting for one connection's transport; more closes it.
      control_bytes: Bytes of them.
      running_jobs: Jobs that have not stopped, in all.
      principal_jobs: Of one principal, and of all clients without a name together: nobody has all of
        them.
      requests_per_sec: Requests of one connection, after twice as many at once; nghttp2 takes 1,000
        streams and their resets at once (CVE-2023-44487). Each 50 jobs that a listing looks at count as
        one more, and each 64 events of a history that was asked for; these wait while less than half of what
        may be asked at once is left.
      principal_requests_per_sec: Requests on all connections of one principal, after twice as many at
        once.
      over_rate: How long a connection may go on asking too much, before it is closed.
      sessions: Of one principal, detached ones included (§14).
      anonymous_sessions: Of all clients without a name together, each of which is a principal of its own.
      idle_session: After so long with nothing but ping and pong an attached session may end for another
        one.
      connections: Of one principal, from the welcome until they are gone: of each session one, and one
        that closes.
      early_connections: Connections before their welcome, half of them at most from one place; a
        listener's queue is 1,024. Up to 64 more, half of them from one place, wait for their hello to be
        told that they are too many. A server takes fewer where few files may be open.
      failed_authentications: From one place at once, and then in a minute (OpenSSH drops after 6 in one
        connection, and 10 to 100 connections that have not authenticated).
      peers: Places whose failed authentications are counted; the longest quiet one is forgotten for
        another.
      delegation_depth: Jobs above one that is delegated; one more is refused (§10).
      children: Jobs of one parent that have not ended.
      descendants: Jobs below one that a client submitted that have not ended.
      issue: From the request for credentials to their coming; a submit waits for them (§9.8).
      waiting_submits: Submits of one session that wait for credentials, or behind such; then its
        connection is not read. Each takes up to 3 KiB beside an input that counts to `principal_bytes`.
      revocation: From the end of a job to its terminal, while its credentials are being revoked.
      revocation_pause: The longest pause between two attempts to revoke a credential; they begin with a
        second.
      requests: Requests of one client that wait for their answers; half of `control_envelopes`.
      gap: From an event that came too early to giving up those before it (client).
      gap_events: Events held back for those before them; more give them up at once.
      gap_bytes: Bytes of them; each takes up to 768 beside its JSON.
      unprocessed_bytes: Bytes of events that the user of a client holds, before nothing more is read;
        four times as many while a request waits for its answer, which stands behind events. Each takes up
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
