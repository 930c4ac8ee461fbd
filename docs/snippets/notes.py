# notes.py
import sys

from arcp_io import App

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})
SERVER = [sys.executable, "notes_server.py"]  # The command of any MCP server, or a URL.


@app.agent("notes")
async def notes(job, path):
    async with job.mcp(SERVER, targets={"read_note": {"path": "fs.read"}}) as tools:
        answer = await tools.call("read_note", {"path": path})
        return {"tools": [tool.name for tool in await tools.list()], "text": answer.content[0].text}
