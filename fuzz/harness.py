"""One way to run every fuzz target: under atheris where it is installed, else under hypothesis.

A target is a function of bytes that returns, or raises when what it checks does not hold:

    with harness.instrumented(__name__):
        from arcp_proto import wire

    def check(data: bytes) -> None: ...

    if __name__ == "__main__":
        harness.run(check, CORPUS)

From the root of the repository: `PYTHONPATH=. python fuzz/fuzz_wire.py -max_total_time=600`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Check = Callable[[bytes], None]

MAX_LENGTH: Final = 64 * 1024
"""Bytes of one input."""


def instrumented(module: str) -> AbstractContextManager[object]:
    """Goes around the imports of what is fuzzed; counts their branches when `module` is `__main__`."""
    if module != "__main__" or not _has_atheris():
        return nullcontext()
    context: AbstractContextManager[object] = _atheris().instrument_imports()
    return context


def seeds(corpus: Path) -> Iterator[tuple[str, bytes]]:
    """The inputs of a corpus by name: one JSON object a line, with `name` and `text`, `hex` or `frame`.

    `text` is sent as UTF-8, `hex` holds bytes that are no text, `frame` is an envelope as JSON.
    """
    for number, line in enumerate(corpus.read_text(encoding="utf-8").splitlines(), 1):
        entry = json.loads(line)
        yield entry.get("name", f"line {number}"), _seed(entry)


def run(check: Check, corpus: Path, words: Sequence[str] = ()) -> None:
    """Try a corpus, then whatever grows from it, until an input fails or the time given is over.

    `words` are what inputs are likely to hold, in printable ASCII. Takes libFuzzer's options from the
    command line; hypothesis knows `-runs=N` and `-max_total_time=SECONDS`.
    """
    for _name, data in seeds(corpus):
        check(data)
    if _has_atheris():
        _run_atheris(check, corpus, words)
    else:
        _run_hypothesis(check, corpus, words)


def _seed(entry: dict[str, Any]) -> bytes:
    match entry:
        case {"text": str(text)}:
            return text.encode("utf-8", "surrogatepass")
        case {"hex": str(digits)}:
            return bytes.fromhex(digits)
        case {"frame": dict(frame)}:
            return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()
    raise ValueError("a line of a corpus has text, hex or frame")


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def _atheris() -> Any:
    return importlib.import_module("atheris")


def _run_atheris(check: Check, corpus: Path, words: Sequence[str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix=f"{corpus.stem}-"))  # libFuzzer reads a file a seed.
    grown = folder / "corpus"
    grown.mkdir()
    for number, (_name, data) in enumerate(seeds(corpus)):
        (grown / f"{number:04}").write_bytes(data)
    dictionary = folder / "words"
    dictionary.write_text("".join(f"{json.dumps(word)}\n" for word in words))
    limits = [f"-max_len={MAX_LENGTH}", "-timeout=10", "-rss_limit_mb=1024", f"-dict={dictionary}"]
    atheris = _atheris()
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(grown)], check)
    atheris.Fuzz()


def _run_hypothesis(check: Check, corpus: Path, words: Sequence[str]) -> None:
    runs = _option("runs", 10_000)
    deadline = time.monotonic() + _option("max_total_time", 10**9)
    inputs = given(_grown([data for _name, data in seeds(corpus)], [word.encode() for word in words]))
    target: Any = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))(
        inputs(check)
    )
    fuzz_one_input: Check = target.hypothesis.fuzz_one_input
    tried = 0
    while tried < runs and time.monotonic() < deadline:
        fuzz_one_input(random.randbytes(random.randrange(1, 4096)))
        tried += 1
    print(f"{tried} inputs, none failed")


def _option(name: str, default: int) -> int:
    given_options = [option for option in sys.argv[1:] if option.startswith(f"-{name}=")]
    return int(given_options[-1].partition("=")[2]) if given_options else default


def _grown(grown_from: list[bytes], words: list[bytes]) -> st.SearchStrategy[bytes]:
    """Arbitrary bytes, and seeds with words, each other or anything put into them."""
    piece = st.binary(max_size=16) | st.sampled_from(grown_from + words)
    place = st.integers(0, 1 << 16)
    edits = st.lists(st.tuples(place, place, piece), max_size=8)
    return st.binary() | st.builds(_edited, st.sampled_from(grown_from), edits)


def _edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for start, length, piece in edits:
        at = start % (len(data) + 1)
        data = data[:at] + piece + data[at + length % 16 :]
    return data[:MAX_LENGTH]
