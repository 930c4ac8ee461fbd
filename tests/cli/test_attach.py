"""`arcp-io attach`, `cancel` and `jobs` after a `submit` that was left or killed: processes, real sockets."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.io.processes import Served, arcp_io, await_file

LOOPS = ("asyncio", "trio")


@pytest.fixture(params=LOOPS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, "--loop", request.param)
    yield served
    assert served.stop() == 0


def submit_and_leave(served: Served, agent: str, *words: str) -> tuple[str, str]:
    """Submit a job and press Ctrl-C once; returns its id, and what was shown."""
    with served.submitting(agent, *words) as submitting:
        await_file(served.directory / ("halfway" if agent == "count" else "waiting"))
        shown = submitting.read_until("number 50" if agent == "count" else "waiting")
        submitting.send_signal(signal.SIGINT)
        _, rest = submitting.communicate()
    assert submitting.returncode == 130
    found = re.search(r"Job (\S+) continues", rest)
    assert found is not None
    assert f"left job {found[1]} as it is" in rest
    return found[1], shown + rest


def numbers(shown: str) -> list[int]:
    return [int(number) for number in re.findall(r"number (\d+)", shown)]


def test_a_job_that_was_left_goes_on_where_it_was_left(served: Served) -> None:
    job_id, first = submit_and_leave(served, "count", "--input", "100")
    (kept,) = served.state.glob("*.session")
    assert (kept.stat().st_mode & 0o777, served.state.stat().st_mode & 0o777) == (0o600, 0o700)
    (served.directory / "go_on").touch()
    done = served.run("attach", job_id)
    assert (done.returncode, done.stdout) == (0, "100\n")
    assert numbers(first) + numbers(done.stderr) == list(range(100))
    assert list(served.state.glob("*.session")) == []


def test_another_principal_takes_no_stored_session(served: Served) -> None:
    job_id, first = submit_and_leave(served, "count", "--input", "100")
    (kept,) = served.state.glob("*.session")
    before = kept.read_bytes()
    refused = served.run("attach", job_id, "--json", token="b0b")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (1, "JOB_NOT_FOUND")
    assert kept.read_bytes() == before
    (served.directory / "go_on").touch()
    done = served.run("attach", job_id)
    assert (done.returncode, numbers(first) + numbers(done.stderr)) == (0, list(range(100)))


def test_a_job_whose_client_was_killed_is_followed(served: Served) -> None:
    with served.submitting("count", "--input", "100", "--json") as submitting:
        await_file(served.directory / "halfway")
        submitting.kill()
    (job,) = listed(served, "--status", "running")
    (served.directory / "go_on").touch()
    done = served.run("attach", job["job_id"], "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (said["job_id"], said["final_status"], said["result"]) == (job["job_id"], "success", 100)
    assert said["events"] <= 101


def test_a_job_that_another_process_follows_is_observed(served: Served) -> None:
    with served.submitting("count", "--input", "100") as submitting:
        await_file(served.directory / "halfway")
        (job,) = listed(served)
        with served.running("attach", job["job_id"]) as attached:
            first = attached.read_until("number 50")
            (served.directory / "go_on").touch()
            out, rest = attached.communicate()
        _, shown = submitting.communicate()
    assert (submitting.returncode, attached.returncode, out) == (0, 0, "100\n")
    assert numbers(first + rest) == numbers(shown) == list(range(100))


def test_a_job_that_was_left_is_cancelled(served: Served) -> None:
    job_id, _ = submit_and_leave(served, "wait")
    done = served.run("cancel", job_id)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"job {job_id} cancelled\n", "")
    assert list(served.state.glob("*.session")) == []
    assert [job["status"] for job in listed(served)] == ["cancelled"]


def test_a_job_that_has_ended_is_not_cancelled_and_the_exit_code_says_how(served: Served) -> None:
    for agent, status, code in (("echo", "success", 0), ("broken", "error", 1)):
        assert served.submit(agent).returncode == code
        (job_id, *_) = (job["job_id"] for job in listed(served))
        done = served.run("cancel", job_id, "--url", served.url)
        assert (done.returncode, done.stdout, done.stderr) == (code, f"job {job_id} {status}\n", "")
        told = json.loads(served.run("cancel", job_id, "--url", served.url, "--json").stdout)
        assert (told["final_status"], "error" in told) == (status, code == 1)


def test_a_job_of_another_session_is_not_cancelled(served: Served) -> None:
    with served.submitting("wait", "--no-store") as submitting:
        submitting.read_until("waiting")
        (job,) = listed(served)
        done = served.run("cancel", job["job_id"], "--url", served.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("not cancelled: PERMISSION_DENIED")
        assert "press Ctrl-C twice in the terminal that submitted the job" in done.stderr
        assert "server.cancel(job_id)" in done.stderr
        submitting.kill()
    assert list(served.state.glob("*.session")) == []


def test_sessions_with_unfinished_jobs_are_kept_apart(served: Served) -> None:
    first, _ = submit_and_leave(served, "wait")
    (served.directory / "waiting").unlink()
    second, _ = submit_and_leave(served, "wait")
    assert len(list(served.state.glob("*.session"))) == 2
    assert served.submit("echo").returncode == 0
    assert len(list(served.state.glob("*.session"))) == 2
    for job_id in (first, second):
        assert served.run("cancel", job_id).returncode == 0
    assert list(served.state.glob("*.session")) == []


def test_a_file_of_ones_own(served: Served, tmp_path: Path) -> None:
    path = str(tmp_path / "mine")
    job_id, _ = submit_and_leave(served, "wait", "--store", path)
    refused = served.submit("echo", "--store", path)
    assert refused.returncode == 2
    assert f"holds the session of job {job_id}" in refused.stderr
    assert served.run("cancel", job_id, "--store", path).returncode == 2
    assert served.run("cancel", job_id, "--store", path, "--url", served.url).returncode == 0
    assert served.submit("echo", "--store", path).returncode == 0


def test_jobs_are_listed(served: Served) -> None:
    for _ in range(3):
        assert served.submit("echo").returncode == 0
    assert served.submit("broken").returncode == 1
    assert [job["status"] for job in listed(served)] == ["error", "success", "success", "success"]
    assert [job["agent"] for job in listed(served, "--agent", "broken")] == ["broken"]
    assert listed(served, "--before", "1h") == []
    assert len(listed(served, "--after", "1h", "--status", "success", "--status", "error")) == 4
    done = served.run("jobs", served.url, "--limit", "2", "--json")
    said = json.loads(done.stdout)
    assert (len(said["jobs"]), said["more"], done.returncode) == (2, True, 0)
    shown = served.run("jobs", served.url, "--limit", "2", COLUMNS="200")
    assert [line.split()[1:3] for line in shown.stdout.splitlines() if "job_" in line] == [
        ["broken", "error"],
        ["echo@1.0.0", "success"],
    ]
    assert "There are more: --limit." in shown.stderr


def test_an_unknown_job_and_a_wrong_token_are_errors(served: Served) -> None:
    done = served.run("attach", "job_nothing", "--url", served.url, "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (1, "JOB_NOT_FOUND")
    done = served.run("jobs", served.url, token="wr0ng")
    assert done.returncode == 9
    assert done.stderr.startswith("failed: UNAUTHENTICATED")
    unknown = arcp_io("attach", "job_1", cwd=served.directory)
    assert unknown.returncode == 2


def listed(served: Served, *words: str) -> list[dict[str, Any]]:
    done = served.run("jobs", served.url, "--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    jobs: list[dict[str, Any]] = json.loads(done.stdout)["jobs"]
    return jobs
