"""What callers of a session get when it, its connection or one of its jobs is lost."""

from __future__ import annotations

import pytest

from arcp_io.client_answers import job_loss_of, loss_of
from arcp_io.errors import ConnectionLost, HeartbeatLost
from arcp_proto.client import Client, ClientConfig
from arcp_proto.ids import JobId
from arcp_proto.output import ConnectionEnded, JobLost


@pytest.mark.parametrize(
    ("who", "code", "reason", "kind", "message"),
    [
        (
            "local",
            "",
            "no welcome in time",
            ConnectionLost,
            "the connection was given up: no welcome in time",
        ),
        ("peer", "X", "too much", ConnectionLost, "the connection was ended by the runtime: too much"),
        ("transport", "", "reset", ConnectionLost, "the connection was cut: reset"),
        ("transport", "", "", ConnectionLost, "the connection was cut"),
        ("local", "HEARTBEAT_LOST", "", HeartbeatLost, "the connection was given up: HEARTBEAT_LOST"),
    ],
)
def test_a_lost_connection_says_who_ended_it(
    who: str, code: str, reason: str, kind: type[ConnectionLost], message: str
) -> None:
    connection = Client(ClientConfig(), seed=bytes(32), now=0, unix=0).connect(None, now=0)
    error = loss_of(ConnectionEnded(connection, who, code, reason))
    assert (type(error), error.message) == (kind, message)


HIDDEN = (
    "the runtime does not show it to this session any more: it has forgotten the job, or the right to observe"
    " it was withdrawn ({})"
)


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        ("JOB_NOT_FOUND", "no such job", HIDDEN.format("JOB_NOT_FOUND: no such job")),
        ("PERMISSION_DENIED", "list only", HIDDEN.format("PERMISSION_DENIED: list only")),
        ("RESUME_WINDOW_EXPIRED", "its session is lost: gone", "its session is lost: gone"),
        ("CONNECTION_LOST", "", "CONNECTION_LOST"),
    ],
)
def test_a_lost_job_says_which_and_why(code: str, message: str, reason: str) -> None:
    error = job_loss_of(JobLost(JobId("job_1"), code, message))
    assert error.message == f"job job_1 cannot be followed any further: {reason}"
    assert (error.job_id, error.details) == ("job_1", {"code": code})
