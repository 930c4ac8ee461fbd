"""The exit codes and the words of errors, and the secrets that they and listings leave out."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from arcp_io.cli import jobs
from arcp_io.cli.error_text import TAKEN_OVER, failure_of, reason_of
from arcp_io.cli.exit_codes import Exit
from arcp_io.cli.job_request import Server
from arcp_io.client.pending import job_loss_of, session_loss_of
from arcp_io.errors import JobNotFound, Unauthenticated
from arcp_proto import JobEntry, JobLost, LocalProtocolError, SessionLost
from arcp_proto.client import commands
from arcp_proto.client.backoff import Reconnecting
from arcp_proto.ids import JobId, Monotonic, SessionId
from arcp_proto.wire import messages, reading

SERVER = Server(url="ws://h/a?b=1&c", token="s3cret", token_from="--token")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('::1', 9)"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "wrong version"), "wrong version"),
        (ConnectionError("the path is wrong"), "the path is wrong"),
        (OSError(), "OSError"),
        (JobNotFound("no such job"), "JOB_NOT_FOUND no such job"),
        (ValueError("other"), "other"),
    ],
)
def test_the_reason_is_in_the_words_of_the_system(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


@pytest.mark.parametrize("several", [True, False])
def test_the_reasons_of_several_attempts_are_told_once(several: bool) -> None:
    attempts = [
        OSError(errno.ECONNREFUSED, "a"),
        OSError(errno.ECONNREFUSED, "b"),
        OSError(errno.EHOSTUNREACH, "c"),
    ]
    try:
        raise OSError("all attempts failed") from (
            ExceptionGroup("attempts", attempts) if several else attempts[0]
        )
    except OSError as error:
        expected = "Connection refused, No route to host" if several else "Connection refused"
        assert reason_of(error) == expected


def test_an_unreachable_runtime_is_a_case_for_the_doctor() -> None:
    code, told = failure_of(OSError(errno.ECONNREFUSED, "x"), SERVER)
    assert code is Exit.CONNECTION
    assert told["message"] == (
        "cannot reach ws://h/a?b=1&c: Connection refused; to check each step: arcp-io doctor 'ws://h/a?b=1&c'"
    )
    ending = Server(url="ws://h", token=None, ends_with_us=True)
    assert "doctor" not in failure_of(OSError(errno.ECONNREFUSED, "x"), ending)[1]["message"]


def test_the_password_of_an_address_is_not_shown() -> None:
    server = Server(url="wss://me:s3cret@h/a?b=1", token=None)
    told = failure_of(OSError(errno.ECONNREFUSED, "x"), server)[1]["message"]
    assert told == (
        "cannot reach wss://(not shown)@h/a?b=1: Connection refused; to check each step: arcp-io doctor URL"
    )


def test_a_refused_token_names_its_origin_and_not_itself() -> None:
    code, told = failure_of(Unauthenticated("no"), SERVER)
    assert (code, told["message"]) == (
        Exit.UNAUTHENTICATED,
        "no: the runtime does not accept the token of --token",
    )


def test_a_token_that_ends_in_the_middle_of_a_job_names_the_remedy() -> None:
    server = Server(url="ws://h", token="s3cret", token_from="--token-file", attach_options="ws://h")
    event = JobLost(JobId("job_1"), "UNAUTHENTICATED", "its session is lost: the token is not valid")
    code, told = failure_of(job_loss_of(event), server)
    assert (code, "s3cret" in told["message"]) == (Exit.UNAUTHENTICATED, False)
    assert told["message"] == (
        "job job_1 cannot be followed any further: its session is lost: the token is not valid: the token of"
        " --token-file has expired or was revoked: give another one; then follow the job again: arcp-io"
        " attach job_1 ws://h"
    )
    lost = session_loss_of(
        SessionLost(SessionId("sess_1"), "UNAUTHENTICATED", "the token is not valid", True)
    )
    code, told = failure_of(lost, server)
    assert code is Exit.UNAUTHENTICATED
    assert told["message"].endswith("has expired or was revoked: give another one")


def test_a_session_that_another_client_takes_over_is_not_about_the_token() -> None:
    backoff = Reconnecting(1, 1)
    for _ in range(2):
        backoff.superseded(Monotonic(0), lambda: 0.0)
    lost = session_loss_of(SessionLost(SessionId("sess_1"), backoff.code, backoff.reason, True))
    code, told = failure_of(lost, SERVER)
    assert (code, told["message"]) == (Exit.CONNECTION, f"the session is lost: {TAKEN_OVER}")


@pytest.mark.parametrize("request_type", [reading.Describe, reading.ReadEvents])
def test_a_runtime_of_another_make_leads_to_other_commands(request_type: type) -> None:
    feature = commands.NEEDS[request_type]
    code, told = failure_of(LocalProtocolError(f"the runtime does not offer {feature}"), SERVER)
    assert (code, told["code"]) == (Exit.USAGE, "INVALID_REQUEST")
    assert "'arcp-io attach JOB' follows a job, and 'arcp-io jobs' lists them" in told["message"]
    _, told = failure_of(LocalProtocolError("the runtime does not offer list_jobs"), SERVER)
    assert told["message"] == "the runtime does not offer list_jobs"


def test_the_value_of_a_credential_is_not_listed() -> None:
    credential = messages.Credential("c1", "bearer", "s3cret", "https://gateway.example")
    entry = JobEntry("job_1", "echo", "running", {}, "t", "t", 0, credentials=[credential])
    told = jobs._record(entry)
    assert told["credentials"] == [{"id": "c1", "scheme": "bearer", "endpoint": "https://gateway.example"}]
    assert "s3cret" not in str(told)
