"""Every input that a fuzz target has ever needed, once more; and the harness itself."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from fuzz import fuzz_wire, harness

CORPUS: Final = Path(harness.__file__).parent / "corpus"


def inputs(name: str) -> list[Any]:
    return [pytest.param(data, id=about) for about, data in harness.seeds(CORPUS / name)]


@pytest.mark.parametrize("data", inputs("wire.ndjson") + inputs("peer_frames.ndjson"))
def test_messages_and_lines(data: bytes) -> None:
    fuzz_wire.check(data)


@pytest.mark.parametrize("data", inputs("wire.ndjson"))
def test_messages_that_are_cut_short(data: bytes) -> None:
    for end in range(0, len(data), len(data) // 50 + 1):
        fuzz_wire.check_message(data[:end])


def test_words_of_a_target_are_printable_ascii() -> None:
    for word in fuzz_wire.words():
        assert word.isascii()
        assert word.isprintable()


def corpus_of(tmp_path: Path, *lines: str) -> Path:
    corpus = tmp_path / "corpus.ndjson"
    corpus.write_text("".join(f"{line}\n" for line in lines))
    return corpus


def test_an_input_that_fails_ends_a_run(tmp_path: Path) -> None:
    def check(data: bytes) -> None:
        assert data != b"\xff"

    with pytest.raises(AssertionError):
        harness.run(check, corpus_of(tmp_path, '{"name": "fails", "hex": "ff"}'))


SEEDS: Final = ('{"text": "é"}', '{"frame": {"type": "a"}}', '{"hex": "00ff"}')


def test_edits_grow_the_corpus_and_are_the_same_for_the_same_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[list[bytes]] = []
    for seed in ("1", "1", "2"):
        monkeypatch.setattr(sys, "argv", ["fuzz", "--seed", seed, "--runs=50"])
        tried.append([])
        harness.run(tried[-1].append, corpus_of(tmp_path, *SEEDS), ["word"])
    assert tried[0][:3] == ["é".encode(), b'{"type":"a"}', b"\x00\xff"]
    assert tried[0] == tried[1] != tried[2]
    assert len(tried[0]) == 53
    assert len(set(tried[0])) > 30
    assert any(b"word" in data for data in tried[0])
    assert "50 runs from seed 1, none failed" in capsys.readouterr().out


def test_an_edit_that_fails_is_told_as_a_line_for_the_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(data: bytes) -> None:
        assert b"word" not in data

    corpus = corpus_of(tmp_path, *SEEDS)
    with pytest.raises(AssertionError):
        harness.edit(check, corpus, ["word"], seed=1, runs=1_000)
    told = corpus_of(tmp_path, capsys.readouterr().err.strip())
    [(name, data)] = harness.seeds(told)
    assert name.startswith("seed 1, run ")
    assert b"word" in data


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("a b", '"a b"'),
        ("\ne log ", '"\\x0Ae log "'),
        ('"\\', '"\\x22\\x5C"'),
        ("é\x7f", '"\\xC3\\xA9\\x7F"'),
    ],
)
def test_words_as_libfuzzer_reads_them(word: str, line: str) -> None:
    assert harness.quoted(word) == line


def test_a_run_ends_by_time(tmp_path: Path) -> None:
    assert harness.edit(len, corpus_of(tmp_path, *SEEDS), seed=1, runs=10**9, seconds=0).startswith("0 runs")


def test_inputs_are_bounded(tmp_path: Path) -> None:
    dice, long = random.Random(1), b"x" * harness.MAX_LENGTH
    lengths = {len(harness.edited(dice, [long], [b"word"])) for _ in range(50)}
    assert max(lengths) == harness.MAX_LENGTH


def test_a_line_of_a_corpus_says_what_it_is(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.ndjson"
    corpus.write_text('{"name": "nothing"}\n')
    with pytest.raises(ValueError, match="text, hex or frame"):
        list(harness.seeds(corpus))
