"""`arcp-io serve --log-format json`: each line on stderr is an object of JSON, from the start to the end."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from arcp_io.cli.json_stderr import asks_for_json, json_stderr
from arcp_io.server.operator_log import tell
from tests.io.processes import AGENTS, Child, Served, arcp_io, environment

LOOPS = ("asyncio", "trio")
ALWAYS = {"time", "level", "logger", "message"}
"""The fields of each line."""
OF_NOTICES = {"what", "principal", "session_id", "peer", "job_id", "agent", "attempt", "resume_window_sec"}
"""Fields of lines about sessions and jobs."""
NOISY = """
import logging
import sys
import threading
import warnings

logging.basicConfig()
print("printed", file=sys.stderr)
warnings.warn("too old")
logging.getLogger("library").warning("a library warns")
thread = threading.Thread(target=lambda: 1 / 0, name="broken thread")
thread.start()
thread.join()
"""


def objects(said: str) -> list[dict[str, Any]]:
    """Return the lines of stderr as objects with the fields that each line has."""
    found = [json.loads(line) for line in said.splitlines()]
    assert all(set(line) >= ALWAYS for line in found)
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_writes_nothing_else_from_its_start_to_its_drain(tmp_path: Path, loop: str) -> None:
    (tmp_path / "example.py").write_text(AGENTS + NOISY)
    words = ("serve", "example:app", "--port", "0", "--loop", loop, "--log-format", "json", "--drain", "0.1")
    with Child(*words, stdout=subprocess.DEVNULL, env=environment(), cwd=tmp_path) as child:
        said = child.read_until('"serving"')
        url = objects(said)[-1]["url"]
        waiting = environment(ARCP_TOKEN="s3cret", XDG_STATE_HOME=str(tmp_path))
        assert arcp_io("submit", url, "wait", "--detach", env=waiting).returncode == 0
        said += child.read_until("job_started")
        child.send_signal(signal.SIGTERM)
        said += child.read_to_end()
        assert child.returncode == 0
    lines = objects(said)
    by_message = {line["message"]: line for line in lines}
    serving = by_message[f"serving {url}"]
    assert set(serving) == ALWAYS | {"what", "url"}
    assert (serving["level"], serving["logger"]) == ("info", "arcp_io.operator")
    assert by_message["printed"]["logger"] == "stderr"
    assert by_message["a library warns"]["logger"] == "library"
    assert any(line["logger"] == "py.warnings" and "too old" in line["message"] for line in lines)
    assert "ZeroDivisionError" in by_message["the thread broken thread has failed"]["exception"]
    assert any(message.startswith("waiting for 1 job") for message in by_message)
    noticed = [line for line in lines if "principal" in line]
    assert {"session_opened", "job_started", "job_ended"} <= {line["what"] for line in noticed}
    assert all(set(line) <= ALWAYS | OF_NOTICES | {"final_status", "code", "stopped"} for line in noticed)


@pytest.mark.parametrize("words", [("--quiet",), ("--log-level", "error")])
def test_the_address_is_told_at_every_level(tmp_path: Path, words: tuple[str, ...]) -> None:
    served = Served(tmp_path, "--log-format", "json", *words, log=True)
    assert served.url.endswith("/arcp")
    assert served.stop() == 0


def test_an_agent_that_does_not_stop_is_told(tmp_path: Path) -> None:
    served = Served(tmp_path, "--log-format", "json")
    assert served.submit("deaf", "--detach").returncode == 0
    served.process.send_signal(signal.SIGTERM)
    said = served.process.read_to_end()
    assert served.process.returncode == 1
    told = objects(said)[-1]
    assert told["message"] == "leaving without 1 agent that did not stop"
    assert (told["level"], told["logger"]) == ("warning", "arcp_io.operator")


@pytest.mark.parametrize(
    ("source", "words", "code", "message"),
    [
        ("1 / 0\n", [], 2, "cannot import lab: ZeroDivisionError: division by zero"),
        ("from arcp_io import App\napp = App('lab', '1', tokens={})\n", ["--fd", "99"], 1, "cannot serve: "),
        ("", ["--port", "99999"], 2, "Invalid value for --port"),
        ("", ["--nonsense"], 2, "No such option: --nonsense"),
    ],
)
def test_a_server_that_does_not_start_is_told(
    tmp_path: Path, source: str, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "lab.py").write_text(source)
    done = arcp_io("serve", "lab:app", *words, "--log-format=json", cwd=tmp_path)
    (told,) = objects(done.stderr)
    assert (done.returncode, done.stdout, told["level"]) == (code, "", "error")
    assert told["message"].startswith(message)
    assert ("exception" in told) == message.startswith("cannot import")
    if "exception" in told:
        assert told["exception"].startswith("Traceback (most recent call last):\n")
        assert told["exception"].endswith("ZeroDivisionError: division by zero")
        assert str(tmp_path / "lab.py") in told["exception"] and "arcp_io" not in told["exception"]


def test_a_print_is_an_object_where_stdio_is_served(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(
        "from arcp_io import App\nprint('at import')\nclass Loud(App):\n    def config(self):\n"
        "        print('\\u2603')\n        return super().config()\napp = Loud('lab', '1', tokens={})\n"
    )
    done = arcp_io("serve", "lab:app", "--stdio", "--log-format", "json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert [line["message"] for line in objects(done.stderr)][:2] == ["at import", "☃"]


@pytest.mark.parametrize(
    ("words", "json_asked"),
    [
        ("serve a:b --log-format json", True),
        ("serve a:b --log-format=json", True),
        ("serve --log-format text --log-format json", True),
        ("serve --log-format json --log-format=text", False),
        ("serve a:b --log-format", False),
        ("serve a:b", False),
        ("submit --log-format json", False),
        ("", False),
    ],
)
def test_the_form_is_known_before_the_command_line_is_parsed(words: str, json_asked: bool) -> None:
    assert asks_for_json(words.split()) is json_asked


def test_a_printed_line_is_an_object_and_an_object_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcp_io.cli.json_stderr.LONGEST", 20)
    with json_stderr():
        for text in ("in ", "parts\nnext\n\n", '{"of": "mine"}\n', "[1]\n", "{", "}}\n", "the end"):
            sys.stderr.write(text)
        print("y" * 21, file=sys.stderr)
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert written[2] == {"of": "mine"}
    long = "the end" + "y" * 21
    messages = [line["message"] for line in written if "of" not in line]
    assert messages == ["in parts", "next", "[1]", "{}}", long[:20], long[20:]]


def test_an_exception_that_leaves_the_command_ends_it_with_one_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, json_stderr():
        raise LookupError("gone")
    assert ended.value.code == 1
    (told,) = objects(capsys.readouterr().err)
    assert (told["level"], told["message"]) == ("critical", "LookupError: gone")
    assert "Traceback" in told["exception"]


def test_everything_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    stderr = sys.stderr
    before = threading.excepthook, sys.unraisablehook, sys.stdout, list(logging.getLogger().handlers)
    shown = warnings.showwarning
    with pytest.raises(KeyboardInterrupt), json_stderr():
        raise KeyboardInterrupt
    after = threading.excepthook, sys.unraisablehook, sys.stdout, list(logging.getLogger().handlers)
    assert (after, sys.stderr, capsys.readouterr().err) == (before, stderr, "")
    assert warnings.showwarning is shown
    tell("plain again")
    assert capsys.readouterr().err == "plain again\n"


def test_an_exception_of_a_finalizer_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    with json_stderr():
        Broken()
    (told,) = objects(capsys.readouterr().err)
    assert "ValueError: in a finalizer" in told["exception"]
