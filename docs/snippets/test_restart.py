# test_restart.py
from counter import app

from arcp_io import MemoryStore, connect, serve_memory
from arcp_io.journal import SqliteJournal


async def test_a_job_goes_on_after_a_restart(tmp_path):
    path, store = tmp_path / "agents.journal", MemoryStore()
    async with (
        serve_memory(app, journal=SqliteJournal(path)) as memory,
        connect(memory, token="s3cret", store=store) as session,
    ):
        job = await session.submit("count", 2)
        await anext(aiter(job))  # the first event has arrived
    async with (
        serve_memory(app, journal=SqliteJournal(path)) as memory,
        connect(memory, token="s3cret", store=store) as session,
    ):
        job = await session.attach(job.id)
        said = [event.body["message"] async for event in job]
        assert said[-2:] == ["attempt 2: number 1", "attempt 2: number 2"]
        assert await job.result() == 2
