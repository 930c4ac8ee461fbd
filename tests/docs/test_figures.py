"""Figures that the guides and explanations state are those of the code."""

from __future__ import annotations

from typing import Final

import pytest

from arcp_io.agents import running_job
from arcp_io.app import App
from arcp_io.cli import session_files
from arcp_io.client import connect
from arcp_io.drivers import journal_writer, pump
from arcp_io.drivers.clock import Clock
from arcp_io.journal import protocol as journal
from arcp_io.server import audit_log
from arcp_proto import limits as fixed
from arcp_proto.client import acks, followed_job
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import MILLISECOND
from arcp_proto.limits import KIB, MIB, Limits
from arcp_proto.server.credentials import revocation
from arcp_proto.server.jobs import back_pressure
from arcp_proto.server.sessions.session import MOST_TOKENS
from tests.docs import pages

LIMITS: Final = Limits()
APP: Final = App(name="a", version="1", tokens={})
WORDS: Final = {2: "two", 4: "four", 5: "five", 15: "fifteen"}

STATED: Final = [
    ("explanation/endings.md", f"(`Limits.stop_grace_sec`, {LIMITS.stop_grace_sec} seconds)"),
    (
        "explanation/endings.md",
        f"at most {LIMITS.revocation_timeout_sec} seconds (`Limits.revocation_timeout_sec`)",
    ),
    ("explanation/endings.md", f"growing pauses up to {LIMITS.max_revocation_pause_sec // 60} minutes"),
    ("explanation/endings.md", f"After {WORDS[revocation.TELLS]} failures"),
    ("explanation/lifetimes.md", f"Nothing within {LIMITS.hello_timeout_sec} seconds"),
    ("explanation/lifetimes.md", f"at most {WORDS[MOST_TOKENS]}."),
    ("explanation/lifetimes.md", f"`Limits.retention_sec`, {LIMITS.retention_sec} seconds by default"),
    ("explanation/numbers.md", f"at most every {acks.ACK_INTERVAL // MILLISECOND} ms"),
    (
        "explanation/numbers.md",
        f"({LIMITS.max_history_events:,} events, {LIMITS.max_history_bytes // MIB} MiB)",
    ),
    (
        "explanation/numbers.md",
        f"{LIMITS.gap_timeout_sec} second, {LIMITS.max_gap_events} envelopes"
        f" or {LIMITS.max_gap_bytes // MIB} MiB",
    ),
    ("explanation/numbers.md", f"one of the last {followed_job.RECENT} that it has"),
    (
        "explanation/durability.md",
        f"than {journal.LEAST_RECORDS:,} records and {WORDS[journal.GROWTH]} times",
    ),
    (
        "explanation/durability.md",
        f"or than {journal.LEAST_BYTES // MIB} MiB and {WORDS[journal.GROWTH]} times",
    ),
    (
        "explanation/durability.md",
        f"When {journal_writer.AGENTS_WAIT // MIB} MiB of records wait for the disk",
    ),
    ("explanation/durability.md", f"They go on at {journal_writer.AGENTS_GO_ON // MIB} MiB"),
    ("explanation/pump.md", f"at most {LIMITS.max_pull_envelopes} envelopes"),
    ("explanation/pump.md", f"that reaches {LIMITS.max_pull_bytes // KIB} KiB"),
    ("explanation/pump.md", f"at most {pump.LONGEST_COALESCING // MILLISECOND} ms: sending gets a quarter"),
    (
        "explanation/pump.md",
        f"{pump.BYTES_HELD // pump.EVENT_SIZE} events, or {pump.BYTES_HELD // KIB} KiB, wait",
    ),
    ("explanation/pump.md", f"to others after {running_job.BYTES_BETWEEN_TURNS // KIB} KiB or a millisecond"),
    ("explanation/pump.md", f"({LIMITS.max_unprocessed_bytes // MIB} MiB, `Limits.max_unprocessed_bytes`)"),
    ("guides/reconnecting.md", f"`App(resume_window={APP.resume_window})`"),
    ("guides/reconnecting.md", f"`connect(..., give_up={connect.GIVE_UP})`"),
    ("guides/agents.md", f"`App(max_threads={APP.max_threads})`"),
    (
        "guides/failing.md",
        f"than {LIMITS.max_returned_value_bytes // MIB} MiB (`Limits(max_returned_value_bytes=...)`",
    ),
    ("guides/failing.md", f"the {WORDS[len(ErrorCode)]} codes of the draft"),
    ("guides/results.md", f"at most {LIMITS.max_result_bytes // MIB} MiB of it"),
    ("guides/audit.md", f"{audit_log.EACH:,} facts a minute"),
    ("guides/audit.md", f"{audit_log.SIZE // MIB} MiB by default"),
    (
        "guides/delegation.md",
        f"{LIMITS.max_delegation_depth} deep, {LIMITS.max_job_children} children of a job",
    ),
    ("guides/delegation.md", f"{LIMITS.max_job_descendants} in a tree"),
    ("guides/idempotency.md", f"1 to {fixed.MAX_IDEMPOTENCY_KEY_LENGTH} characters"),
    ("guides/idempotency.md", f"for {LIMITS.idempotency_retention_sec // 3600} hours after"),
    (
        "guides/leases.md",
        f"at most {fixed.MAX_NAMESPACES} namespaces, each with at most {fixed.MAX_PATTERNS} patterns",
    ),
    (
        "guides/leases.md",
        f"of {fixed.MAX_PATTERN_BYTES} bytes, and {fixed.MAX_LEASE_BYTES // KIB} KiB in all",
    ),
    ("guides/leases.md", f"A target has at most {fixed.MAX_TARGET_BYTES // KIB} KiB"),
    ("guides/limits.md", f"larger than {LIMITS.max_envelope_bytes // KIB} KiB, except over WebSocket"),
    ("guides/limits.md", f"at most {fixed.MAX_CONTAINERS:,} objects and lists"),
    ("guides/isolation.md", f"(`Limits.stop_grace_sec`, {LIMITS.stop_grace_sec} seconds)"),
    ("guides/observing.md", f"`Limits.retention_sec`, {LIMITS.retention_sec} seconds by default"),
    ("guides/security.md", f"After {LIMITS.max_failed_authentications} nothing from there"),
    ("guides/credentials.md", f"waits {WORDS[LIMITS.revocation_timeout_sec]} seconds for that"),
]
"""Pages, and what they say by constants of the code."""


@pytest.mark.parametrize(("page", "text"), STATED)
def test_a_page_states_the_figures_of_the_code(page: str, text: str) -> None:
    assert text in " ".join((pages.DOCS / page).read_text().split())


def test_shares_and_other_constants_that_pages_state_in_words() -> None:
    assert back_pressure.SHARE == 4, "a quarter: durability, reconnecting"
    assert LIMITS.back_pressure_events == LIMITS.max_session_events // 2, "half of its log: pump"
    assert Clock.coalescing == MILLISECOND, "once in a millisecond: pump"
    assert pump.TIMES_AS_LONG == 3, "three times as long as sending took: pump"
    assert revocation.DOUBT == 60, "once more a minute later: credentials, durability"
    assert session_files.GRACE == 30 * 60, "half an hour: command-line"
