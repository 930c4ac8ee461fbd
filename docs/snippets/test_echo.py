# test_echo.py
from hello import app

from arcp_io import connect, serve_memory


async def test_echo():
    async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
        job = await session.submit("echo", {"x": 1})
        assert [event.kind async for event in job] == ["log", "progress"]
        assert await job.result() == {"echo": {"x": 1}}
