"""The bundled agent `index`, alone, against an independent count of the same tree."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_io.demo import index as index_module
from arcp_io.demo import tally as tally_module
from arcp_io.demo.index import index
from arcp_io.demo.tally import Names, Tally, Text, count_directory, directories, read_text
from arcp_io.errors import InvalidRequest
from tests.io.counting import NASTY, count, make

BACKENDS = ("asyncio", "trio")
RUN: Callable[..., Any] = index


class RecordedJob:
    """A stand-in for a job, which records the events of its agent in order."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, Any]] = []

    async def log(self, level: str, message: str) -> None:
        self.emitted.append(("log", (level, message)))

    async def progress(self, current: float, *, total: float, units: str) -> None:
        self.emitted.append(("progress", (current, total, units)))

    async def metric(self, name: str, value: float, *, unit: str) -> None:
        self.emitted.append(("metric", (name, value, unit)))

    @asynccontextmanager
    async def tool(self, name: str, args: Any) -> AsyncIterator[SimpleNamespace]:
        self.emitted.append(("tool_call", (name, args)))
        call = SimpleNamespace(result=None)
        yield call
        self.emitted.append(("tool_result", call.result))

    @asynccontextmanager
    async def stream_result(self, *, encoding: str) -> AsyncIterator[SimpleNamespace]:
        async def write(data: str) -> None:
            self.emitted.append(("chunk", data))

        assert encoding == "utf8"
        yield SimpleNamespace(write=write)

    def of(self, kind: str) -> list[Any]:
        return [body for emitted, body in self.emitted if emitted == kind]

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads("".join(self.of("chunk")))
        return report


def run_index(root: str | os.PathLike[str], backend: str = "asyncio") -> RecordedJob:
    job = RecordedJob()
    anyio.run(RUN, job, {"path": os.fspath(root)}, backend=backend)
    return job


def report_of(root: str | os.PathLike[str]) -> dict[str, Any]:
    tally = Tally()
    for directory in directories(os.fspath(root)):
        for _ in count_directory(os.fspath(root), directory.path, tally):
            pass
    return tally.report()


@pytest.fixture(scope="module")
def nasty_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trees") / "nasty"
    make(str(root), 120)
    return root


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nasty_tree_equals_the_independent_count(nasty_tree: Path, backend: str) -> None:
    job = run_index(nasty_tree, backend)
    assert job.report() == count(nasty_tree)
    assert job.report()["skipped"]["binary"] == 7
    assert job.report()["files"] + sum(job.report()["skipped"].values()) == 120


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_of_the_index_publishes_its_events(nasty_tree: Path, backend: str) -> None:
    job = run_index(nasty_tree, backend)
    report = job.report()
    calls, results = job.of("tool_call"), job.of("tool_result")
    assert [args["path"] for _, args in calls] == walked(nasty_tree)
    assert {name for name, _ in calls} == {"index.directory"}
    assert sum(result["files"] for result in results) == report["files"]
    assert sum(result["bytes"] for result in results) == report["bytes"]
    assert job.of("progress")[-1] == (120, 120, "files")
    assert ("index.words", report["words"], "words") in job.of("metric")
    assert len(job.of("chunk")) == len(report) + 1
    kinds = [kind for kind, _ in job.emitted]
    assert kinds.index("chunk") > max(at for at, kind in enumerate(kinds) if kind != "chunk")


def walked(root: Path) -> list[str]:
    found = []
    for directory, inner, _ in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found.append(os.path.relpath(directory, root))
    return found


NAMES = st.text(st.sampled_from("aB._ü9- "), min_size=1, max_size=6).filter(
    lambda name: name.strip(".") != ""
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("ab_9 \n\r\t\x85\u2028\0é"), max_size=80),
).map(str.encode)
CONTENTS = st.one_of(TEXTS, st.binary(max_size=30))
TREES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(NAMES, CONTENTS, max_size=5),
    lambda inner: st.dictionaries(NAMES, st.one_of(CONTENTS, inner), max_size=4),
    max_leaves=12,
)


def plant(root: Path, tree: dict[str, Any]) -> None:
    for name, content in tree.items():
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            (root / name).mkdir()
            plant(root / name, content)


@settings(max_examples=100, deadline=None)
@given(tree=TREES)
def test_any_small_tree_equals_the_independent_count(tree: dict[str, Any]) -> None:
    with TemporaryDirectory() as root:
        plant(Path(root), tree)
        assert json.loads(json.dumps(report_of(root))) == count(root)


@settings(max_examples=200, deadline=None)
@given(
    content=st.text(st.sampled_from("ab_9 \n\x85\u2028é中😀\0"), min_size=1, max_size=40),
    block=st.integers(1, 7),
)
def test_blocks_cut_anywhere_count_the_same(content: str, block: int) -> None:
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_module, "BLOCK", block)
        patch.setattr(tally_module, "HEAD", 0)
        (Path(root) / "file").write_text(content, newline="")
        text = _end_of(read_text(f"{root}/file"))
    assert text is not None
    assert (text.words, text.lines) == (len(content.split()), content.count("\n"))
    assert text.names.counts == _counted(content)


def _end_of(reading: Iterator[None]) -> Text | None:
    try:
        while True:
            next(reading)
    except StopIteration as end:
        text: Text | None = end.value
        return text


def _counted(content: str) -> dict[str, int]:
    whole = Text()
    whole.feed(content)
    whole.end()
    return whole.names.counts


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_unreadable_file_is_a_log_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("text\n")
    refuse(monkeypatch, "open", lambda path: str(path).endswith(("a.txt", "c.txt")))
    job = run_index(tmp_path, backend)
    assert job.of("log") == [
        ("warn", "cannot read a.txt: Permission denied"),
        ("warn", "cannot read c.txt: Permission denied"),
    ]
    assert job.report()["skipped"] == {"binary": 0, "unreadable": 2}
    assert job.report()["files"] == 1
    assert job.of("progress")[-1] == (3, 3, "files")


def test_an_unreadable_directory_is_a_log_event_and_counts_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "inside.txt").write_text("text\n")
    (tmp_path / "open.txt").write_text("text\n")
    refuse(monkeypatch, "scandir", lambda path: str(path).endswith("closed"))
    job = run_index(tmp_path)
    assert job.of("log") == [("warn", "cannot read closed: Permission denied")]
    assert job.of("tool_result") == [{"files": 1, "bytes": 5}, {"files": 0, "bytes": 0}]
    assert job.report()["skipped"] == {"binary": 0, "unreadable": 0}


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, refused: Callable[[Any], bool]) -> None:
    """Make a function of `os` fail for some paths, as it would for any user but root."""
    original = getattr(os, function)

    def refusing(path: Any, *arguments: Any, **options: Any) -> Any:
        if refused(path):
            raise PermissionError(13, "Permission denied", path)
        return original(path, *arguments, **options)

    monkeypatch.setattr(tally_module.os, function, refusing)


def test_a_file_that_became_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("secret\n")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            _end_of(read_text(str(tmp_path / name)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "input", [{"path": "no/such/place"}, {"path": 3}, {"path": "a\0b"}, {"path": __file__}]
)
def test_a_path_that_is_not_a_directory_is_refused(input: Any, backend: str) -> None:
    with pytest.raises(InvalidRequest, match="not a directory"):
        anyio.run(RUN, RecordedJob(), input, backend=backend)


def test_without_input_the_current_directory_is_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only.txt").write_text("one two\n")
    monkeypatch.chdir(tmp_path)
    job = RecordedJob()
    anyio.run(RUN, job, None)
    assert job.report()["words"] == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_tasks_run_while_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(index_module, "SLICE", 0)
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text("text\n")
    turns = 0

    async def main() -> None:
        nonlocal turns
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_indexed, tasks)
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

    async def _indexed(tasks: anyio.abc.TaskGroup) -> None:
        await RUN(RecordedJob(), {"path": str(tmp_path)})
        tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert turns >= 50


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_index_can_be_cancelled_between_two_slices(
    nasty_tree: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(index_module, "SLICE", 0)
    monkeypatch.setattr(index_module, "PROGRESS_EVERY", 0)

    async def main() -> RecordedJob:
        with anyio.CancelScope() as scope:

            class Impatient(RecordedJob):
                async def progress(self, current: float, *, total: float, units: str) -> None:
                    await super().progress(current, total=total, units=units)
                    scope.cancel()

            job = Impatient()
            await RUN(job, {"path": str(nasty_tree)})
        assert scope.cancelled_caught
        return job

    job = anyio.run(main, backend=backend)
    assert len(job.of("progress")) == 1
    assert not job.of("chunk")


def test_counts_of_names_are_exact_or_state_their_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tally_module, "NAMES_SIZE", 10 * (tally_module.NAME_COST + 1))
    names = Names()
    names.add(dict.fromkeys("abcdefghij", 1))
    assert names.low_by == 0
    names.add({"a": 4, "j": 9})
    names.add({"k": 1})
    assert names.low_by == 1
    names.add({"a": 1, "c": 2})
    assert names.most_frequent(3) == [("j", 10), ("a", 6), ("c", 3)]


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text("abc", min_size=1, max_size=3), max_size=200))
def test_a_forgotten_name_is_low_by_no_more_than_stated(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_module, "NAMES_SIZE", 8 * tally_module.NAME_COST)
        names = Names()
        for word in words:
            names.add({word: 1})
    for word in set(words):
        known = names.counts.get(word, 0)
        assert known <= words.count(word) <= known + names.low_by


def test_a_name_beyond_the_longest_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "LONGEST_NAME", 5)
    text = Text()
    for piece in ("abcde abcdef ab", "cd", "e ab", "cd", "ef", "ghi", "j k"):
        text.feed(piece)
    text.end()
    assert text.names.counts == {"abcde": 2, "k": 1}


def test_the_independent_count_knows_nothing_of_the_package() -> None:
    source = Path(sys.modules[count.__module__].__file__ or "").read_text()
    assert "arcp_io" not in source.replace("arcp-io", "")
    assert len(NASTY) >= 30
