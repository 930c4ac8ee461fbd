# follow.py
import asyncio

from arcp_io import FileStore, connect


async def main(url="ws://127.0.0.1:7777/arcp"):
    async with connect(url, token="s3cret", store=FileStore("follow.session")) as session:
        if session.stored_jobs:  # An earlier process has left a job.
            job = await session.attach(session.stored_jobs[0])
        else:
            job = await session.submit("count", 20, idempotency_key="tutorial")
        async for event in job:
            print(event.job_seq, event.body["message"], flush=True)
        print("result", await job.result())


if __name__ == "__main__":
    asyncio.run(main())
