"""Completion in shells: everything that the table of commands has, and names that only this user has."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from arcp_io.cli import main, session_files
from arcp_io.cli.commands import listed_commands
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.ids import JobId, SessionId
from arcp_proto.secret import Secret

COMMANDS = dict(listed_commands())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str, *words: str
) -> str:
    """Return the answer to a shell that completes the last of these words."""
    line = " ".join(("arcp-io", *words))
    monkeypatch.setenv("_ARCP_IO_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", line.replace(" ", "\n"))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit):
        main([])
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    return asked(monkeypatch, capsys, "bash", *words).split()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    parameters = COMMANDS[command].params
    options = [name for one in parameters for name in one.opts if name.startswith("--")]
    assert set(options) <= {*completed(monkeypatch, capsys, *command.split(), "--")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    shown = asked(monkeypatch, capsys, shell, "")
    assert all(name.partition(" ")[0] in shown for name in COMMANDS)
    for group in {name.partition(" ")[0] for name in COMMANDS if " " in name}:
        shown = asked(monkeypatch, capsys, shell, group, "")
        assert all(name.split()[1] in shown for name in COMMANDS if name.startswith(f"{group} "))


def test_values_are_completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert completed(monkeypatch, capsys, "ping", "--loop", "") == ["asyncio", "trio"]
    assert completed(monkeypatch, capsys, "jobs", "--status", "r") == ["running"]
    assert completed(monkeypatch, capsys, "events", "--kind", "tool") == ["tool_call", "tool_result"]
    assert completed(monkeypatch, capsys, "completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("command", ["attach", "cancel", "describe", "events"])
def test_jobs_of_stored_sessions_are_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert completed(monkeypatch, capsys, command, "job_") == []
    with ExitStack() as stack:
        store = session_files.enter_free(stack, "ws://one/arcp", None)
        assert store is not None
        jobs = (ResumedJob(JobId("job_2")), ResumedJob(JobId("job_1")))
        store.save(Resumption(SessionId("sess_1"), Secret("rt_1"), 0, jobs, 600))
    assert completed(monkeypatch, capsys, command, "job_") == ["job_1", "job_2"]


def test_profiles_are_completed_without_a_word_about_a_broken_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    path = home / "arcp-io" / "config.toml"
    path.parent.mkdir()
    path.write_text("profile = 'work'\n[profiles.work]\n[profiles.local]\n")
    assert completed(monkeypatch, capsys, "jobs", "--profile", "") == ["local", "work"]
    assert completed(monkeypatch, capsys, "jobs", "--profile", "work", "--wa") == ["--watch"]
    path.write_text("profile =")
    assert completed(monkeypatch, capsys, "jobs", "--profile", "") == []
    assert completed(monkeypatch, capsys, "jobs", "--wa") == ["--watch"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    assert f"_ARCP_IO_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_another_shell_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "tcsh" in capsys.readouterr().err


def test_bash_itself_completes(tmp_path: Path) -> None:
    """Check the script in a bash, in which Tab calls the function that it defines."""
    command = tmp_path / "bin" / "arcp-io"
    command.parent.mkdir()
    start = "from arcp_io.cli import main; raise SystemExit(main())"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{start}' \"$@\"\n")
    command.chmod(0o755)
    press_tab = (
        'eval "$(arcp-io completion bash)"; COMP_WORDS=(arcp-io journal ""); COMP_CWORD=2;'
        ' complete -p arcp-io; _arcp_io_completion arcp-io; echo "${COMPREPLY[@]}"'
    )
    paths = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", press_tab],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "complete -o default -F _arcp_io_completion arcp-io",
        "inspect verify compact repair",
    ]
