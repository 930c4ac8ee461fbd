"""python -m benchmarks.walks: count the files of arcp_proto that a message visits up to its answer.

The program counts a walk by `sys.setprofile` on a warm connection. `--files` names the files.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from arcp_proto import Connection

from .core import Core

ROOT: Final = Path(inspect.getfile(Connection)).parents[1]
LEASE: Final = {"tool.call": ["search"], "cost.budget": ["USD:5"]}


def measure() -> dict[str, list[str]]:
    """Return the files of each walk, in the order of the first visit."""
    core = Core()
    peer = core.connect("list_jobs", "cost.budget")

    def ask(kind: str, payload: dict[str, Any]) -> Callable[[int], None]:
        def ask_once(count: int) -> None:
            keyed = {"idempotency_key": f"k{count}"} if "lease_request" in payload else {}
            core.send(peer, kind, payload | keyed)

        return ask_once

    submit = {"agent": "agent", "input": 1}
    return {
        "ping": walk(ask("session.ping", {"nonce": "n", "sent_at": ""})),
        "list": walk(ask("session.list_jobs", {})),
        "submit": walk(ask("job.submit", submit)),
        "submit with lease and key": walk(ask("job.submit", submit | {"lease_request": LEASE})),
        "event": walk(lambda _: core.emit(1)),
    }


def walk(once: Callable[[int], None]) -> list[str]:
    """Return the files that the third call of `once` visits."""
    once(0)
    once(1)
    files: dict[str, None] = {}

    def called(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            files[str(Path(frame.f_code.co_filename).relative_to(ROOT))] = None

    sys.setprofile(called)
    try:
        once(2)
    finally:
        sys.setprofile(None)
    return list(files)


def main() -> int:
    """Print the number of files of each walk."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.walks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--files", action="store_true", help="name the files, in the order of the walk")
    options = parser.parse_args()
    for name, files in measure().items():
        print(f"{name:<28}{len(files):>3} files")
        if options.files:
            print("".join(f"    {file}\n" for file in files), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
