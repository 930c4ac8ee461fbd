"""The fields of the JSON that `--json` prints, by command."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Printed(NamedTuple):
    """The output of a command with `--json`: the fields of its object, or of each object, one a line."""

    fields: Mapping[str, str]
    """Field -> its meaning. A field whose meaning begins with "if" may be absent."""
    lines: bool = False
    """Whether there is an object for each thing, one a line."""


ERROR: Final = (
    "if it failed: an object with the code, the message, whether trying again can help (retryable), and"
    " maybe details"
)
"""The meaning of the field `error`, which each command prints when it fails."""

_LOST: Final = "if events were lost: a list of the places, with the number before and after each"

_ENDING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "job_id": "the job, or null if none was accepted",
        "final_status": "success, error, cancelled or timed_out; null if the end was not seen",
        "stopped": "if the end was seen: whether the agent has stopped; null if the runtime does not tell",
        "events": "how many events were received, the end included",
        "events_lost": _LOST,
        "summary": "if the agent gave one: one line about the result",
        "result": "if the job succeeded: the result, text for a streamed one, base64 if it is not text",
        "encoding": "if the result is base64: base64",
        "output": "if --output was given: the file with the result",
        "size": "if --output was given: the bytes of the result",
        "error": ERROR,
    }
)

_JOB: Final[Mapping[str, str]] = MappingProxyType(
    {
        "job_id": "the job",
        "agent": "name@version, or the name of an agent without versions",
        "status": "pending, running, success, error, cancelled or timed_out",
        "lease": "an object: namespace -> list of patterns",
        "created_at": "when the job was accepted; times are RFC 3339 in UTC",
        "parent_job_id": "if another job delegated it: that job",
        "trace_id": "if it is traced: the id of the trace",
        "job_seq": "the number of the last event",
        "attempt": "how often the agent was started",
        "agent_runs": "whether the agent is not over; true after the end if it ignores its cancellation",
        "stopped": "if it has ended: whether the agent is known to have stopped",
        "ends_as": "if the end is decided, and the agent is being stopped: the final status",
        "budget": "if the lease names one: currency -> initial, remaining, and maybe reserved",
    }
)

FIELDS: Final[Mapping[str, Printed]] = MappingProxyType(
    {
        "submit": Printed(
            {
                **_ENDING,
                "detached": "if --detach was given: true, and of the other fields only job_id and attach",
                "attach": "if --detach was given: the command that follows the job",
            }
        ),
        "attach": Printed(_ENDING),
        "cancel": Printed(_ENDING),
        "jobs": Printed(
            {
                "jobs": "the jobs, each with the fields of a line of --watch",
                "more": "whether there are more than --limit",
                "error": ERROR,
            }
        ),
        "jobs --watch": Printed(
            {
                **_JOB,
                "submitted_at": "the same as created_at",
                "last_event_seq": "the number of the last event, as other runtimes count it",
                "credentials": "if the runtime lists them: each without its value",
                "completed_at": "if it has ended: when",
                "code": "if it has failed: the code of its error",
                "error": ERROR,
            },
            lines=True,
        ),
        "describe": Printed(
            {
                **_JOB,
                "history_from_job_seq": "the number of the first event that can still be read",
                "max_runtime_sec": "if it is bounded: the seconds that the job may run",
                "expires_at": "if the lease ends: when",
                "progress": "if it reported some: the body of the last progress event",
                "agent_stopped_at": "if the agent stopped after the end of the job: when, until a restart",
                "children": "if it delegated: the jobs, oldest first",
                "end": "if it has ended: final_status, completed_at, and code, message, retryable, details,"
                " summary, result_id and result_size as they apply",
                "error": ERROR,
            }
        ),
        "events": Printed(
            {
                "job_id": "the job",
                "job_seq": "the number of the event, the same for all observers",
                "kind": "log, thought, status, progress, and so on; `end` for the end of the job",
                "ts": "the time of the event, RFC 3339 in UTC",
                "body": "the fields of the event; of `end`: final_status, and error, summary, result_size and"
                " result as they apply",
                "error": ERROR,
            },
            lines=True,
        ),
        "agents": Printed(
            {
                "runtime": "its name and version",
                "features": "the features that both sides support",
                "agents": "a list of agents: name, versions, and the default version or null",
                "error": ERROR,
            }
        ),
        "ping": Printed(
            {
                "number": "the number of the answer, from 1 on",
                "ms": "the milliseconds until it came",
                "error": ERROR,
            },
            lines=True,
        ),
        "doctor": Printed(
            {
                "check": "dns, tcp, tls, websocket, origin, clock, token, version, features, round trip or"
                " resume",
                "state": "ok, note, failed or skipped",
                "detail": "what was found",
                "advice": "what to do; may be empty",
                "error": ERROR,
            },
            lines=True,
        ),
        "config show": Printed(
            {
                "file": "the file with the profiles, which may not exist",
                "profile": "the profile in use, or null",
                "profiles": "the names of all profiles",
                "settings": "a list of settings: name, value or null, and from",
            }
        ),
        "credentials": Printed(
            {
                "alias": "the name of the credential at the gateway",
                "principal": "the principal of the job",
                "job_id": "the job that it was issued for",
                "requested_at": "when it was requested, RFC 3339 in UTC",
                "state": "requested, issued, to be revoked, or outstanding",
                "ids": "the ids that the gateway gave",
                "reason": "why it could not be revoked; may be empty",
                "error": ERROR,
            },
            lines=True,
        ),
        "nodes": Printed(
            {
                "node": "the id of the node",
                "address": "where other nodes reach it",
                "release": "its release of arcp-io",
                "shards": "how many shards it owns",
                "draining": "whether it gives its shards away",
                "beat": "how often it has written its row",
                "beat_age": "the seconds since its last beat, or null",
                "alive": "whether it has written its row meanwhile",
                "error": ERROR,
            },
            lines=True,
        ),
        "shards": Printed(
            {
                "shard": "the number of the shard",
                "owner": "the node that owns it, or null",
                "address": "the address of that node, or null",
                "epoch": "how often it was claimed",
                "unfinished_jobs": "how many of its jobs have not ended, or null",
                "records": "the records since its snapshot",
                "bytes": "the bytes of its snapshot and of these records",
                "error": ERROR,
            },
            lines=True,
        ),
        "demo": Printed(
            {
                "files": "text files that were read",
                "bytes": "their bytes",
                "lines": "their lines",
                "words": "their words",
                "by_extension": "extension -> files, bytes and lines",
                "largest": "the largest files: path and bytes",
                "identifiers": "the most frequent identifiers: name and count",
                "skipped": "files that were left out: binary and unreadable",
                "events": "how many events were received, the end included",
                "final_status": "success, error, cancelled or timed_out",
                "drops": "with --drop: how often the connection was cut",
                "resumes": "with --drop: how often it was resumed",
                "events_lost": _LOST,
                "error": ERROR,
            }
        ),
        "token new": Printed(
            {
                "token": "if --output was not given: the token",
                "output": "if --output was given: the file with the token",
                "principal": "the principal that it is for",
                "sha256": "its SHA-256, in hex",
                "tokens": "the file that it was added to, or null",
                "error": ERROR,
            }
        ),
        "replay": Printed(
            {
                "connection": "the number of the connection",
                "envelope": "the envelope that was sent",
                "error": ERROR,
            },
            lines=True,
        ),
        "journal inspect": Printed(
            {
                "journal": "the path of the journal",
                "file_bytes": "the size of its file",
                "log_bytes": "the size of its write-ahead log",
                "schema": "the version of its tables",
                "record_version": "the version of its records",
                "snapshot": "the snapshot: records and bytes",
                "since": "what was written since: records and bytes",
                "next": "the number of the next record",
                "compaction_due": "whether a runtime would compact it",
                "records": "type of record -> how many",
                "sessions": "sessions that can be resumed",
                "jobs": "status -> how many jobs",
                "credentials": "credentials that are not known to be revoked",
                "error": ERROR,
            }
        ),
        "journal verify": Printed(
            {"journal": "the path of the journal", "records": "the records that it holds", "error": ERROR}
        ),
        "journal compact": Printed(
            {
                "journal": "the path of the journal",
                "records_before": "the records that it held",
                "records": "the records of the snapshot",
                "bytes_before": "the size of its file before",
                "bytes": "the size of its file now",
                "error": ERROR,
            }
        ),
        "journal repair": Printed(
            {
                "journal": "the path of the journal",
                "records": "the records that it holds",
                "lost": "a description of the loss; empty if there was none",
                "copy": "the file that holds the damaged journal; empty if it was not damaged",
                "error": ERROR,
            }
        ),
        "store init": Printed(
            {"store": "the store, without its password", "shards": "how many it has", "error": ERROR}
        ),
        "store upgrade": Printed(
            {
                "store": "the store, without its password",
                "before": "the version of its tables before",
                "after": "the version now",
                "error": ERROR,
            }
        ),
    }
)
"""Command, or command and option -> what it prints with `--json`. A test compares it with the output."""
