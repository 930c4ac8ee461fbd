# notes_server.py
from pathlib import Path

from mcp.server import MCPServer

server = MCPServer("notes")


@server.tool()
def read_note(path: str) -> str:
    """Read a note."""
    return Path(path).read_text()


@server.tool()
def delete_note(path: str) -> str:
    """Delete a note."""
    Path(path).unlink()
    return f"{path} is deleted"


if __name__ == "__main__":
    server.run()
