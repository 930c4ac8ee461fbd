"""arcp_io.agents.safe_open: only an allowed file is opened, also when its path changes meanwhile."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from arcp_io.agents import safe_open
from arcp_io.agents.safe_open import open_allowed
from arcp_io.errors import Denied
from arcp_proto.errors import ErrorCode


class Gate:
    """A gate that allows the paths below `allowed`; `asked` has every question that it was asked."""

    def __init__(self, *allowed: Path | str) -> None:
        self.allowed = [str(path) for path in allowed]
        self.asked: list[tuple[str, str]] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, capability: str, target: str) -> None:
        self.asked.append((capability, target))
        if not any(fnmatchcase(target, f"{path}*") for path in self.allowed):
            raise Denied(ErrorCode.PERMISSION_DENIED, f"{capability} does not cover {target}")
        self.meanwhile()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory, by its real path, with `data`, which is allowed, and `secret`, which is not."""
    root = tmp_path.resolve()
    for name in ("data", "secret"):
        (root / name).mkdir()
        (root / name / "file").write_text(name)
    return root


@pytest.fixture
def gate(place: Path) -> Gate:
    return Gate(place / "data")


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    descriptors = Path("/proc/self/fd")
    before = len(os.listdir(descriptors)) if descriptors.exists() else 0
    yield
    assert before == (len(os.listdir(descriptors)) if descriptors.exists() else 0)


def read(path: Path | str, gate: Gate, mode: str = "r", **options: Any) -> Any:
    with open_allowed(path, mode, gate, **options) as file:
        return file.read()


def write(path: Path | str, gate: Gate, mode: str = "w", text: Any = "new", **options: Any) -> None:
    with open_allowed(path, mode, gate, **options) as file:
        file.write(text)


# Files that are opened.


MODES = {
    "r": (["fs.read"], "data"),
    "rb": (["fs.read"], b"data"),
    "rt": (["fs.read"], "data"),
    "r+": (["fs.read", "fs.write"], "data"),
    "r+b": (["fs.read", "fs.write"], b"data"),
    "w+": (["fs.read", "fs.write"], ""),
    "a+": (["fs.read", "fs.write"], ""),
}


@pytest.mark.parametrize("mode", MODES)
def test_reading_modes_ask_for_fs_read(place: Path, gate: Gate, mode: str) -> None:
    capabilities, text = MODES[mode]
    assert read(place / "data/file", gate, mode) == text
    assert gate.asked == [(capability, str(place / "data/file")) for capability in capabilities]


@pytest.mark.parametrize(
    ("mode", "text", "then"),
    [
        ("w", "nü", b"n\xc3\xbc"),
        ("wb", b"n", b"n"),
        ("a", "n", b"datan"),
        ("ab", b"n", b"datan"),
        ("r+", "n", b"nata"),
    ],
)
def test_writing_modes_ask_for_fs_write(place: Path, gate: Gate, mode: str, text: Any, then: bytes) -> None:
    write(place / "data/file", gate, mode, text)
    assert (place / "data/file").read_bytes() == then
    assert gate.asked[-1] == ("fs.write", str(place / "data/file"))


@pytest.mark.parametrize("mode", ["w", "a", "x", "w+", "x+"])
def test_creating_modes_make_a_file_that_is_not_executable(place: Path, gate: Gate, mode: str) -> None:
    write(place / "data/new", gate, mode)
    assert (place / "data/new").read_text() == "new"
    assert (place / "data/new").stat().st_mode & 0o111 == 0


def test_mode_x_creates_only_a_new_file(place: Path, gate: Gate) -> None:
    with pytest.raises(FileExistsError):
        write(place / "data/file", gate, "x")
    assert (place / "data/file").read_text() == "data"


@pytest.mark.parametrize("mode", ["", "rw", "z", "rbt", "rr", "r++", "b", "+", "U"])
def test_a_wrong_mode_raises(place: Path, gate: Gate, mode: str) -> None:
    with pytest.raises(ValueError, match="is not a valid mode"):
        open_allowed(place / "data/file", mode, gate)
    assert gate.asked == []


def test_an_opened_file_is_an_ordinary_file(place: Path, gate: Gate) -> None:
    with open_allowed(place / "data/file", "r", gate) as file:
        assert (file.name, file.mode, file.encoding) == (str(place / "data/file"), "r", "utf-8")
        assert os.get_blocking(file.fileno())
        assert not os.get_inheritable(file.fileno())
    write(place / "data/file", gate, text="a\nb", newline="\r\n", encoding="latin-1", buffering=1)
    assert (place / "data/file").read_bytes() == b"a\r\nb"


@pytest.mark.parametrize(
    ("options", "error"), [({"encoding": "no such"}, LookupError), ({"buffering": 0}, ValueError)]
)
def test_wrong_options_of_open_leave_the_file_unchanged(
    place: Path, gate: Gate, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        write(place / "data/file", gate, **options)
    assert (place / "data/file").read_text() == "data"


@pytest.mark.parametrize(("path", "error"), [(b"/data", TypeError), ("/data\0", ValueError), (7, TypeError)])
def test_a_wrong_path_raises(gate: Gate, path: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_allowed(path, "r", gate)
    assert gate.asked == []


def test_a_relative_path_is_resolved_at_the_current_directory(
    place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place / "data")
    assert read("file", gate) == "data"
    with pytest.raises(Denied):
        read("../secret/file", gate)


# Paths with links, and relative paths.


@pytest.mark.parametrize(
    "path", ["secret/../data/file", "data/./file", "data//file", "data/../data/file", "../{}/data/file"]
)
def test_paths_are_resolved_before_the_gate_is_asked(place: Path, gate: Gate, path: str) -> None:
    assert read(f"{place}/{path.format(place.name)}", gate) == "data"
    assert gate.asked == [("fs.read", str(place / "data/file"))]


@pytest.mark.parametrize(
    "path", ["data/../secret/file", "data/x/../../secret/file", "secret/file", "data/../../{}/secret/file"]
)
def test_a_path_with_dots_is_refused_outside_the_lease(place: Path, gate: Gate, path: str) -> None:
    for mode in ("r", "w", "a", "x"):
        with pytest.raises(Denied, match="secret/file"):
            open_allowed(f"{place}/{path.format(place.name)}", mode, gate)
    assert (place / "secret/file").read_text() == "secret"


@pytest.mark.parametrize("target", ["../secret/file", "{}/secret/file", "../data/../secret/file"])
def test_a_link_out_of_the_lease_is_refused(place: Path, gate: Gate, target: str) -> None:
    (place / "data/link").symlink_to(target.format(place))
    for mode in ("r", "w", "a", "r+"):
        with pytest.raises(Denied, match="secret/file"):
            open_allowed(place / "data/link", mode, gate)
    assert (place / "secret/file").read_text() == "secret"


def test_a_linked_directory_out_of_the_lease_is_refused(place: Path, gate: Gate) -> None:
    (place / "data/link").symlink_to("../secret")
    for path in ("data/link/file", "data/link/new", "data/link/no/such"):
        with pytest.raises(Denied):
            open_allowed(place / path, "w", gate)
    assert os.listdir(place / "secret") == ["file"]


def test_the_gate_is_asked_for_the_target_of_a_link(place: Path, gate: Gate) -> None:
    (place / "in").symlink_to("data")
    (place / "data/link").symlink_to("./../in/file")
    assert read(place / "in/link", gate) == "data"
    assert gate.asked == [("fs.read", str(place / "data/file"))]


def test_dots_behind_a_link_are_resolved_at_its_target(place: Path, gate: Gate) -> None:
    (place / "secret/in").mkdir()
    (place / "data/link").symlink_to("../secret/in")
    with pytest.raises(Denied, match="secret/file"):
        read(place / "data/link/../file", gate)


def test_a_dangling_link_creates_its_target_or_nothing(place: Path, gate: Gate) -> None:
    (place / "data/in").symlink_to("made")
    (place / "data/out").symlink_to("../secret/made")
    write(place / "data/in", gate)
    assert (place / "data/made").read_text() == "new"
    for mode in ("w", "a", "x"):
        with pytest.raises(Denied):
            write(place / "data/out", gate, mode)
    assert not (place / "secret/made").exists()


def test_a_loop_of_links_is_refused(place: Path, gate: Gate) -> None:
    (place / "data/a").symlink_to("b")
    (place / "data/b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels") as caught:
        read(place / "data/a", gate)
    assert caught.value.errno == errno.ELOOP


def test_an_endless_path_is_refused(place: Path, gate: Gate) -> None:
    (place / "data/here").symlink_to(".")
    assert read(f"{place}/data/{'here/' * 30}file", gate) == "data"
    with pytest.raises(OSError, match="Too many levels"):
        read(f"{place}/data/{'here/' * 300}file", gate)
    deep = place / "data"
    for _ in range(safe_open.DEPTH):
        deep = deep / "d"
        deep.mkdir()
    with pytest.raises(OSError, match="too long"):
        write(deep / "file", gate)


# A refusal tells nothing about a path that is not allowed.


@pytest.mark.parametrize(
    "path",
    [
        "secret/file",
        "secret/no",
        "secret/no/such",
        "secret/file/below",
        "secret/loop",
        "secret/",
        "secret",
        "no/../secret",
    ],
)
def test_the_existence_of_a_file_is_told_only_if_the_lease_allows_it(
    place: Path, gate: Gate, path: str
) -> None:
    (place / "secret/loop").symlink_to("loop")
    for mode in ("r", "w", "x"):
        with pytest.raises(Denied):
            open_allowed(f"{place}/{path}", mode, gate)
    assert sorted(os.listdir(place / "secret")) == ["file", "loop"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("data/no", FileNotFoundError),
        ("data/no/such", FileNotFoundError),
        ("data/file/below", NotADirectoryError),
        ("data", IsADirectoryError),
        ("data/..", Denied),
        ("data/below/..", IsADirectoryError),
        ("data/file/", NotADirectoryError),
        ("data/" + "n" * 300, OSError),
    ],
)
def test_a_file_that_cannot_be_opened_raises(
    place: Path, gate: Gate, path: str, error: type[Exception]
) -> None:
    (place / "data/below").mkdir()
    with pytest.raises(error):
        open_allowed(f"{place}/{path}", "r", gate)


def test_the_root_is_a_directory() -> None:
    with pytest.raises(IsADirectoryError):
        open_allowed("/", "r", Gate(""))


# Pipes, sockets, devices, and files with another name.


def test_pipes_sockets_and_devices_are_refused_before_they_are_opened(place: Path, gate: Gate) -> None:
    os.mkfifo(place / "data/pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "data/socket"))
        for path in (place / "data/pipe", place / "data/socket", "/dev/null", "/dev/tty"):
            for mode in ("r", "w", "a", "r+"):
                with pytest.raises(Denied, match="opens regular files only"):
                    open_allowed(path, mode, Gate(place, "/dev"))


@pytest.mark.parametrize("mode", ["r", "w", "a", "r+"])
def test_a_file_with_another_name_is_refused(place: Path, gate: Gate, mode: str) -> None:
    os.link(place / "secret/file", place / "data/hard")
    with pytest.raises(Denied, match="one of 2 names of a file"):
        open_allowed(place / "data/hard", mode, gate)
    assert (place / "secret/file").read_text() == "secret"
    open_allowed(place / "data/hard", mode, gate, hard_links=True).close()


# Paths that change while the gate is asked: after the walk, and before the file is opened.


def swap(path: Path, target: Path | str) -> Callable[[], None]:
    """Put a link in the place of a file or directory, once."""

    def meanwhile() -> None:
        if not path.is_symlink():
            path.rename(path.with_name(f"{path.name} of before"))
            path.symlink_to(target)

    return meanwhile


@pytest.mark.parametrize("mode", ["r", "w", "a", "r+"])
def test_a_file_replaced_by_a_link_is_refused(place: Path, gate: Gate, mode: str) -> None:
    gate.meanwhile = swap(place / "data/file", "../secret/file")
    with pytest.raises(Denied, match="secret/file"):
        open_allowed(place / "data/file", mode, gate)
    assert (place / "secret/file").read_text() == "secret"


def test_a_file_replaced_by_a_link_to_an_allowed_file_is_opened(place: Path, gate: Gate) -> None:
    (place / "data/other").write_text("other")
    gate.meanwhile = swap(place / "data/file", "other")
    assert read(place / "data/file", gate) == "other"


def test_a_new_file_replaced_by_a_link_is_refused(place: Path, gate: Gate) -> None:
    gate.meanwhile = lambda: (
        (place / "data/new").is_symlink() or (place / "data/new").symlink_to("../secret/made")
    )
    for mode in ("w", "a", "x"):
        with pytest.raises(Denied):
            open_allowed(place / "data/new", mode, gate)
        assert not (place / "secret/made").exists()
        (place / "data/new").unlink()


@pytest.mark.parametrize("mode", ["r", "w", "a", "r+"])
def test_a_directory_replaced_by_a_link_is_refused(place: Path, gate: Gate, mode: str) -> None:
    (place / "data/below").mkdir()
    (place / "data/below/file").write_text("below")
    gate.meanwhile = swap(place / "data/below", "../secret")
    with pytest.raises(Denied, match="secret/file"):
        open_allowed(place / "data/below/file", mode, gate)
    assert (place / "secret/file").read_text() == "secret"
    assert (place / "data/below of before/file").read_text() == "below"


def test_a_directory_that_moves_away_takes_no_new_file_along(place: Path, gate: Gate) -> None:
    (place / "data/below").mkdir()
    moved = place / "secret/moved"

    def meanwhile() -> None:
        if not moved.exists():
            (place / "data/below").rename(moved)

    gate.meanwhile = meanwhile
    with pytest.raises(FileNotFoundError):
        write(place / "data/below/new", gate)
    assert os.listdir(moved) == []


def test_a_file_that_becomes_a_pipe_does_not_block(place: Path, gate: Gate) -> None:
    def meanwhile() -> None:
        if not (place / "data/file").is_fifo():
            (place / "data/file").unlink()
            os.mkfifo(place / "data/file")

    gate.meanwhile = meanwhile
    for mode in ("r", "w", "r+"):
        with pytest.raises(Denied, match="regular files only"):
            open_allowed(place / "data/file", mode, gate)


def test_a_file_that_disappears_raises(place: Path, gate: Gate) -> None:
    gate.meanwhile = lambda: (place / "data/file").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        open_allowed(place / "data/file", "r", gate)
    (place / "data/file").write_text("again")
    write(place / "data/file", gate)
    assert (place / "data/file").read_text() == "new"


def test_a_path_that_keeps_changing_is_refused(
    place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opens = place / "data/file", os.open

    def racing(name: Any, *args: Any, **options: Any) -> int:
        descriptor = opens(name, *args, **options)
        if name == "file":
            path.rename(path.with_name(f"{len(gate.asked)}"))
            path.write_text("another")
        return descriptor

    monkeypatch.setattr(safe_open.os, "open", racing)
    with pytest.raises(OSError, match="keeps changing"):
        open_allowed(path, "w", gate)
    assert len(gate.asked) == safe_open.ATTEMPTS
    assert {file.read_text() for file in path.parent.iterdir()} == {"data", "another"}


def test_a_race_against_the_check_is_never_won(place: Path, gate: Gate) -> None:
    """Replace a file by a link, and the link by a file, in another thread, as fast as possible."""
    ended = threading.Event()
    path, other = place / "data/file", place / "data/other"

    def race() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            if number % 2:
                other.symlink_to("../secret/file")
            else:
                other.write_text("data")
            os.replace(other, path)

    thread = threading.Thread(target=race)
    thread.start()
    seen: dict[str, int] = {}
    try:
        for number in range(2000):
            try:
                if number % 4:
                    text = read(path, gate)
                else:
                    write(path, gate, text="data")
                    text = "wrote"
            except (Denied, OSError) as error:
                text = type(error).__name__
            seen[text] = seen.get(text, 0) + 1
    finally:
        ended.set()
        thread.join()
    assert (place / "secret/file").read_text() == "secret"
    assert "secret" not in seen
    assert seen["Denied"] > 0


def test_a_path_longer_than_a_target_is_refused_before_it_is_walked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_open, "_Walk", None)
    path = f"{place}/data" + "/a" * 4_096
    gate = Gate("/nothing")
    with pytest.raises(Denied):
        open_allowed(path, "r", gate)
    assert gate.asked == [("fs.read", path)]
    with pytest.raises(OSError) as failed:
        open_allowed(path, "w", Gate("/"))
    assert failed.value.errno == errno.ENAMETOOLONG
