"""arcp_io.server.recording: the file of a recording, its bound, and disks that fail or are slow."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from arcp_io.app import App
from arcp_io.server import recording as recording_file
from arcp_io.server.recording import LEAST_SIZE, Recording, recorded
from arcp_proto import replay
from arcp_proto.engine.endpoint import state_of
from tests.unit.world import World


def spoken(recording: Recording, jobs: int = 3) -> World:
    """Return a recorded runtime that has run some jobs."""
    world = World()
    recording.begin(world.runtime)
    client = world.client()
    for number in range(jobs):
        job = client.submit("echo", {"number": number})
        world.emit(job)
        world.finish(job, "☃" * 1000)
    return world


def test_a_recording_runs_again_and_is_private(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "r")
    world = spoken(recording)
    recording.close()
    lines = (tmp_path / "r").read_text().splitlines()
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o600
    envelopes = [envelope for _, envelope in replay(lines).envelopes]
    assert sum(b'"job.result"' in envelope for envelope in envelopes) == 3
    assert "tok-alice" not in "".join(lines)
    assert state_of(world.runtime).recorder is not None


def test_a_recording_ends_at_its_limit_and_the_runtime_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recording = Recording(tmp_path / "r", LEAST_SIZE)
    world = spoken(recording, 100)
    recording.close()
    data = (tmp_path / "r").read_bytes()
    assert LEAST_SIZE - 5_000 < len(data) <= LEAST_SIZE
    assert data.endswith(b"\n")
    assert 10 < sum(b'"job.result"' in raw for _, raw in replay(data.decode().splitlines()).envelopes) < 100
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    reason = "it has reached its limit of 65,536 bytes; the runtime goes on"
    assert told == [f"the recording {tmp_path / 'r'} ends: {reason}"]
    assert state_of(world.runtime).recorder is None


@pytest.mark.parametrize("truncates", [True, False])
def test_a_full_disk_ends_the_recording_behind_a_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, truncates: bool
) -> None:
    write, room = os.write, [2_500]

    def write_until_full(file: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = data[: min(room[0], 300)]
        room[0] -= len(part)
        return write(file, part)

    def fail(file: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(recording_file.os, "write", write_until_full)
    if not truncates:
        monkeypatch.setattr(recording_file.os, "ftruncate", fail)
    recording = Recording(tmp_path / "r")
    world = World()
    recording.begin(world.runtime)
    client = world.client()
    while recording._thread.is_alive():
        world.finish(client.submit("echo"), "☃" * 10)
    world.finish(client.submit("echo"))
    recording.close()
    data = (tmp_path / "r").read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    assert (data == whole) is truncates
    assert len(data) <= 2_500
    if whole:
        replay(whole.decode().splitlines())
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == [f"the recording {tmp_path / 'r'} ends: No space left on device; the runtime goes on"]
    assert state_of(world.runtime).recorder is None


def test_a_slow_disk_ends_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, may_write = os.write, threading.Event()

    def write_later(file: int, data: memoryview) -> int:
        may_write.wait()
        return write(file, data)

    monkeypatch.setattr(recording_file.os, "write", write_later)
    monkeypatch.setattr(recording_file, "WAITING", 20_000)
    recording = Recording(tmp_path / "r")
    world = spoken(recording, 100)
    may_write.set()
    recording.close()
    data = (tmp_path / "r").read_bytes()
    assert data.endswith(b"\n") and len(data) <= 20_000
    replay(data.decode().splitlines())
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told.endswith("ends: the disk is slow, and 20,000 bytes wait; the runtime goes on")
    assert state_of(world.runtime).recorder is None


def test_a_file_that_exists_is_not_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "r").write_text("mine")
    app = App("x", "1", anonymous=True, recording=tmp_path / "r")
    assert recorded(app, World().runtime) is None
    assert (tmp_path / "r").read_text() == "mine"
    assert caplog.messages == [f"nothing is recorded: {tmp_path / 'r'} exists, and is not replaced"]


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    app = App("x", "1", anonymous=True, recording=tmp_path / "absent" / "r")
    with pytest.raises(FileNotFoundError):
        recorded(app, World().runtime)


def test_a_recording_has_room() -> None:
    with pytest.raises(ValueError, match="recording_bytes is at least 65536"):
        App("x", "1", recording_bytes=LEAST_SIZE - 1)
