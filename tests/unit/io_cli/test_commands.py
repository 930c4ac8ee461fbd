"""The command line: its arguments, its output and its exit codes. These tests open no socket."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arcp_io.app import App
from arcp_io.cli import main, session_files
from arcp_io.cli.arguments import (
    budget_argument,
    instant_argument,
    json_argument,
    lease_argument,
    seconds_argument,
    size_argument,
    whole_seconds_argument,
)
from arcp_io.cli.commands import listed_commands
from arcp_io.cli.describe import _rows
from arcp_io.cli.ending import show
from arcp_io.cli.exit_codes import Exit
from arcp_io.cli.job_request import Ending, Server
from arcp_io.cli.options import known_url
from arcp_io.cli.printable import one_line, printable
from arcp_io.cli.view import View
from arcp_io.client.store import FileStore
from arcp_io.journal import JournalFailed
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.ids import JobId, SessionId
from arcp_proto.secret import Secret
from arcp_proto.wire.reading import JobDescription, JobEnding

ENDED = JobEnding("cancelled", "later")
NOT_STOPPED = "cancel asked, agent not stopped"
COMMANDS = [name for name, _ in listed_commands()]
FORBIDDEN = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x202E, 0x2066)]


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(words)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def python(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)


# Starting


def test_the_version_needs_no_library() -> None:
    done = python(
        "import sys; from arcp_io.cli import main; code = main(['--version'])\n"
        "heavy = {'asyncio', 'trio', 'anyio', 'typer', 'rich', 'websockets', 'msgspec'}\n"
        "print(code, sorted(heavy & {*sys.modules}))"
    )
    assert done.stdout.splitlines()[0].startswith("arcp-io ")
    assert done.stdout.splitlines()[1] == "0 []"


def test_help_needs_no_event_loop() -> None:
    done = python(
        "import sys; from arcp_io.cli import main; code = main(['submit', '--help'])\n"
        "print(code, sorted({'asyncio', 'trio', 'anyio', 'websockets'} & {*sys.modules}))"
    )
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    done = python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from arcp_io.cli import main; sys.exit(main(['demo', '--json', '.']))"
    )
    assert done.returncode == Exit.USAGE
    assert done.stderr == "arcp-io needs its command-line extra: pip install 'arcp-io[cli]'\n"
    assert done.stdout == ""


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    done = python(
        "import sys; sys.modules['arcp_io.cli.serve'] = None\n"
        "from arcp_io.cli import main; sys.exit(main(['demo']))"
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["--version", "serve"]])
def test_the_command_version_prints_versions(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(*words, capsys=capsys)
    assert (code, out.split()[0]) == (0, "arcp-io")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(*command.split(), "--help", capsys=capsys)
    assert code == 0
    assert "  Examples:\n" in out
    assert f"    arcp-io {command}" in out
    assert "Exit code: 0" in out


def test_a_token_in_the_environment_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARCP_TOKEN", "s3cret")
    assert "s3cret" not in "".join(run("submit", "--help", capsys=capsys)[1:])
    assert "s3cret" not in "".join(run("submit", "ws://x", "a", "--input", "{", capsys=capsys)[1:])
    assert "s3cret" not in repr(Server(url="ws://x", token="s3cret"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nonsense"], "No such command"),
        (["submit", "ws://127.0.0.1:1/arcp"], "AGENT"),
        (["submit", "ws://x", "a", "--input", "{"], "--input: the argument is not JSON"),
        (["submit", "ws://x", "a", "--input", "@/no/such/file"], "cannot read /no/such/file: No such file"),
        (["submit", "ws://x", "a", "--lease", "[]"], "--lease: a lease is a JSON object"),
        (
            ["submit", "ws://x", "a", "--lease", "search"],
            "--lease: 'search' is neither a grant such as tool.call=search",
        ),
        (["serve", "x:app", "--audit-size", "65535"], "--audit-size: must be 64 KiB or more"),
        (["serve", "x:app", "--audit-size", "64KiB"], "there is no module x"),
        (["submit", "ws://x", "a", "--budget", "5"], "--budget: '5' is not an amount"),
        (["submit", "ws://x", "a", "--expires", "soon"], "--expires: 'soon' is not a duration"),
        (["submit", "ws://x", "a", "--max-runtime", "0"], "--max-runtime: must be a second or more"),
        (["serve", "example:app", "--drain", "x"], "--drain: 'x' is not a duration"),
        (["serve", "example:app", "--host", "0.0.0.0"], "give --certfile, or --allow-plain"),
        (["serve", "example:app", "--host", "agents.example"], "give --certfile, or --allow-plain"),
        (["serve", "example:app", "--keyfile", "key.pem"], "a key needs --certfile"),
        (
            ["serve", "example:app", "--port", "70000"],
            "--port: a port is a number from 0 to 65535, not 70000",
        ),
        (["jobs", "ws://x", "--limit", "0"], "--limit: must be 1 or more"),
        (["serve", "example:app", "--path", "arcp"], "--path: a path begins with a slash"),
        (["serve", "example"], "is not of the form module:variable"),
        (["serve", "no_such_module:app"], "there is no module no_such_module"),
        (["serve", "json:app"], "app in json is not an App"),
        (["demo", "/no/such/place"], "/no/such/place is not a directory"),
        (["demo", "--loop", "curio"], "--loop"),
        (["jobs", "ws://x", "--status", "runing"], "--status"),
        (["jobs"], "for URL: which runtime? no session is stored: give URL, or set ARCP_URL"),
        (["attach", ""], "for JOB: the id of a job is not empty"),
        (["attach", "", "--url", "ws://x"], "for JOB: the id of a job is not empty"),
        (["cancel", "", "--url", "ws://x"], "for JOB: the id of a job is not empty"),
        (["submit", "echo"], "which runtime? Give its URL before echo, or set ARCP_URL"),
        (["submit", "ws://x"], "which agent? Give its name after the URL"),
        (["submit", "ws://x", "a", "b"], "give a URL and an agent, not 3 arguments"),
        (
            ["submit", "http://x/arcp", "a"],
            "'http://x/arcp' is not an address such as ws://127.0.0.1:7777/arcp",
        ),
        (["jobs", "ws://x:y"], "'ws://x:y' is not an address such as ws://"),
        (["submit", "ws://agents.example/arcp", "a", "--token", "t"], "use wss://, or --allow-plain"),
        (
            ["submit", "ws://x", "a", "--output", "/no/such/file"],
            "--output: No such file or directory: /no/such",
        ),
        (["submit", "ws://x", "a", "--output", "/"], "--output: Is a directory: /"),
        (
            ["submit", "ws://x", "a", "--max-result", "much"],
            "--max-result: 'much' is not a size such as 1000, 500MB",
        ),
        (
            ["submit", "wss://x", "a", "--cafile", "/no/ca.pem"],
            "--cafile: No such file or directory: /no/ca.pem",
        ),
        (["attach", "job_1"], "for --url: which runtime? no session is stored: give --url URL, or set ARCP_"),
        (["cancel", "job_1"], "for --url: which runtime? no session is stored: give --url URL, or set ARCP_"),
    ],
)
def test_a_usage_error_exits_with_usage(
    words: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.delenv("ARCP_URL", raising=False)
    code, out, err = run(*words, capsys=capsys)
    assert (code, out) == (Exit.USAGE, "")
    assert complaint in err


def test_a_command_asks_which_of_several_runtimes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("ARCP_URL", raising=False)
    keep_session("ws://one/arcp", None, "job_1")
    assert known_url(None) == "ws://one/arcp"
    keep_session("ws://two/arcp?a=1&b=2", None, "job_2")
    keep_session("ws://two/arcp?a=1&b=2", "other", "job_3")
    code, out, err = run("jobs", capsys=capsys)
    assert (code, out) == (Exit.USAGE, "")
    assert "which runtime? sessions with 2 of them are stored" in err
    assert "\n  ws://one/arcp  (job_1)\n  'ws://two/arcp?a=1&b=2'  (job_2, job_3)" in err
    code, out, err = run("attach", "job_9", capsys=capsys)
    assert (code, out) == (Exit.USAGE, "")
    assert "\n  --url ws://one/arcp  (job_1)\n" in err


def test_a_stored_session_is_forgotten_half_an_hour_after_its_resume_window(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("ARCP_URL", raising=False)
    keep_session("ws://gone/arcp", None, "job_1", resume_window_sec=600)
    keep_session("ws://there/arcp", None, "job_2", resume_window_sec=3600)
    last_alive = time.time() - 600 - 30 * 60 - 1
    for path in (tmp_path / "arcp-io").glob("*.session"):
        os.utime(path, (last_alive, last_alive))
    assert known_url(None) == "ws://there/arcp"
    assert session_files.find("job_1", None, None) is None
    assert len(list((tmp_path / "arcp-io").glob("*.session"))) == 1
    assert [path.name for path in (tmp_path / "arcp-io").iterdir() if "gone" in path.name] == []


def test_a_stored_session_in_use_does_not_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keep_session("ws://one/arcp", None, "job_1")
    (path,) = (tmp_path / "arcp-io").glob("*.session")
    os.utime(path, (0, 0))
    with FileStore(path):
        assert session_files.known() == [("ws://one/arcp", ["job_1"])]
    assert session_files.known() == []


def test_a_session_that_was_attached_a_moment_ago_does_not_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keep_session("ws://one/arcp", None, "job_1")
    (path,) = (tmp_path / "arcp-io").glob("*.session")
    os.utime(path, (0, 0))
    FileStore(path).touch()
    assert session_files.known() == [("ws://one/arcp", ["job_1"])]


def test_a_url_that_was_tried_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "arcp-io").mkdir()
    (tmp_path / "arcp-io" / "ws%3A%2F%2Fold.0123456789abcdef.1.session.arcp-io-lock").touch()
    with ExitStack() as stack:
        assert session_files.enter_free(stack, "ws://typo/arcp", None) is not None
    assert list((tmp_path / "arcp-io").iterdir()) == []


def test_a_damaged_stored_session_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keep_session("ws://one/arcp", None, "job_1")
    (path,) = (tmp_path / "arcp-io").glob("*.session")
    path.write_text("damaged")
    assert session_files.find("job_1", None, None) is None
    keep_session("ws://one/arcp", None, "job_2")
    assert session_files.known() == [("ws://one/arcp", ["job_2"])]
    assert path.read_text() == "damaged"


def keep_session(url: str, token: str | None, job_id: str, resume_window_sec: int = 600) -> None:
    with ExitStack() as stack:
        store = session_files.enter_free(stack, url, token)
        assert store is not None
        jobs = (ResumedJob(JobId(job_id)),)
        store.save(Resumption(SessionId("sess_1"), Secret("rt_1"), 0, jobs, resume_window_sec))


@pytest.mark.parametrize("url", ["ws://127.0.0.1:7777/arcp", f"ws://127.0.0.1:7777/{'long/' * 50}"])
def test_a_stored_session_is_for_the_token_that_opened_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keep_session(url, "alice's", "job_1")
    found = session_files.find("job_1", url, "alice's")
    assert found is not None
    assert session_files.unfinished(found) == ["job_1"]
    for job_id, where, token in [
        ("job_1", url, "bob's"),
        ("job_1", url, None),
        ("job_1", "ws://else/arcp", "alice's"),
        ("job_2", url, "alice's"),
    ]:
        assert session_files.find(job_id, where, token) is None


def test_a_failing_journal_is_reported_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise JournalFailed("the disk is full")

    (tmp_path / "served_here.py").write_text("from arcp_io import App\napp = App('x', '1', tokens={})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("arcp_io.server.run.run", fail)
    assert run("serve", "served_here:app", capsys=capsys) == (1, "", "stopped: the disk is full\n")


@pytest.mark.parametrize(("words", "size"), [((), 100_000), (("--audit-size", "1MiB"), 1024 * 1024)])
def test_the_size_of_the_audit_file_is_that_of_the_command_line_or_of_the_app(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    size: int,
) -> None:
    served: list[App] = []
    text = "from arcp_io import App\napp = App('x', '1', tokens={}, audit_bytes=100_000)\n"
    (tmp_path / "served_with_audit.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "served_with_audit", raising=False)
    monkeypatch.setattr("arcp_io.server.run.run", lambda app, *_, **__: served.append(app))
    code, _, _ = run("serve", "served_with_audit:app", *words, capsys=capsys)
    assert (code, [app.audit_bytes for app in served]) == (0, [size])


def test_trio_must_be_there_for_the_demo_on_trio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("arcp_io.cli.arguments.find_spec", lambda name: None)
    code, _, err = run("demo", "--loop", "trio", capsys=capsys)
    assert code == Exit.USAGE
    assert "pip install 'arcp-io[trio]'" in err


def test_a_usage_error_is_json_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, complaint in [
        (["submit", "ws://x", "a", "--input", "{", "--json"], "--input: the argument is not JSON"),
        (["submit", "--json"], "Missing argument"),
        (["jobs", "--jason", "--json"], "No such option"),
    ]:
        code, out, err = run(*words, capsys=capsys)
        assert code == Exit.USAGE
        said = json.loads(out)
        assert said["error"]["code"] == "USAGE"
        assert complaint in said["error"]["message"]
        assert complaint in err


def test_the_list_of_commands_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_shows_no_types_of_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(*command.split(), "--help", capsys=capsys)
    assert not re.search(r"<\w+|list\[|<=|\bINTEGER\b|\[asyncio\|", out)


# Arguments


def test_sizes_are_parsed() -> None:
    for text, size in (("0", 0), ("1000", 1000), ("1k", 1000), ("1.5MiB", 1_572_864), ("2 GB", 2 * 10**9)):
        assert size_argument(text) == size
    for text in ("", "-1", "much", "1XB", "1e3"):
        with pytest.raises(ValueError, match="not a size such as"):
            size_argument(text)


def test_json_comes_from_the_argument_a_file_or_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "input.json").write_text('{"é": [1, 2.5, null]}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("[true]"))
    assert json_argument('{"x": 1}') == {"x": 1}
    assert json_argument(f"@{tmp_path}/input.json") == {"é": [1, 2.5, None]}
    assert json_argument("-") == [True]


def test_a_lease_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lease.json").write_text('{"tool.call": ["a", "b"], "x-vendor.acme.door": []}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"tool.call": ["d"]}'))
    assert lease_argument(['{"fs.read": ["/x/**"]}']) == {"fs.read": ["/x/**"]}
    assert lease_argument(["tool.call=c", f"@{tmp_path}/lease.json", "net.fetch=https://x/?a=b", "-"]) == {
        "tool.call": ["c", "a", "b", "d"],
        "x-vendor.acme.door": [],
        "net.fetch": ["https://x/?a=b"],
    }


@pytest.mark.parametrize("text", ["", "tool.call", "tool.call=", "=search", "null", "5", "--"])
def test_a_wrong_grant_raises(text: str) -> None:
    with pytest.raises(ValueError, match="neither a grant such as"):
        lease_argument(["tool.call=search", text])


@pytest.mark.parametrize("text", ["[]", '{"fs.read": "/x"}', '{"fs.read": [5]}', ' {"fs.read": null}'])
def test_a_wrong_lease_raises(text: str) -> None:
    with pytest.raises(ValueError, match="a lease is a JSON object"):
        lease_argument([text])


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "nul", "[" * 100_000, "@", "@\0"])
def test_a_text_that_is_not_json_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|cannot read"):
        json_argument(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("1.5", 1.5),
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("250ms", 0.25),
    ],
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert seconds_argument(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "x", "10 m", "m", "1y", "nan", "inf", "1e400", "10m!", "36501d", "²"]
)
def test_a_wrong_duration_raises(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds_argument(text)


def test_a_runtime_is_whole_seconds_rounded_up() -> None:
    assert whole_seconds_argument("1500ms") == 2
    assert whole_seconds_argument("10m") == 600


def test_times_are_utc() -> None:
    assert instant_argument("2030-01-31T12:00:00Z") == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert instant_argument("2030-01-31T12:00:00+00:00") == datetime(2030, 1, 31, 12, tzinfo=UTC)
    before = datetime.now(UTC)
    assert before + timedelta(hours=2) <= instant_argument("2h") <= datetime.now(UTC) + timedelta(hours=2)
    for text in ("2030-01-31T12:00:00", "2030-01-31T12:00:00+01:00"):
        with pytest.raises(ValueError, match="must be in UTC"):
            instant_argument(text)
    with pytest.raises(ValueError, match="neither a time such as"):
        instant_argument("2030-02-31T12:00:00Z")


def test_budgets_are_amounts() -> None:
    assert budget_argument(["USD:5", "credits:0.25"]) == ["USD:5", "credits:0.25"]
    for amount, written in (("usd:5", "USD:5"), ("Usd:0.5", "USD:0.5"), ("Credits:1", "credits:1")):
        with pytest.raises(ValueError, match=f"write {written}, since the case of a currency matters"):
            budget_argument([amount])
    assert budget_argument(["gpu.hours:2"]) == ["gpu.hours:2"]
    for amount in ("USD", "USD:", ":5", "USD:-5", "USD:5.", "USD:1e3", "USD:5\n"):
        with pytest.raises(ValueError, match="not an amount"):
            budget_argument([amount])


# Output


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain é 中 😀\n\ttab", "plain é 中 😀\n\ttab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred\x9d0;title\x9cafter", "redafter"),
        ("\x1b(Bset\x1bcreset", "setreset"),
        ("cut \x1b[31", "cut "),
        ("a\rb\x08c\x07d\x7f\0", "abcd"),
        ("left\u202eright\u2066x\ud800y", "leftrightxy"),
        ("\x1b\x1b[31m[31mtwice", "[31mtwice"),
    ],
)
def test_texts_of_a_peer_are_made_printable(text: str, clean: str) -> None:
    assert printable(text) == clean


@given(st.text(st.sampled_from([*FORBIDDEN, *"[]0;mPX\\ab\n\ud800"])))
def test_no_control_sequence_is_left_in_a_printed_text(text: str) -> None:
    clean = printable(text)
    assert not {*FORBIDDEN, "\ud800"} & {*clean}
    assert "\n" not in one_line(text)
    clean.encode()


def test_long_text_is_cut() -> None:
    assert printable("x" * 5000) == "x" * 1999 + "…"
    assert one_line(" a \n b\t c ", longest=20) == "a b c"


def shown(*events: tuple[str, dict[str, Any]], terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with View(console, "agent") as view:
        for kind, body in events:
            view.show(kind, body)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_kind_of_event_is_shown() -> None:
    lines = shown(
        ("log", {"level": "warn", "message": "[bold]careful[/bold]"}),
        ("thought", {"text": "hm"}),
        ("status", {"phase": "working", "message": "hard"}),
        ("metric", {"name": "tokens", "value": 3, "unit": "count"}),
        ("artifact_ref", {"uri": "file:///x", "content_type": "text/plain"}),
        ("delegate", {"child_job_id": "j", "agent": "child"}),
        ("delegate", {"child_job_id": "k", "agent": "child", "lease": {"cost.budget": ["USD:5", "EUR:1"]}}),
        ("tool_call", {"tool": "grep", "args": {}, "call_id": "c"}),
        ("tool_result", {"call_id": "c", "error": {"code": "LEASE_EXPIRED", "message": "too late"}}),
        ("tool_result", {"call_id": "d", "error": {"code": "INTERNAL_ERROR", "message": "no"}}),
        ("tool_result", {"call_id": "c", "result": 1}),
        ("progress", {"current": 1, "total": 2, "units": "files", "message": "x"}),
        ("result_chunk", {"data": "abc"}),
        ("x-vendor.acme.thing", {"anything": 1}),
    ).splitlines()
    assert lines == [
        "warn  [bold]careful[/bold]",
        "hm",
        "working: hard",
        "tokens = 3 count",
        "artifact file:///x (text/plain)",
        "delegates to child: j",
        "delegates to child: k with USD:5, EUR:1",
        "tool grep denied: LEASE_EXPIRED too late",
        "tool failed: INTERNAL_ERROR no",
        "x-vendor.acme.thing",
    ]


def test_the_remaining_budget_is_shown_at_changes_and_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=100)
    with View(console, "agent") as view:
        view.show("metric", {"name": "cost.search", "value": 0.8, "unit": "USD"})
        view.show("metric", {"name": "cost.budget.remaining", "value": 0.2, "unit": "USD"})
        view.show("status", {"phase": "budget_warning", "message": "80 % are used"})
        view.show("metric", {"name": "cost.budget.remaining", "value": -0.1, "unit": "USD"})
        view.show("metric", {"name": "cost.budget.remaining", "value": 5, "unit": "EUR"})
        view.end(Ending(exit=Exit.SUCCESS, job_id="j", final_status="success", events=6))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "cost.search = 0.8 USD",
        "0.2 USD left",
        "budget_warning: 80 % are used",
        "-0.1 USD left",
        "5 EUR left",
        "success after 6 events; -0.1 USD, 5 EUR left",
    ]


@pytest.mark.parametrize(("width", "longest"), [(200, 125), (100, 25), (80, 20)])
def test_the_activity_of_an_agent_is_shown_within_the_terminal(width: int, longest: int) -> None:
    view = View(Console(file=io.StringIO(), width=width), "agent")
    view.show("progress", {"current": 1, "message": "x" * 500})
    [task] = view._progress.tasks
    assert len(task.fields["doing"]) == longest


def test_the_budgets_and_calls_of_a_peer_are_limited() -> None:
    view = View(Console(file=io.StringIO()), "agent")
    for number in range(1000):
        view.show("metric", {"name": "cost.budget.remaining", "value": 1, "unit": f"C{number}"})
        view.show("tool_call", {"tool": "grep", "args": {}, "call_id": str(number)})
    assert (len(view._left), len(view._calls)) == (8, 100)


def test_the_bar_shows_progress_and_the_tool() -> None:
    drawn = shown(
        ("progress", {"current": 1200, "total": 5000, "units": "files"}),
        ("tool_call", {"tool": "grep", "args": {"path": "src"}}),
        ("metric", {"name": "cost.budget.remaining", "value": 0.07, "unit": "USD"}),
        terminal=True,
    )
    assert "1,200/5,000 files" in drawn
    assert "0.07 USD left" in drawn
    assert "grep {'path': 'src'}" in drawn


KINDS = (
    "log",
    "thought",
    "status",
    "metric",
    "artifact_ref",
    "delegate",
    "tool_call",
    "tool_result",
    "progress",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
FIELDS = (
    "level",
    "message",
    "text",
    "phase",
    "name",
    "value",
    "unit",
    "uri",
    "agent",
    "tool",
    "args",
    "error",
    "call_id",
    "child_job_id",
    "lease",
)
BODIES = st.dictionaries(st.sampled_from([*FIELDS, "current", "total", "units", "data"]), JSON)


@given(kind=st.sampled_from([*KINDS, "result_chunk", "\x1b[2J"]), body=BODIES)
def test_any_body_can_be_shown(kind: str, body: dict[str, Any]) -> None:
    assert not {*FORBIDDEN} & {*shown((kind, body))}


def test_the_value_of_a_rotated_credential_is_not_shown() -> None:
    body = {"phase": "credential_rotated", "id": "c1", "value": "s3cret", "details": {"value": "s3cret"}}
    assert shown(("status", body)) == "credential_rotated\n"


@pytest.mark.parametrize(
    ("ending", "line"),
    [
        (
            Ending(exit=Exit.SUCCESS, job_id="j", final_status="success", events=1234),
            "success after 1,234 events",
        ),
        (Ending(exit=Exit.INTERRUPTED, job_id="j"), "left job j as it is"),
        (Ending(exit=Exit.INTERRUPTED), "nothing was submitted"),
        (
            Ending(
                exit=Exit.ERROR, job_id="j", final_status="error", error={"code": "X", "message": "\x1b[1mno"}
            ),
            "job j error: X no",
        ),
        (
            Ending(exit=Exit.CONNECTION, job_id="j", error={"code": "X", "message": "m"}),
            "job j was lost: X m",
        ),
        (Ending(exit=Exit.CONNECTION, error={"code": "X", "message": "m"}), "failed: X m"),
        (
            Ending(exit=Exit.EVENTS_LOST, job_id="j", final_status="success", events=7),
            "success, but some events were lost; 7 were received",
        ),
    ],
)
def test_the_last_line_shows_the_end_of_the_job(ending: Ending, line: str) -> None:
    console = Console(file=io.StringIO(), width=100)
    with View(console, "agent") as view:
        view.end(ending)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == line + "\n"
    assert json.dumps(ending.exit) == str(int(ending.exit))


def test_the_ending_as_json_says_which_events_were_lost(capsys: pytest.CaptureFixture[str]) -> None:
    lost = {"last_seq": 7, "history_from": 30}
    ending = Ending(
        exit=Exit.EVENTS_LOST, job_id="j", final_status="success", result=1, events=9, events_lost=(lost,)
    )
    with pytest.raises(typer.Exit) as left:
        show(ending, as_json=True)
    assert left.value.exit_code == 6
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "job_id": "j",
        "final_status": "success",
        "stopped": None,
        "events": 9,
        "events_lost": [lost],
        "result": 1,
    }


def test_the_result_of_a_job_that_lost_events_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        show(Ending(exit=Exit.EVENTS_LOST, job_id="j", final_status="success", result="r"), as_json=False)
    assert capsys.readouterr().out == "r\n"


@pytest.mark.parametrize(
    ("known", "status", "told"),
    [
        ({"agent_runs": True}, "running", []),
        ({"agent_runs": True, "end": ENDED, "stopped": False}, NOT_STOPPED, ["not yet: the agent goes on, "]),
        ({"end": ENDED, "stopped": False}, NOT_STOPPED, ["not when the job ended; the runtime cannot tell "]),
        ({"end": ENDED, "stopped": True, "agent_stopped_at": "soon"}, "cancelled", ["soon, after the end "]),
        ({"end": ENDED, "stopped": True}, "cancelled", []),
        ({"end": ENDED}, "cancelled", []),
    ],
)
def test_a_description_says_whether_the_agent_has_stopped(
    known: dict[str, Any], status: str, told: list[str]
) -> None:
    job = JobDescription(
        "job_1", "it", "cancelled" if "end" in known else "running", "now", {}, 1, 1, **known
    )
    rows = [(name, value) for name, value in _rows(job) if name in ("status", "stopped")]
    assert rows[0] == ("status", status)
    assert [value[: len(begin)] for (_, value), begin in zip(rows[1:], told, strict=True)] == told
