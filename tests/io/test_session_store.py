"""Where a client keeps its session: in files that only their owner reads, whole, for one at a time."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arcp_io import App, JobContext, connect, serve
from arcp_io.client.store import FileStore, MemoryStore, SessionStore
from arcp_io.errors import NotAStore, StoreInUse
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.ids import JobId, SessionId
from arcp_proto.secret import Secret
from tests.io.processes import environment
from tests.runners import run


def resumption(cursor: int = 7, token: str = "rt_t0p") -> Resumption:
    return Resumption(SessionId("sess_1"), Secret(token), cursor, (ResumedJob(JobId("job_1"), 5),))


def told(kept: Resumption | None) -> tuple[str, str, int, list[tuple[str, int]]]:
    assert kept is not None
    return kept.session_id, kept.token.reveal(), kept.cursor, [(job.job_id, job.cursor) for job in kept.jobs]


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "session")


def test_a_saved_session_is_loaded(store: SessionStore) -> None:
    assert store.load() is None
    for cursor in (7, 8):
        store.save(resumption(cursor))
        assert told(store.load()) == ("sess_1", "rt_t0p", cursor, [("job_1", 5)])
    store.clear()
    assert store.load() is None
    store.clear()


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "session"
    previous = os.umask(0)
    try:
        with FileStore(path) as store:
            store.save(resumption())
            modes = {entry.name: entry.stat().st_mode & 0o777 for entry in tmp_path.iterdir()}
    finally:
        os.umask(previous)
    assert modes == {"session": 0o600, "session.arcp-io-lock": 0o600}
    assert "rt_t0p" not in repr(store)


def test_a_file_that_others_can_read_is_closed_to_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path / "session")
    store.save(resumption())
    store.path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "arcp_io"):
        assert told(store.load())[0] == "sess_1"
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert "had mode 644" in caplog.text
    assert "rt_t0p" not in caplog.text


@pytest.mark.parametrize(
    "data", [b"precious\n", b"{", b"[]", b'{"session_id":"s","token":1,"cursor":0}', b"\xff"]
)
def test_a_file_that_holds_no_session_is_refused_and_kept(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    path.chmod(0o644)
    with FileStore(path) as store:
        for change in (store.load, store.clear, lambda: store.save(resumption())):
            with pytest.raises(NotAStore, match="does not hold a session of arcp-io: move it away"):
                change()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (data, 0o644)


def test_a_file_that_was_replaced_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "session"
    store = FileStore(path)
    store.save(resumption())
    path.unlink()
    path.write_text("precious")
    for change in (store.clear, lambda: store.save(resumption())):
        with pytest.raises(NotAStore):
            change()
    assert path.read_text() == "precious"


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "session")
    store.path.touch()
    assert store.load() is None
    store.save(resumption())
    assert told(store.load())[0] == "sess_1"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAStore, match="not a regular file"):
        FileStore(tmp_path / "pipe").load()


def test_a_session_that_can_no_longer_be_saved_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "session"

    async def main() -> object:
        app = App("store", "1", anonymous=True)

        @app.agent("echo")
        async def echo(job: JobContext, input: object) -> object:
            path.unlink()
            path.write_text("precious")
            return input

        async with serve(app, port=0) as server, connect(server.url, store=FileStore(path)) as session:
            return await (await session.submit("echo", 1)).result()

    assert run("asyncio", main) == 1
    assert path.read_text() == "precious"
    assert "does not hold a session of arcp-io" in caplog.text


def test_a_store_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    with pytest.raises(OSError):
        FileStore(tmp_path / "session").load()
    with pytest.raises(IsADirectoryError, match=str(tmp_path / "session")):
        FileStore(tmp_path / "session").load()
    with pytest.raises(OSError):
        FileStore(tmp_path / "nowhere" / "session").save(resumption())


def test_a_save_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path / "session")
    store.save(resumption(7))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save(resumption(8))
    monkeypatch.undo()
    assert told(store.load())[2] == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["session"]


def test_files_of_others_beside_a_session_are_kept(tmp_path: Path) -> None:
    for name in ("session.new", "session.lock"):
        (tmp_path / name).write_text("precious")
    with FileStore(tmp_path / "session") as store:
        store.save(resumption())
        store.clear()
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {
        "session.new": "precious",
        "session.lock": "precious",
    }


def test_no_lock_is_left(tmp_path: Path) -> None:
    with FileStore(tmp_path / "session") as store:
        store.save(resumption())
    assert [entry.name for entry in tmp_path.iterdir()] == ["session"]
    with FileStore(tmp_path / "session") as store:
        store.clear()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_an_interrupted_save_does_not_hinder_the_next(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "session")
    (tmp_path / "session.arcp-io-new").write_text("half of a sess")
    (tmp_path / "session.arcp-io-new").chmod(0o666)
    store.save(resumption())
    assert told(store.load())[2] == 7
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_stored_session_is_synced_before_its_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "session")
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> None:
        calls.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    store.save(resumption())
    assert calls == ["fsync", "replace", "fsync"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "session"
    code = (
        "import sys\n"
        "from arcp_io import FileStore\n"
        "with FileStore(sys.argv[1]):\n"
        "    print('entered', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "entered\n"
        with pytest.raises(StoreInUse, match="another process"), FileStore(path):
            pytest.fail("it is in use")
        other.kill()
        other.wait()
        with FileStore(path) as store, store:
            with pytest.raises(StoreInUse), FileStore(path):
                pytest.fail("it is in use")
            store.save(resumption())
    with FileStore(path) as store:
        assert told(store.load())[2] == 7
