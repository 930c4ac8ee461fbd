"""Every command: in a pipe and in a terminal, with and without --json, and one failure of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from arcp_io.cli.commands import listed_commands
from arcp_io.cli.json_fields import FIELDS
from arcp_proto import record
from tests.io.processes import AGENTS, Served
from tests.io.releases import write
from tests.io.terminals import Terminal
from tests.unit.world import World

ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
NOWHERE: Final = "postgresql://127.0.0.1:9/none"

REFUSED: Final = "Connection refused; to check each step: arcp-io doctor ws://"


class Case(NamedTuple):
    """A command that works, with words that it shows; and one that fails, with its exit code and words.

    JOB is the id of a job that has ended, and the working directory has a journal, a recording and a text.
    Commands on a store of many nodes work in tests/cluster alone.
    """

    works: str | None
    shows: str
    fails: str
    code: int
    says: str


CASES: Final = {
    "serve": Case(None, "", "nothing:app", 2, "there is no module nothing"),
    "submit": Case("echo --input 1", '"echo": 1', "absent", 1, "AGENT_NOT_AVAILABLE"),
    "attach": Case("JOB", '"echo": 7', "job_x", 1, "JOB_NOT_FOUND"),
    "cancel": Case("JOB", "success", "job_x", 1, "JOB_NOT_FOUND"),
    "jobs": Case(
        "--limit 1",
        "echo@1.0.0",
        "ws://127.0.0.1:9/arcp",
        5,
        REFUSED,
    ),
    "describe": Case("JOB", "echo@1.0.0", "job_x", 1, "JOB_NOT_FOUND"),
    "events": Case("JOB", "hello", "job_x", 1, "JOB_NOT_FOUND"),
    "agents": Case(
        "",
        "stubborn",
        "ws://127.0.0.1:9/arcp",
        5,
        REFUSED,
    ),
    "ping": Case(
        "--count 1",
        "",
        "ws://127.0.0.1:9/arcp",
        5,
        REFUSED,
    ),
    "doctor": Case("", "a dropped session went on", "ws://127.0.0.1:9/arcp", 5, "Connection refused"),
    "config show": Case("", "ARCP_URL", "--profile x", 2, "there is no profile 'x'"),
    "token new": Case("alice", "", "alice --output text", 2, "File exists: text"),
    "completion": Case("bash", "complete -o default", "tcsh", 2, "tcsh"),
    "replay": Case("recording", "session.welcome", "text", 1, "this is not a line of a recording"),
    "credentials": Case("--journal j", "", "--journal text", 1, "text is not a journal"),
    "journal inspect": Case("j", "", "text", 1, "text is not a journal"),
    "journal verify": Case("j", "", "text", 1, "text is not a journal"),
    "journal compact": Case("j", "", "text", 1, "text is not a journal"),
    "journal repair": Case("j", "", "text", 1, "text is not a journal"),
    "store init": Case(None, "", NOWHERE, 1, "cannot use the store: "),
    "store upgrade": Case(None, "", NOWHERE, 1, "cannot use the store: "),
    "nodes": Case(None, "", NOWHERE, 1, "cannot use the store: "),
    "shards": Case(None, "", NOWHERE, 1, "cannot use the store: "),
    "demo": Case("docs", "1 text files", "absent", 2, "absent is not a directory"),
}
COMMANDS: Final = dict(listed_commands())
WITH_JSON: Final = [
    name for name, command in COMMANDS.items() if any("--json" in one.opts for one in command.params)
]
WITH_LOOP: Final = [
    name for name, command in COMMANDS.items() if any("--loop" in one.opts for one in command.params)
]
each = pytest.mark.parametrize("name", CASES)


class Place(NamedTuple):
    """A server, and the directory in which commands run."""

    served: Served
    job_id: str

    def words(self, name: str, words: str, loop: str) -> list[str]:
        text = words.replace("JOB", self.job_id)
        return [*name.split(), *text.split(), *(["--loop", loop] if name in WITH_LOOP else [])]

    def run(self, name: str, words: str, loop: str, *more: str) -> tuple[int | None, str, str]:
        """Run a command in a pipe; return its exit code, stdout and stderr."""
        command = [*self.words(name, words, loop), *more]
        child = self.served.running(*command, cwd=self.served.directory, ARCP_URL=self.served.url)
        with child:
            out, err = child.communicate()
        return child.returncode, out, err

    def show(self, name: str, words: str, loop: str) -> tuple[int, str]:
        """Run a command in a terminal; return its exit code and what it shows, without colours."""
        terminal = Terminal(
            self.served,
            *self.words(name, words, loop),
            columns=500,
            cwd=self.served.directory,
            ARCP_URL=self.served.url,
            TERMINAL_WIDTH="500",
        )
        shown = ESCAPES.sub("", terminal.read())
        return terminal.process.returncode, shown


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("served")
    agents = AGENTS.replace("App(name", "App(limits=Limits(max_failed_authentications=1000), name")
    served = Served(directory, agents=agents.replace("import App\n", "import App, Limits\n"))
    done = served.submit("echo", "--input", "7", "--json")
    (directory / "text").write_text("Dear diary")
    (directory / "docs").mkdir()
    (directory / "docs" / "page").write_text("Dear reader")
    write(directory / "j")
    world, lines = World(), list[str]()
    record(world.runtime, lines.append, salt=b"s" * 16)
    world.client()
    (directory / "recording").write_text("".join(f"{line}\n" for line in lines))
    yield Place(served, json.loads(done.stdout)["job_id"])
    assert served.stop() == 0


def test_every_command_has_a_case() -> None:
    assert set(CASES) == set(COMMANDS)
    assert {name.removesuffix(" --watch") for name in FIELDS} == set(WITH_JSON)


@each
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_command_works_in_a_pipe_and_in_a_terminal(place: Place, name: str, loop: str) -> None:
    case = CASES[name]
    if case.works is None or (loop == "trio" and name not in WITH_LOOP):
        return
    code, out, err = place.run(name, case.works, loop)
    assert (code, "\x1b" in out + err, "Traceback" in err) == (0, False, False)
    assert case.shows in out + err
    code, shown = place.show(name, case.works, loop)
    assert (code, "Traceback" in shown) == (0, False)
    assert case.shows in shown
    if name in WITH_JSON:
        code, out, err = place.run(name, case.works, loop, "--json")
        assert code == 0
        check_json(name, out)


@each
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_command_fails_in_a_pipe_and_in_a_terminal(place: Place, name: str, loop: str) -> None:
    case = CASES[name]
    if loop == "trio" and name not in WITH_LOOP:
        return
    code, out, err = place.run(name, case.fails, loop)
    said = " ".join((out + err).replace("│", " ").split())
    assert (code, "\x1b" in out + err, "Traceback" in err) == (case.code, False, False)
    assert case.says in said
    code, shown = place.show(name, case.fails, loop)
    assert (code, "Traceback" in shown) == (case.code, False)
    assert case.says in " ".join(shown.split())
    if name in WITH_JSON:
        code, out, _ = place.run(name, case.fails, loop, "--json")
        assert code == case.code
        check_json(name, out)
        assert name == "doctor" or json.loads(out)["error"]["message"]


def check_json(name: str, out: str) -> None:
    """Check that an output is JSON with documented fields alone: an object, or one a line."""
    lines = out.splitlines()
    printed = FIELDS[name]
    assert len(lines) == 1 or printed.lines
    for line in lines:
        assert set(json.loads(line)) <= {*printed.fields, "error"}
