"""An MCP server for tests, over standard input and output, or HTTP: `python mcp_server.py [option ...]`.

It appends a line to the file `log` for each call that it gets, so that tests see what reached it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

STUBBORN_SEC: Final = 60
"""Seconds that a stubborn server goes on after the end of its input."""


def make_server(log: Path | None = None, many: int = 0) -> MCPServer:
    """Return a server whose tools append to a log, with `many` tools beside."""
    server = MCPServer("tests")

    def came(text: str) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{text}\n")

    @server.tool()
    def read_file(path: str) -> str:
        """Read a file."""
        came(f"read_file {path}")
        return Path(path).read_text()

    @server.tool()
    def fetch(url: str) -> str:
        """Fetch a URL."""
        came(f"fetch {url}")
        return f"the page at {url}"

    @server.tool()
    def say_no(reason: str) -> str:
        """Fail."""
        came("say_no")
        raise ToolError(reason)

    @server.tool()
    def pid() -> int:
        """Return the id of the process."""
        return os.getpid()

    @server.tool()
    async def hang() -> str:
        """Never answer."""
        came("hang")
        await anyio.sleep_forever()
        return "not reached"

    @server.tool()
    def die() -> str:
        """End the process in the middle of the call."""
        came("die")
        os.kill(os.getpid(), signal.SIGKILL)
        return "not reached"

    @server.tool()
    def letters(count: int) -> str:
        """Return a long text."""
        return "x" * count

    for number in range(many):
        server.add_tool(lambda: "", name=f"more_{number}", description="One of many.")
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path)
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM and the end of the input")
    parser.add_argument("--noise", type=int, default=0, help="lines on standard error, at the beginning")
    parser.add_argument("--http", type=int, default=0, help="the port for HTTP, in place of standard input")
    parser.add_argument("--json", action="store_true", help="answer by JSON over HTTP, not by a stream")
    options = parser.parse_args()
    for number in range(options.noise):
        print(f"noise {number} {'n' * 2000}", file=sys.stderr)
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = make_server(options.log, options.many)
    if options.http:
        server.run("streamable-http", port=options.http, json_response=options.json)
    else:
        server.run()
    if options.stubborn:
        time.sleep(STUBBORN_SEC)


if __name__ == "__main__":
    main()
