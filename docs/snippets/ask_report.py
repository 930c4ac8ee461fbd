# ask_report.py
import asyncio

from arcp_io import connect


async def main(url="ws://127.0.0.1:8000/agents/arcp"):
    async with connect(url, token="s3cret") as session:
        job = await session.submit("report", "winters")
        async for event in job:
            print(event.job_seq, event.kind, event.body)
        print(await job.result())


if __name__ == "__main__":
    asyncio.run(main())
