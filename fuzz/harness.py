"""The runner of all fuzz targets: under atheris, or by random edits of a corpus.

A target is a function of bytes that returns, or raises when one of its checks fails:

    with harness.instrumented(__name__):
        from arcp_proto import wire

    def check(data: bytes) -> None: ...

    if __name__ == "__main__":
        harness.run(check, CORPUS)

From the root of the repository, `python -m fuzz.fuzz_wire --seed 1 --runs 100000` tries the same inputs in
every run, and `--seconds 600` stops after this time. `python -m fuzz.fuzz_wire -max_total_time=600` runs
libFuzzer by atheris, if that is installed; inputs that reach new code are then edited further.
"""

from __future__ import annotations

import argparse
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

Check = Callable[[bytes], None]

MAX_LENGTH: Final = 64 * 1024
"""The greatest number of bytes of one input."""
MOST_EDITS: Final = 6
MOST_CUT: Final = 16
"""The greatest number of bytes that one edit removes."""


def instrumented(module: str) -> AbstractContextManager[object]:
    """Return a context for the imports of the fuzzed code; under atheris it counts their branches."""
    if module != "__main__" or not _by_atheris():
        return nullcontext()
    context: AbstractContextManager[object] = _atheris().instrument_imports()
    return context


def seeds(corpus: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the inputs of a corpus by name, from JSON lines with `name` and `text`, `hex` or `frame`.

    `text` is sent as UTF-8, `hex` holds bytes that are not a text, `frame` is an envelope as JSON.
    """
    for number, line in enumerate(corpus.read_text(encoding="utf-8").splitlines(), 1):
        entry = json.loads(line)
        yield entry.get("name", f"line {number}"), _seed(entry)


def run(check: Check, corpus: Path, words: Sequence[str] = ()) -> None:
    """Try a corpus, then inputs that grow from it, until an input fails or the runs or seconds are used up.

    `words` are texts that inputs are likely to hold. The options are those of the command line.
    """
    for _name, data in seeds(corpus):
        check(data)
    if _by_atheris():
        _run_atheris(check, corpus, words)
        return
    options = _parser().parse_args()
    print(edit(check, corpus, words, seed=options.seed, runs=options.runs, seconds=options.seconds))


def edit(
    check: Check,
    corpus: Path,
    words: Sequence[str] = (),
    *,
    seed: int,
    runs: int,
    seconds: float = float("inf"),
) -> str:
    """Try random edits of a corpus, the same ones for the same seed; return their number and rate as a text.

    An input that fails is printed as a line for the corpus, and its error is raised.
    """
    dice, inputs = random.Random(seed), [data for _name, data in seeds(corpus)]
    pieces = [word.encode() for word in words] or [b"\0"]
    began, cpu, tried = time.monotonic(), time.process_time(), 0
    while tried < runs and time.monotonic() - began < seconds:
        data = edited(dice, inputs, pieces)
        try:
            check(data)
        except BaseException:
            print(entry(data, f"seed {seed}, run {tried}"), file=sys.stderr)
            raise
        tried += 1
    rates = [tried / max(took, 1e-9) for took in (time.monotonic() - began, time.process_time() - cpu)]
    return (
        f"{tried} runs from seed {seed}, none failed; {rates[0]:.0f} a second, {rates[1]:.0f} a second of CPU"
    )


def edited(dice: random.Random, inputs: Sequence[bytes], pieces: Sequence[bytes]) -> bytes:
    """Return one of the inputs with some bytes changed, removed, doubled, or replaced by a piece."""
    data = bytearray(dice.choice(inputs))
    for _ in range(1 + dice.randrange(MOST_EDITS)):
        at = dice.randrange(len(data) + 1)
        end = at + dice.randrange(MOST_CUT)
        match dice.randrange(7):
            case 0 if data:
                data[at - 1] ^= 1 << dice.randrange(8)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at : at + dice.randrange(64)]
            case 3:
                other = dice.choice(inputs)
                start = dice.randrange(len(other) + 1)
                data[at:end] = other[start : start + dice.randrange(64)]
            case 4:
                data[at:end] = dice.randbytes(dice.randrange(5))
            case 5:
                line = data.split(b"\n")
                dice.shuffle(line)
                data[:] = b"\n".join(line)
            case _:
                data[at : at + dice.choice((0, 0, end - at))] = dice.choice(pieces)
    return bytes(data[:MAX_LENGTH])


def entry(data: bytes, name: str) -> str:
    """Return an input as a line of a corpus."""
    try:
        return json.dumps({"name": name, "text": data.decode()}, ensure_ascii=False)
    except UnicodeDecodeError:
        return json.dumps({"name": name, "hex": data.hex()})


def quoted(word: str) -> str:
    """Return a word as a line of a dictionary of libFuzzer, which reads no other escapes than these."""
    plain = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02X}"
        for byte in word.encode()
    )
    return f'"{"".join(plain)}"'


def _seed(entry: dict[str, Any]) -> bytes:
    match entry:
        case {"text": str(text)}:
            return text.encode("utf-8", "surrogatepass")
        case {"hex": str(digits)}:
            return bytes.fromhex(digits)
        case {"frame": dict(frame)}:
            return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()
    raise ValueError("a line of a corpus has text, hex or frame")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", "-runs", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", "-max_total_time", type=float, default=60)
    return parser


def _by_atheris() -> bool:
    """Return whether libFuzzer runs: atheris is installed, and no option of the harness is given."""
    own = any(option.startswith("--") for option in sys.argv[1:])
    return not own and importlib.util.find_spec("atheris") is not None


def _atheris() -> Any:
    return importlib.import_module("atheris")


def _run_atheris(check: Check, corpus: Path, words: Sequence[str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix=f"{corpus.stem}-"))  # libFuzzer reads one seed from each file.
    grown = folder / "corpus"
    grown.mkdir()
    for number, (_name, data) in enumerate(seeds(corpus)):
        (grown / f"{number:04}").write_bytes(data)
    dictionary = folder / "words"
    dictionary.write_text("".join(f"{quoted(word)}\n" for word in words))
    limits = [f"-max_len={MAX_LENGTH}", "-timeout=10", "-rss_limit_mb=1024", f"-dict={dictionary}"]
    atheris = _atheris()
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(grown)], check)
    atheris.Fuzz()
