"""The command `arcp-io`. Modules are imported when they are needed: `arcp-io --version` loads no library."""

from __future__ import annotations

import sys

from arcp_io.version import VERSION

TYPE_CHECKING = False  # Type checkers read it as true.
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: those of the process); return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(version())
        return 0
    from importlib.util import find_spec

    from .exit_codes import Exit

    if find_spec("typer") is None or find_spec("rich") is None:
        print("arcp-io needs its command-line extra: pip install 'arcp-io[cli]'", file=sys.stderr)
        return Exit.USAGE
    from .commands import run

    return run(words)


def version() -> str:
    """Return the name and version of this distribution."""
    return f"arcp-io {VERSION}"
