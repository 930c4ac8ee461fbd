"""The figures of `tests.scaling`, with few jobs and events."""

from __future__ import annotations

import pytest

from tests.scaling import listing, restoring, resuming


def test_pages(capsys: pytest.CaptureFixture[str]) -> None:
    listing((3, 120))
    rows = capsys.readouterr().out.splitlines()[-2:]
    found = [[word.strip("()") for word in row.split() if ")" in word] for row in rows]
    assert found == [["53", "3", "50", "0"], ["100", "100", "50", "0"]]


def test_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    resuming((10, 300))
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[-2:]] == ["10", "300"]


def test_restores(capsys: pytest.CaptureFixture[str]) -> None:
    restoring((3, 30))
    rows = [row.split()[:2] for row in capsys.readouterr().out.splitlines()[-2:]]
    assert rows == [["3", "14"], ["30", "122"]]
