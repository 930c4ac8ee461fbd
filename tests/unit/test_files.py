"""arcp_io.files: locks, and the replacement of files in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arcp_io.files import FileLock, Locked, free_name, replace_file, sync_directory


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    return FileLock(str(tmp_path / "a.lock"))


def test_a_lock_is_held_once(lock: FileLock) -> None:
    lock.acquire()
    lock.write(b"owner\n")
    with pytest.raises(Locked) as locked:
        FileLock(lock.path).acquire()
    assert locked.value.content == b"owner\n"
    lock.release()
    other = FileLock(lock.path)
    other.acquire()
    assert other.content() == b"owner\n"
    other.release()
    other.release()


def test_a_lock_is_private(lock: FileLock) -> None:
    Path(lock.path).touch(mode=0o644)
    lock.acquire()
    lock.write(b"1\n")
    assert os.stat(lock.path).st_mode & 0o777 == 0o600
    lock.release()


def test_the_file_of_a_lock_is_removed_by_its_owner_alone(lock: FileLock) -> None:
    lock.acquire()
    os.unlink(lock.path)
    Path(lock.path).touch()
    lock.release(remove=True)
    assert os.path.exists(lock.path), "it is another file, whose lock was not held"
    lock.acquire()
    lock.release(remove=True)
    assert not os.path.exists(lock.path)


def test_a_lock_is_not_taken_through_a_link(lock: FileLock, tmp_path: Path) -> None:
    target = tmp_path / "notes"
    target.write_text("precious")
    os.symlink(target, lock.path)
    with pytest.raises(OSError, match="symbolic link"):
        lock.acquire()
    assert target.read_text() == "precious"


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path, fresh = tmp_path / "a", tmp_path / "a.new"
    path.write_text("old")
    path.chmod(0o644)
    fresh.write_text("left by a crash, and longer than what follows")
    replace_file(str(path), str(fresh), b"new")
    sync_directory(str(path))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert not fresh.exists()


def test_a_file_that_cannot_be_replaced_is_unchanged(tmp_path: Path) -> None:
    path, fresh = tmp_path / "a", tmp_path / "a.new"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(str(path), str(fresh), b"new")
    assert path.is_dir()
    assert not fresh.exists()


def test_a_free_name_belongs_to_no_file(tmp_path: Path) -> None:
    stem = str(tmp_path / "copy")
    assert free_name(stem) == f"{stem}-1"
    (tmp_path / "copy-1").touch()
    assert free_name(stem) == f"{stem}-2"
