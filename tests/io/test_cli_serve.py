"""`arcp-io serve`: what it says of an App that it cannot serve, and what it logs while it serves one."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import trustme

from tests.io.processes import Served, arcp_io

LOOPS = ("asyncio", "trio")
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "


def serve(directory: Path, *words: str, source: str = "", target: str = "lab:app") -> tuple[int, str]:
    """Serve a module that cannot be served; returns the exit code and what was said."""
    if source:
        (directory / "lab.py").write_text(source)
    done = arcp_io("serve", target, "--port", "0", *words, cwd=directory)
    assert done.stdout == ""
    assert "typer" not in done.stderr and "importlib" not in done.stderr
    return done.returncode, done.stderr


APP = "from arcp_io import App\napp = App('lab', '1', anonymous=True)\n"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (
            APP + "def f(:\n    pass\n",
            [
                '  File "{lab}", line 3',
                "    def f(:",
                "          ^",
                "SyntaxError: invalid syntax",
                "cannot import lab: invalid syntax ({lab}, line 3)",
            ],
        ),
        (
            "import no_such_library\n",
            [
                "Traceback (most recent call last):",
                '  File "{lab}", line 1, in <module>',
                "    import no_such_library",
                "ModuleNotFoundError: No module named 'no_such_library'",
                "cannot import lab: ModuleNotFoundError: No module named 'no_such_library'",
            ],
        ),
        (
            APP + "def wrong(job): pass\napp.agent('wrong')(wrong)\n",
            [
                "Traceback (most recent call last):",
                '  File "{lab}", line 4, in <module>',
                "    app.agent('wrong')(wrong)",
                "TypeError: wrong: an agent is called with (job, input)",
                "cannot import lab: TypeError: wrong: an agent is called with (job, input)",
            ],
        ),
        (
            "def f():\n    raise SystemExit(0)\nf()\n",
            [
                "Traceback (most recent call last):",
                '  File "{lab}", line 3, in <module>',
                "    f()",
                '  File "{lab}", line 2, in f',
                "    raise SystemExit(0)",
                "SystemExit: 0",
                "cannot import lab: SystemExit: 0",
            ],
        ),
    ],
)
def test_a_module_that_fails_is_told_by_its_own_frames(source: str, lines: list[str], tmp_path: Path) -> None:
    code, said = serve(tmp_path, source=source)
    marks = re.compile(r" *[~^]{2,}")  # Some releases of Python mark a part of the line.
    found = [line for line in said.splitlines() if not marks.fullmatch(line)]
    assert (code, found) == (2, [line.format(lab=tmp_path / "lab.py") for line in lines])


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("lab.py:app", "'lab.py' is a file, not the name of a module: did you mean lab:app?"),
        ("./lab.py:app", "'./lab.py' is a file, not the name of a module: did you mean lab:app?"),
        ("src/lab.py:app", "did you mean lab:app, from the directory src?"),
        ("lab:application", "application in lab is not an App; lab has the App app: give lab:app"),
        ("labs:app", "there is no module labs in {cwd} or on the Python path"),
    ],
)
def test_a_name_that_leads_to_no_app(target: str, complaint: str, tmp_path: Path) -> None:
    code, said = serve(tmp_path, source=APP, target=target)
    assert code == 2
    assert complaint.format(cwd=tmp_path) in said


def test_files_that_are_not_there_are_named(tmp_path: Path, authority: trustme.CA) -> None:
    certificate = authority.issue_cert("localhost")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(tmp_path / "chain.pem"), append=number > 0)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "lab.py").write_text(APP)
    for words, code, complaint in [
        (["--certfile", "nope.pem"], 1, "cannot serve: No such file or directory: nope.pem"),
        (
            ["--certfile", "chain.pem", "--keyfile", "no.key"],
            1,
            "cannot serve: No such file or directory: no.key",
        ),
        (
            ["--certfile", "chain.pem"],
            2,
            "cannot serve: chain.pem is not a PEM file with a certificate chain and",
        ),
        (
            ["--certfile", "chain.pem", "--keyfile", "notes.txt"],
            2,
            "cannot serve: chain.pem and notes.txt are not PEM files with a certificate chain and its key",
        ),
        (["--audit", "no/audit"], 1, "cannot serve: No such file or directory: no/audit"),
        (["--audit", "notes.txt"], 1, "the file does not hold audit facts: move it away: notes.txt"),
        (["--journal", "notes.txt"], 1, "notes.txt is not a journal"),
        (
            ["--host", "192.0.2.1", "--allow-plain"],
            1,
            "cannot serve: 192.0.2.1:0 is not an address of this machine",
        ),
    ]:
        assert serve(tmp_path, *words)[0] == code
        assert complaint in serve(tmp_path, *words)[1]


@pytest.mark.parametrize("loop", LOOPS)
def test_sessions_and_jobs_are_a_line_each(tmp_path: Path, loop: str) -> None:
    served = Served(tmp_path, "--loop", loop, log=True)
    assert served.submit("echo").returncode == 0
    assert served.submit("broken").returncode == 1
    served.process.send_signal(signal.SIGTERM)
    said = served.process.read_to_end()
    said = re.sub(r"(sess|job)_[0-9A-Z]{26}", r"\1_X", re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", said))
    lines = said.splitlines()
    assert [re.sub(f"^{STAMP}", "", line) for line in lines if re.match(STAMP + "INFO", line)] == [
        "INFO session sess_X of alice opened from 127.0.0.1:1",
        "INFO job job_X of alice started: echo@1.0.0",
        "INFO job job_X of alice ended: echo@1.0.0 success",
        "INFO session sess_X of alice detached, for 600 s at most",
        "INFO session sess_X of alice opened from 127.0.0.1:1",
        "INFO job job_X of alice started: broken",
        "INFO job job_X of alice ended: broken error INTERNAL_ERROR",
        "INFO session sess_X of alice detached, for 600 s at most",
        "INFO shutting down",
    ]


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGINT, "Ctrl-C again"), (signal.SIGTERM, "a second signal")]
)
def test_a_drain_says_what_it_waits_for(tmp_path: Path, number: signal.Signals, again: str) -> None:
    served = Served(tmp_path, "--drain", "30", log=True)
    with served.submitting("wait") as first, served.submitting("wait") as second:
        for submitting in (first, second):
            submitting.read_until("waiting")
        served.process.send_signal(number)
        assert f"INFO waiting for 2 jobs, at most 30 s; {again} stops them" in served.process.read_until(
            "waiting for"
        )
        served.process.send_signal(number)
        assert "INFO stopping 2 jobs" in served.process.read_to_end()
        for submitting in (first, second):
            submitting.communicate()
    assert served.process.returncode == 0


@pytest.mark.parametrize("words", [["--quiet"], ["--log-level", "warning"]])
def test_a_quiet_server_says_its_address_and_what_is_wrong(tmp_path: Path, words: list[str]) -> None:
    served = Served(tmp_path, *words, log=True)
    assert served.submit("broken").returncode == 1
    served.process.send_signal(signal.SIGTERM)
    said = served.process.read_to_end()
    assert "INFO" not in said
    assert re.search(STAMP + "ERROR .*the agent failed", said)


def test_logging_of_the_app_is_left_as_it_is(tmp_path: Path) -> None:
    agents = "import logging\nlogging.basicConfig(format='mine: %(message)s')\n" + APP
    served = Served(tmp_path, log=True, agents=agents)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.read_to_end().splitlines() == ["mine: shutting down"]
