"""The commands that look at a runtime: in a pipe and in a terminal, on both loops, and their failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arcp_io.cli import main, session_files
from arcp_io.cli.access import Access
from arcp_io.cli.cancel import _looked_at
from arcp_io.cli.exit_codes import Exit
from arcp_io.cli.job_request import Ending, Server
from arcp_io.cli.json_fields import FIELDS
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.ids import JobId, SessionId
from arcp_proto.secret import Secret
from tests.io.processes import AGENTS, COMMAND, Served, arcp_io, await_file
from tests.io.terminals import Terminal

LOOPS = ("asyncio", "trio")
JOB = r"job_[0-9A-Z]{26}"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

MORE_AGENTS = (
    AGENTS.replace(
        "App(name", "App(limits=Limits(max_history_events=50, max_failed_authentications=1000), name"
    ).replace("import App\n", "import App, Limits\n")
    + """
@app.agent("many")
async def many(job, input):
    for number in range(input):
        await job.log("info", f"number {number}")

@app.agent("rich")
async def rich(job, input):
    await job.progress(3, total=7, units="files", message="reading")
    await job.status("stage", "\\x1b[2Jtwo")
    await job.metric("tokens", 5, unit="count")
    return "x" * 100

@app.agent("alone")
async def alone(job, input):
    await anyio.sleep_forever()
"""
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"), agents=MORE_AGENTS)
    yield served
    assert served.stop() == 0


def at(served: Served, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a client with ARCP_URL."""
    return served.run(*words, **{"ARCP_URL": served.url, **more})


def finished(served: Served, agent: str, input: str = "null") -> str:
    """Return the id of a job that has ended."""
    done = at(served, "submit", agent, "--input", input, "--json")
    job_id: str = json.loads(done.stdout)["job_id"]
    return job_id


def records(command: str, text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of an output, which hold documented fields alone."""
    lines = text.splitlines()
    assert len(lines) == 1 or FIELDS[command].lines
    found = [json.loads(line) for line in lines]
    for one in found:
        assert set(one) <= set(FIELDS[command].fields)
    return found


def plain(shown: str) -> str:
    return ESCAPE.sub("", shown).replace("\r", "")


# Answers.


@pytest.mark.parametrize("loop", LOOPS)
def test_a_job_is_described(served: Served, loop: str) -> None:
    job_id = finished(served, "rich")
    done = at(served, "describe", job_id, "--loop", loop)
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert (rows["job"], rows["agent"], rows["status"], rows["events"]) == (job_id, "rich", "success", "4")
    assert rows["progress"] == "3 of 7 files reading"
    assert rows["result"].startswith("102 bytes")
    [told] = records("describe", at(served, "describe", job_id, "--json", "--loop", loop).stdout)
    assert (told["status"], told["attempt"], told["agent_runs"]) == ("success", 1, False)
    assert told["end"]["final_status"] == "success"


@pytest.mark.parametrize("loop", LOOPS)
def test_events_are_read_a_line_each(served: Served, loop: str) -> None:
    job_id = finished(served, "rich")
    done = at(served, "events", job_id, "--loop", loop)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(None, 2)[0] for line in done.stdout.splitlines()] == ["1", "2", "3", "4"]
    told = [line.split(None, 2)[2] for line in done.stdout.splitlines()]
    assert told[0].split() == ["progress", "3", "of", "7", "files", "reading"]
    assert (told[1].split(), told[3].split()[:2]) == (["status", "stage", "two"], ["end", "success"])
    found = records("events", at(served, "events", job_id, "--json", "--loop", loop).stdout)
    assert [one["job_seq"] for one in found] == [1, 2, 3, 4]
    assert [one["kind"] for one in found] == ["progress", "status", "metric", "end"]
    assert found[-1]["body"]["final_status"] == "success"
    some = at(served, "events", job_id, "--kind", "metric", "--from", "2", "--json", "--loop", loop)
    assert [one["kind"] for one in records("events", some.stdout)] == ["metric", "end"]


@pytest.mark.parametrize("loop", LOOPS)
def test_events_are_followed_as_they_come(served: Served, loop: str) -> None:
    for name in ("go_on", "halfway"):
        (served.directory / name).unlink(missing_ok=True)
    done = at(served, "submit", "count", "--input", "10", "--detach")
    job_id = done.stdout.strip()
    await_file(served.directory / "halfway")
    with served.running(
        "events", job_id, "--url", served.url, "--follow", "--json", "--loop", loop
    ) as following:
        first = [json.loads(following.stdout.readline()) for _ in range(6)]
        (served.directory / "go_on").touch()
        rest, err = following.communicate()
    found = [*first, *records("events", rest)]
    assert (following.returncode, err) == (0, "")
    assert [one["job_seq"] for one in found] == list(range(1, 12))
    assert found[-1]["kind"] == "end"


def test_events_that_are_no_longer_kept_are_told(served: Served) -> None:
    job_id = finished(served, "many", "200")
    done = at(served, "events", job_id, "--json")
    found = records("events", done.stdout)
    assert done.returncode == 6
    assert done.stderr == f"Of job {job_id} events before number {found[0]['job_seq']} are no longer kept.\n"
    assert [one["job_seq"] for one in found] == list(range(found[0]["job_seq"], 202))
    assert at(served, "events", job_id, "--from", "180").returncode == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_agents_are_listed(served: Served, loop: str) -> None:
    done = at(served, "agents", "--loop", loop)
    assert (done.returncode, done.stderr) == (0, "")
    assert ["echo", "1.0.0*"] in [line.split() for line in done.stdout.splitlines()]
    [told] = records("agents", at(served, "agents", served.url, "--json", "--loop", loop).stdout)
    assert told["runtime"] == {"name": "example", "version": "0.1.0"}
    assert {"name": "echo", "versions": ["1.0.0"], "default": "1.0.0"} in told["agents"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_runtime_answers_a_ping(served: Served, loop: str) -> None:
    words = ("ping", "--count", "3", "--every", "0", "--loop", loop)
    done = at(served, *words)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in lines] == [
        *(["answer", str(number)] for number in (1, 2, 3)),
        ["3", "answers:"],
    ]
    found = records("ping", at(served, *words, "--json").stdout)
    assert [one["number"] for one in found] == [1, 2, 3]
    assert all(one["ms"] > 0 for one in found)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_job_is_left_at_once(served: Served, loop: str) -> None:
    done = at(served, "submit", "wait", "--detach", "--loop", loop)
    job_id = done.stdout.strip()
    assert done.returncode == 0
    assert re.fullmatch(JOB + "\n", done.stdout)
    assert done.stderr == f"left as it is, for: arcp-io attach {job_id}\n"
    [told] = records("submit", at(served, "submit", "wait", "--detach", "--json", "--loop", loop).stdout)
    assert told == {
        "job_id": told["job_id"],
        "detached": True,
        "attach": f"arcp-io attach {told['job_id']}",
    }
    for left in (job_id, told["job_id"]):
        done = at(served, "cancel", left, "--json", "--loop", loop)
        assert (done.returncode, records("cancel", done.stdout)[0]["final_status"]) == (0, "cancelled")


def test_many_jobs_that_are_left_at_once_share_a_session(tmp_path: Path) -> None:
    agents = AGENTS.replace("App(name", "App(limits=Limits(max_principal_sessions=36), name")
    served = Served(tmp_path, agents=agents.replace("import App\n", "import App, Limits\n"))
    jobs = [at(served, "submit", "wait", "--detach").stdout.strip() for _ in range(40)]
    assert len({*jobs} - {""}) == 40
    assert len(list(served.state.glob("*.session"))) == 33
    with served.running("attach", jobs[-1]) as attached:
        attached.read_until("waiting")
        for job_id in (jobs[0], *jobs[-3:]):
            done = served.run("cancel", job_id)
            assert (done.returncode, done.stdout, done.stderr) == (0, f"job {job_id} cancelled\n", "")
        _, err = attached.communicate()
    assert (attached.returncode, "cancelled" in err) == (3, True)
    assert served.stop() == 0


def test_a_job_is_left_at_a_runtime_that_has_forgotten_the_shared_session(tmp_path: Path) -> None:
    served = Served(tmp_path)
    assert at(served, "submit", "wait", "--detach").returncode == 0
    port = served.url.partition(":")[2].rpartition(":")[2].partition("/")[0]
    assert served.stop() == 0
    (again,) = (Served(tmp_path, "--port", port),)
    for _ in range(2):
        done = at(again, "submit", "wait", "--detach")
        assert (done.returncode, done.stderr.count("left as it is")) == (0, 1)
    assert again.stop() == 0


def test_a_shared_session_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(session_files, "MOST_ALONE", 0)
    monkeypatch.setattr(session_files, "MOST_SHARING", 2)
    for count in (1, 2, 1):
        with ExitStack() as stack:
            store = session_files.enter_shared(stack, "ws://one/arcp", None)
            assert store is not None and session_files.is_shared(store)
            jobs = [*session_files.unfinished(store), "job_new"]
            assert len(jobs) == count
            resumed = tuple(ResumedJob(JobId(job_id)) for job_id in jobs)
            store.save(Resumption(SessionId("sess_1"), Secret("rt_1"), 0, resumed, 600))
            with ExitStack() as other:  # Another process gets another session.
                second = session_files.enter_shared(other, "ws://one/arcp", None)
                assert second is not None and second.path != store.path


def test_the_cancel_of_a_job_whose_end_is_held_up_is_told_by_a_look(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(session_files, "MOST_ALONE", 0)
    for name, value in (("ARCP_URL", served.url), ("ARCP_TOKEN", "s3cret")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("arcp_io.cli.cancel.PATIENCE", 0.0)
    assert main(["submit", "wait", "--detach"]) == 0
    job_id = capsys.readouterr().out.strip()
    assert main(["cancel", job_id, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "NOT_ENDED"
    assert at(served, "describe", job_id, "--json").returncode == 0
    monkeypatch.setattr("arcp_io.cli.cancel.PATIENCE", 60.0)
    assert main(["cancel", job_id]) == 0
    monkeypatch.setattr("arcp_io.cli.cancel.PATIENCE", 0.0)
    ended = Ending(exit=Exit.CANCELLED, job_id=job_id, final_status="cancelled", stopped=True)
    assert _looked_at(Access(), Server(url=served.url, token="s3cret"), job_id, as_json=False) == ended


def test_a_job_that_was_left_at_once_is_attached(served: Served) -> None:
    job_id = at(served, "submit", "rich", "--detach").stdout.strip()
    done = at(served, "attach", job_id, "--json")
    assert (done.returncode, records("attach", done.stdout)[0]["result"]) == (0, "x" * 100)


@pytest.mark.parametrize("loop", LOOPS)
def test_jobs_are_watched(served: Served, loop: str) -> None:
    with served.running(
        *("jobs", served.url, "--watch", "--every", "0.1", "--agent", "wait", "--json", "--loop", loop)
    ) as watching:
        job_id = at(served, "submit", "wait", "--detach").stdout.strip()
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["status"] != "running" or seen[-1]["job_id"] != job_id:
            seen += records("jobs --watch", watching.stdout.readline())
        assert at(served, "cancel", job_id).returncode == 0
        while seen[-1]["status"] != "cancelled":
            seen += records("jobs --watch", watching.stdout.readline())
        assert (seen[-1]["job_id"], seen[-1]["code"]) == (job_id, "CANCELLED")
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate()
    assert (watching.returncode, err) == (130, "")


def test_a_list_of_jobs_is_one_object(served: Served) -> None:
    job_id = finished(served, "echo")
    [told] = records("jobs", at(served, "jobs", "--json", "--limit", "1").stdout)
    assert (told["jobs"][0]["job_id"], told["more"]) == (job_id, True)
    assert set(told["jobs"][0]) <= set(FIELDS["jobs --watch"].fields)


# Terminals.


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("columns", [80, 30])
def test_a_terminal_shows_the_same(served: Served, loop: str, columns: int) -> None:
    job_id = finished(served, "rich")
    for words, expected in (
        (("describe", job_id), "agent"),
        (("events", job_id), "stage two"),
        (("agents",), "echo"),
        (("ping", "--count", "1"), "answer 1 after"),
        (("config", "show"), "ARCP_URL"),
    ):
        terminal = Terminal(served, *words, "--loop", loop, columns=columns, ARCP_URL=served.url)
        shown = terminal.read()
        assert (terminal.process.returncode, "\x1b[2J" in shown) == (0, False)
        assert expected in plain(shown)


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_ends_a_command_that_goes_on(served: Served, loop: str) -> None:
    job_id = at(served, "submit", "wait", "--detach").stdout.strip()
    for words, expected in (
        (("events", job_id, "--follow"), "waiting"),
        (("jobs", "--watch"), job_id),
        (("ping", "--count", "1000"), "answer 1"),
    ):
        terminal = Terminal(served, *words, "--loop", loop, ARCP_URL=served.url)
        terminal.read_until(expected)
        terminal.press_ctrl_c()
        assert "Traceback" not in terminal.read()
        assert terminal.process.returncode == 130
    assert at(served, "describe", job_id, "--json").stdout.count('"running"') == 1
    assert at(served, "cancel", job_id).returncode == 0


def test_the_watched_list_of_a_terminal_changes_in_place(served: Served) -> None:
    terminal = Terminal(served, "jobs", "--watch", "--every", "0.1", "--agent", "alone", ARCP_URL=served.url)
    terminal.read_until("There are no such jobs.")
    job_id = at(served, "submit", "alone", "--detach").stdout.strip()
    shown = terminal.read_until("running")
    assert job_id in plain(shown)
    assert at(served, "cancel", job_id).returncode == 0
    assert job_id in plain(terminal.read_until("cancelled"))
    terminal.press_ctrl_c()
    terminal.read()
    assert terminal.process.returncode == 130


# Failures.


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "echo"),
        ("submit", "echo", "--detach"),
        ("attach", "job_1"),
        ("cancel", "job_1"),
        ("jobs",),
        ("jobs", "--watch"),
        ("describe", "job_1"),
        ("events", "job_1"),
        ("events", "job_1", "--follow"),
        ("agents",),
        ("ping",),
    ],
    ids=" ".join,
)
def test_no_connection_and_no_token_have_exit_codes_of_their_own(
    served: Served, words: tuple[str, ...]
) -> None:
    for loop in LOOPS:
        gone = at(served, *words, "--loop", loop, ARCP_URL="ws://127.0.0.1:9/arcp")
        assert (gone.returncode, gone.stdout) == (5, "")
        assert "cannot reach ws://127.0.0.1:9/arcp: " in gone.stderr
        refused = at(served, *words, "--loop", loop, token="wr0ng")
        assert (refused.returncode, refused.stdout) == (9, "")
        assert "the runtime does not accept the token of ARCP_TOKEN" in refused.stderr
    command = f"{words[0]} --watch" if "--watch" in words else words[0]
    [told] = records(command, at(served, *words, "--json", token="").stdout)
    assert told["error"]["code"] == "UNAUTHENTICATED"
    assert told["error"]["message"].endswith("give --token TOKEN or --token-file FILE")
    shown = Terminal(served, *words, ARCP_URL="ws://127.0.0.1:9/arcp", columns=200)
    assert "cannot reach ws://127.0.0.1:9/arcp" in plain(shown.read())
    assert shown.process.returncode == 5


@pytest.mark.parametrize("words", [("describe",), ("events",), ("events", "--follow"), ("attach",)])
def test_an_unknown_job_is_refused(served: Served, words: tuple[str, ...]) -> None:
    done = at(served, words[0], "job_unknown", *words[1:])
    assert (done.returncode, done.stdout) == (1, "")
    assert "JOB_NOT_FOUND" in done.stderr


@pytest.mark.parametrize(
    "words", [("events", "JOB"), ("jobs", "--watch"), ("ping", "--count", "2"), ("describe", "JOB")]
)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_reader_that_is_gone_ends_a_command_quietly(
    served: Served, words: tuple[str, ...], loop: str
) -> None:
    job_id = finished(served, "rich")
    reading, writing = os.pipe()
    os.close(reading)
    command = [job_id if word == "JOB" else word for word in words]
    with os.fdopen(writing, "wb") as gone:
        ended = subprocess.run(
            [*COMMAND, *command, "--loop", loop],
            stdout=gone,
            stderr=subprocess.PIPE,
            env=served._variables("s3cret", ARCP_URL=served.url),
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (8, b"")


def test_usage_errors_are_objects_with_json(tmp_path: Path) -> None:
    for words in (
        ("events", "job_1", "--from", "0"),
        ("ping", "ws://127.0.0.1:9/arcp", "--count", "0"),
        ("jobs", "ws://127.0.0.1:9/arcp", "--every", "soon"),
        ("submit", "ws://127.0.0.1:9/arcp", "a", "--detach", "--output", "x"),
    ):
        done = arcp_io(*words, "--json", cwd=tmp_path)
        assert done.returncode == 2
        assert json.loads(done.stdout)["error"]["code"] == "USAGE"
