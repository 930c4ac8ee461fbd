"""An independent count of a tree, to compare `index` with: written from the rules alone, with other means.

    python tests/io/counting.py PATH                       prints the count as one JSON object
    python tests/io/counting.py --compare PATH demo.json   exit 0 if `arcp-io demo PATH --json` said the same
    python tests/io/counting.py --make DIR N               makes a tree of N files, nasty ones among them

A file counts if it is regular (no link), no directory on its path below PATH begins with a dot, it can be
read, has no NUL in its first 8,192 bytes and is UTF-8. Every file is read whole.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import random
import re
import stat
import sys
from typing import Any

REPORT_KEYS = ("files", "bytes", "lines", "words", "by_extension", "largest", "identifiers", "skipped")


def count(root: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report on the tree at `root`."""
    sizes: dict[str, int] = {}
    extensions: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    names: collections.Counter[str] = collections.Counter()
    skipped = {"binary": 0, "unreadable": 0}
    lines = words = 0
    for path, below in _regular_files(os.fspath(root)):
        try:
            data = pathlib.Path(path).read_bytes()
        except OSError:
            skipped["unreadable"] += 1
            continue
        text = _as_text(data)
        if text is None:
            skipped["binary"] += 1
            continue
        line_count = len(data.split(b"\n")) - 1
        sizes[below] = len(data)
        lines += line_count
        words += len(text.split())
        extensions[pathlib.Path(below).suffix.lower()].update(files=1, bytes=len(data), lines=line_count)
        names.update(_identifiers(text))
    return {
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "lines": lines,
        "words": words,
        "by_extension": {extension: dict(counts) for extension, counts in extensions.items()},
        "largest": [
            {"path": path, "bytes": size}
            for path, size in sorted(sizes.items(), key=lambda one: (-one[1], one[0]))
        ][:10],
        "identifiers": [list(one) for one in sorted(names.items(), key=lambda one: (-one[1], one[0]))][:20],
        "skipped": skipped,
    }


def compare(root: str, said: dict[str, Any]) -> list[str]:
    """Return the differences of the object that the demo printed for the tree at `root`, one line each."""
    counted = count(root)
    wrong = [
        f"{key}: {said.get(key)!r}, counted {counted[key]!r}"
        for key in REPORT_KEYS
        if said.get(key) != counted[key]
    ]
    known = (*REPORT_KEYS, "events", "final_status", "drops", "resumes")
    wrong += [f"unexpected key {key!r}" for key in said if key not in known]
    if said.get("final_status") != "success":
        wrong.append(f"final_status: {said.get('final_status')!r}")
    if type(said.get("events")) is not int or said["events"] < 1:
        wrong.append(f"events: {said.get('events')!r}")
    return wrong


def make(root: str, number: int) -> None:
    """Make a tree of `number` regular files that are reached (at least 40), and some that must not be."""
    top = pathlib.Path(root)
    top.mkdir(parents=True)
    for name, data in NASTY.items():
        path = top / "nasty" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (top / "nasty" / "forbidden.txt").write_text("never seen but by root\n")
    (top / "nasty" / "forbidden.txt").chmod(0)
    _make_unreached(top)
    source = random.Random(number)
    for filler in range(number - len(NASTY) - 1):
        directory = top / f"part{filler % 97:02}" / f"deep{filler % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        extension = source.choice((".py", ".PY", ".txt", ".md", "", ".tar.gz", ".JSON"))
        (directory / f"file{filler}{extension}").write_text(_filler_text(source), newline="")


NASTY = {
    b"empty": b"",
    b"empty.TXT": b"",
    b"newline.txt": b"\n",
    b"no_newline.txt": b"last line without an end",
    b"crlf.txt": b"one\r\ntwo\r\n\r\nthree\r",
    b"blank.txt": b" \t\v\f\n \n",
    b"separators.txt": "a\u2028b\u2029c\x85d\x1ce\x1ff\u3000g\u00a0h\u200bi\ufeffj\n".encode(),
    b"words.txt": "na\u00efve x\u0301y \u4e2d\u6587name \U0001f600emoji 9lives __init__ _ 0x1F\n".encode(),
    b"bom.txt": b"\xef\xbb\xbfwith a mark\n",
    b"nul.txt": b"text\0text\n",
    b"nul_last_of_head.txt": b"a" * 8191 + b"\0\n",
    b"nul_after_head.txt": b"b" * 8192 + b"\0\n",
    b"invalid.txt": b"\xff\xfe not text\n",
    b"invalid_late.txt": b"good words\n" * 60_000 + b"\xc3(\n",
    b"truncated.txt": "caf\u00e9".encode()[:-1],
    b"surrogate.txt": b"\xed\xa0\x80\n",
    b"overlong.txt": b"\xc0\x80\n",
    b"long_line.txt": b"word " * 120_000,
    b"long_name.txt": b"x" * 60_000 + b" tail\n",
    b"cut_name.txt": b" " * (256 * 1024 - 3) + b"straddling_name and_more\n",
    b"cut_character.txt": b" " * (256 * 1024 - 1) + "\u00e9t\u00e9 \u00e9t\u00e9\n".encode(),
    b"cut_space.txt": b"a" * 10 + b" " * (256 * 1024 - 11) + b"b \n",
    b"two_blocks.txt": b"z " * (256 * 1024),
    b".hidden": b"hidden files count\n",
    b".hidden.cfg": b"so does this one\n",
    b"..twice": b"and this\n",
    b"many.dots.in.NAME.Txt": b"dots\n",
    b"trailing.": b"a dot at the end\n",
    b"space in name.txt": b"space\n",
    "\u00fcml\u00e4ut.T\u00c4XT".encode(): "\u00dc\n".encode(),
    b"line\nbreak.txt": b"name with a newline\n",
    b"escape\x1b[31m.txt": b"name with an escape\n",
    b"bad\xffbyte.t\xfft": b"name that is no UTF-8\n",
    b"tie_b.txt": b"t" * 500_000,
    b"tie_a.txt": b"t" * 500_000,
    b"plain.txt": b"plain\n",
    b"a/b/c/d/e/f/deep.txt": b"deep\n",
    b"a.dir/inside": b"its directory has a suffix\n",
    b"identifiers.txt": b"alpha beta alpha gamma beta alpha 1alpha alpha1 alpha-beta alpha.beta\n",
}
"""Path below `nasty` -> content."""


def _make_unreached(top: pathlib.Path) -> None:
    for directory in (".git", "nasty/.cache", ".git/visible"):
        (top / directory).mkdir(parents=True, exist_ok=True)
        (top / directory / "not_reached.txt").write_text("not reached\n")
    (top / "nasty" / "directory.txt").mkdir()
    (top / "nasty" / "link_to_file.txt").symlink_to("plain.txt")
    (top / "nasty" / "link_to_directory").symlink_to("..", target_is_directory=True)
    (top / "nasty" / "dangling.txt").symlink_to("nowhere")
    os.mkfifo(top / "nasty" / "pipe.txt")


def _filler_text(source: random.Random) -> str:
    words = [f"name{source.randrange(5_000)}" for _ in range(source.randrange(400))]
    end = source.choice(("\n", "\r\n", " ", "\u2028"))
    return end.join(" ".join(words[at : at + 9]) for at in range(0, len(words), 9)) + source.choice(
        ("", "\n")
    )


def _regular_files(root: str) -> list[tuple[str, str]]:
    """Path, and path below `root` as it is written, of every regular file that is reached."""
    found = []
    for directory, inner, files in os.walk(root, followlinks=False):
        inner[:] = [name for name in inner if name[0] != "."]
        for name in files:
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                below = (
                    os.path.relpath(path, root).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                )
                found.append((path, below))
    return found


def _as_text(data: bytes) -> str | None:
    if data.find(b"\0", 0, 8192) >= 0:
        return None
    try:
        return str(data, "utf-8", "strict")
    except UnicodeDecodeError:
        return None


def _identifiers(text: str) -> list[str]:
    runs = (run.lstrip("0123456789") for run in re.split("[^0-9A-Za-z_]", text))
    return [run for run in runs if run]


def main(arguments: list[str]) -> int:
    match arguments:
        case ["--make", directory, number]:
            make(directory, int(number))
        case ["--compare", path, report]:
            wrong = compare(path, json.loads(pathlib.Path(report).read_text()))
            print("\n".join(wrong) or "equal")
            return 1 if wrong else 0
        case [path]:
            print(json.dumps(count(path)))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
