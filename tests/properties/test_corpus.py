"""Every input that a fuzz target has ever needed, once more; and the harness itself."""

from __future__ import annotations

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


def test_what_the_words_of_a_target_may_be() -> None:
    for word in fuzz_wire.words():
        assert word.isascii()
        assert word.isprintable()


def test_an_input_that_fails_ends_a_run(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.ndjson"
    corpus.write_text('{"name": "fails", "hex": "ff"}\n')

    def check(data: bytes) -> None:
        assert data != b"\xff"

    with pytest.raises(AssertionError):
        harness.run(check, corpus)


def test_without_atheris_hypothesis_grows_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.ndjson"
    corpus.write_text('{"text": "é"}\n{"frame": {"type": "a"}}\n{"hex": "00ff"}\n')
    monkeypatch.setattr(harness, "_has_atheris", lambda: False)
    monkeypatch.setattr(sys, "argv", ["fuzz", "-runs=50"])
    tried: list[bytes] = []

    def check(data: bytes) -> None:
        tried.append(data)

    harness.run(check, corpus, ["word"])
    assert tried[:3] == ["é".encode(), b'{"type":"a"}', b"\x00\xff"]
    assert len(set(tried)) > 10
    assert "50 inputs, none failed" in capsys.readouterr().out


def test_a_line_of_a_corpus_says_what_it_is(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.ndjson"
    corpus.write_text('{"name": "nothing"}\n')
    with pytest.raises(ValueError, match="text, hex or frame"):
        list(harness.seeds(corpus))
