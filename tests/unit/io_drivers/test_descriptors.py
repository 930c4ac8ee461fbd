"""Descriptors: the limit of the process, and the part of it that connections may take."""

from __future__ import annotations

import logging
import resource
from typing import Any

import pytest

from arcp_io.drivers import descriptors
from arcp_io.drivers.descriptors import LEAST_KEPT, WANTED, early_of, raise_limit, room_of

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limit", "room"),
    [(0, 1), (128, 1), (129, 1), (130, 2), (511, 383), (512, 384), (516, 387), (1024, 768), (65_536, 49_152)],
)
def test_a_quarter_of_the_descriptors_is_reserved(limit: int, room: int) -> None:
    assert room_of(limit) == room
    assert room == 1 or limit - room >= max(LEAST_KEPT, limit // 4)


@pytest.mark.parametrize(("room", "early"), [(1, 1), (66, 1), (68, 2), (128, 32), (768, 352)])
def test_half_of_the_connections_may_be_early(room: int, early: int) -> None:
    assert early_of(room) == early
    assert early == 1 or early + min(early, 64) <= room // 2 + 32


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [
        (256, 1024, 1024),
        (1024, 1024, None),
        (1024, 2 * WANTED, WANTED),
        (1024, INFINITE, WANTED),
        (WANTED, INFINITE, None),
        (INFINITE, INFINITE, None),
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, soft: int, hard: int, then: int | None
) -> None:
    limits = [soft, hard]

    def set_limit(what: int, to: tuple[int, int]) -> None:
        assert (what, to) == (resource.RLIMIT_NOFILE, (then, hard))
        limits[0] = to[0]

    monkeypatch.setattr(resource, "getrlimit", lambda what: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    caplog.set_level(logging.INFO, "arcp_io")
    raise_limit()
    assert limits[0] == (soft if then is None else then)
    there = descriptors.descriptors()
    assert there == (WANTED if limits[0] == INFINITE else limits[0])
    assert caplog.messages == []


def test_a_refused_raise_of_the_limit_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
    assert caplog.messages == ["the limit on open files stays at 256: not allowed to raise maximum limit"]
    assert descriptors.descriptors() == 256
