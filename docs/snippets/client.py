# client.py
import asyncio

from arcp_io import connect, errors


async def main():
    async with connect("ws://127.0.0.1:7777/arcp", token="s3cret") as session:
        job = await session.submit("echo", {"x": 1}, max_runtime=60)
        async for event in job:
            print(event.job_seq, event.kind, event.body)
        try:
            print(await job.result())
        except errors.JobTimedOut as error:  # one class for each code of the draft
            print(error.message, error.retryable)


asyncio.run(main())  # or uvloop.run(main()), trio.run(main), or any loop that runs already
