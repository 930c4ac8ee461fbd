"""The memory of a process at each bound: `python -m tests.memory [NAME]`.

Without a name each is filled in a process of its own, and a table is printed; exits with 1 when one takes
more than 1.5 times what is documented. With a name it is filled here, and a line of JSON is printed.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import msgspec

from .caps import CAPS, Filled, encode
from .clients import CLIENTS
from .sockets import SOCKETS
from .waiting import WAITS

FACTOR: Final = 1.5
ALL: Final = {**CAPS, **CLIENTS, **WAITS, **SOCKETS}
MIB: Final = 1024 * 1024


def filled(name: str) -> Filled:
    """Fill a bound in a process of its own."""
    command = [sys.executable, "-m", "tests.memory", name]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stderr)
    return msgspec.json.decode(found.stdout, type=Filled)


def main() -> int:
    """Print the table, or one line of it."""
    if len(sys.argv) > 1:
        print(encode(ALL[sys.argv[1]]()))
        return 0
    failed = 0
    for name in ALL:
        found = filled(name)
        ratio = found.taken / found.documented
        failed += ratio > FACTOR
        sizes = f"{found.taken / MIB:8.1f} MiB of {found.documented / MIB:8.1f} MiB"
        print(f"{name:58} {sizes} {ratio:5.2f}  {found.note}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
