# come_back.py
import asyncio

import anyio

from arcp_io import App, MemoryStore, connect, serve

app = App(name="tutorial", version="1.0.0", tokens={"s3cret": "alice"})


@app.agent("count")
async def count(job, last):
    for number in range(1, last + 1):
        await job.log("info", f"number {number}")
        await anyio.sleep(0.01)  # works on asyncio and trio
    return last


async def main():
    store = MemoryStore()
    async with serve(app, port=0) as server:
        async with connect(server.url, token="s3cret", store=store) as session:
            job = await session.submit("count", 8)
            async for event in job:
                print("first visit: ", event.job_seq, event.body["message"])
                if event.job_seq == 3:
                    break
        # The connection is gone, and the agent goes on.
        async with connect(server.url, token="s3cret", store=store) as session:
            job = await session.attach(session.stored_jobs[0])
            async for event in job:
                print("second visit:", event.job_seq, event.body["message"])
            print(await job.result())


if __name__ == "__main__":
    asyncio.run(main())
