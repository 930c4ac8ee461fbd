# test_hour.py
from datetime import timedelta

from slow import app

from arcp_io.testing import check_positions, open_runtime


async def test_a_job_is_stopped_after_an_hour():
    async with open_runtime(app) as runtime, runtime.connect("s3cret") as session:
        job = await session.submit("watch", max_runtime=3600)
        await runtime.wait_for(job, "status")
        await runtime.advance(timedelta(minutes=59))
        assert not job.over
        await runtime.advance(timedelta(minutes=1))
        assert (await runtime.ending(job)).code == "TIMEOUT"


async def test_a_cut_costs_no_event():
    async with open_runtime(app) as runtime, runtime.connect("s3cret") as session:
        job = await session.submit("watch")
        await runtime.wait_for(job, "status")
        runtime.cut()
        with runtime.unreachable():
            await runtime.advance(30)
            assert session.state == "detached"
            runtime.server.cancel(job.id)
        await runtime.advance(60)  # the client comes to its next attempt
        events = [event async for event in job]
        check_positions(events)
        assert [event.kind for event in events] == ["status", "log"]
