"""The errors that callers receive when their session, its connection or a job is lost."""

from __future__ import annotations

import anyio
import pytest

from arcp_io.client.pending import Answer, job_loss_of, loss_of, refusal_of
from arcp_io.errors import ConnectionLost, HeartbeatLost, LocalProtocolError
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import ConnectionEnded, JobLost, RequestRefused
from arcp_proto.ids import JobId, RequestId


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
def test_connection_lost_names_the_side_that_ended_it(
    who: str, code: str, reason: str, kind: type[ConnectionLost], message: str
) -> None:
    connection = Client(ClientConfig(), seed=bytes(32), now=0, unix=0).connect(None, now=0)
    error = loss_of(ConnectionEnded(connection, who, code, reason))
    assert (type(error), error.message) == (kind, message)


def test_a_request_that_cannot_be_sent_raises_the_error_of_sending() -> None:
    error = refusal_of(RequestRefused(RequestId("r"), "NOT_NEGOTIATED", "why", False, None, {}))
    assert type(error) is LocalProtocolError
    assert str(error) == "why"


def test_every_caller_gets_an_error_of_its_own() -> None:
    answer = Answer()
    error = LocalProtocolError("why")
    answer.refuse(error)
    with pytest.raises(LocalProtocolError, match="why") as raised:
        anyio.run(answer.wait)
    assert raised.value is not error


HIDDEN = (
    "the runtime no longer shows it to this session: it has forgotten the job, or the right to observe"
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
def test_job_lost_names_job_and_reason(code: str, message: str, reason: str) -> None:
    error = job_loss_of(JobLost(JobId("job_1"), code, message))
    assert error.message == f"job job_1 cannot be followed any further: {reason}"
    assert (error.job_id, error.details) == ("job_1", {"code": code})
