"""A few hundred runs of every fuzz target, from a seed of their own."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from arcp_proto.errors import InvariantViolated
from arcp_proto.leases.lease import Grants
from fuzz import (
    fuzz_child,
    fuzz_grants,
    fuzz_inputs,
    fuzz_journal,
    fuzz_leases,
    fuzz_urls,
    fuzz_websocket,
    fuzz_wire,
    harness,
)

from .machines import examples

TARGETS = (
    fuzz_child,
    fuzz_grants,
    fuzz_inputs,
    fuzz_journal,
    fuzz_leases,
    fuzz_urls,
    fuzz_websocket,
    fuzz_wire,
)
RUNS = 1_200
"""Of each target in the profile `ci`; in `quick` a quarter of them."""


NEW = (fuzz_child, fuzz_journal, fuzz_leases, fuzz_urls)


@pytest.mark.parametrize(
    ("target", "data"),
    [
        pytest.param(target, data, id=f"{target.__name__}: {name}")
        for target in NEW
        for name, data in harness.seeds(target.CORPUS)
    ],
)
def test_the_corpus(target: ModuleType, data: bytes) -> None:
    target.check(data)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://h.example/a/%2e%2e/../x", "httpx reads"),
        ("http://h.example:0/x", "is not a URL to send"),
        ("http://h.example/v1#/../x#", "httpx reads"),
        ("http://h.example/\u00e9", "is not a URL to send"),
        ("http://a\u115fb.example/", "is not a URL to send"),
    ],
)
def test_a_gate_that_hands_back_what_it_is_given_is_found(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuzz_urls.check(url.encode())
    monkeypatch.setattr(fuzz_urls, "canonical", lambda _, url: url)
    monkeypatch.setattr(fuzz_urls, "matchable", lambda _, url: url)
    with pytest.raises(InvariantViolated, match=told):
        fuzz_urls.check(url.encode())


@pytest.mark.parametrize(("always", "told"), [(True, "covered and not allowed"), (False, "itself")])
def test_a_comparison_that_always_says_the_same_is_found(
    always: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = b"fs.read\n+/a/*\n-/a/**"
    fuzz_leases.check(pair)
    monkeypatch.setattr(Grants, "covers", lambda *_: always)
    with pytest.raises(InvariantViolated, match=told):
        fuzz_leases.check_pair("fs.read", ["/a/*"], ["/a/**"], random.Random(1))


def test_tiny_patterns_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_leases.check_tiny(bytes([3, 0, 0, 3, 1, 0, 4, 4, 4]))
    monkeypatch.setattr(Grants, "covers", lambda *_: True)
    with pytest.raises(InvariantViolated, match="covered is True"):
        fuzz_leases.check_tiny(bytes([3, 0, 0, 3, 1, 0, 4, 4, 4]))


def test_a_process_that_reaches_the_job_of_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b's emit ["log",{"level":"info","message":"m"},null]'
    fuzz_child.check(lines)

    def serve(outside: fuzz_child.Outside, pipes: fuzz_child.Pipes) -> bool:
        outside.world.emit(outside.other_id, "log", {"level": "info", "message": "m"})
        return True

    monkeypatch.setattr(fuzz_child.Outside, "serve", serve)
    with pytest.raises(InvariantViolated, match="another principal"):
        fuzz_child.check(lines)


def test_lines_of_a_process_reach_its_own_job() -> None:
    outside = fuzz_child.Outside()
    lines = [
        b's emit ["log",{"level":"info","message":"m"},null]',
        b'q reserve ["USD","1"]',
        b"q reserve [1]",
    ]
    pipes = fuzz_child.Pipes(b"\n".join(lines))
    assert not outside.serve(pipes)
    assert (pipes.asked, pipes.answered) == (3, 1)
    assert str(outside.world.state.jobs[outside.running.start.job_id].budget.free("USD")) == "4"
    assert [frame["payload"]["body"]["message"] for frame in outside.mine.of("job.event")] == ["m"]


def test_records_that_are_lost_in_silence_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fuzz_journal.open_at
    monkeypatch.setattr(fuzz_journal, "open_at", lambda path: ((opened(path) or ([], ""))[0][:-1], ""))
    with pytest.raises(InvariantViolated, match="1 records are lost without a notice"):
        fuzz_journal.check(b"\0")


def test_records_that_were_never_written_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fuzz_journal.open_at
    monkeypatch.setattr(fuzz_journal, "open_at", lambda path: ((opened(path) or ([], ""))[0][1:], "told"))
    with pytest.raises(InvariantViolated, match="never written"):
        fuzz_journal.check(b"\0")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_edits_of_the_corpus(target: ModuleType) -> None:
    runs = examples(RUNS)
    words = target.WORDS if target is fuzz_websocket else target.words()
    told = harness.edit(target.check, target.CORPUS, words, seed=1, runs=runs)
    assert told.startswith(f"{runs} runs from seed 1, none failed")
