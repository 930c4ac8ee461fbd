# first_job.py
import asyncio

from arcp_io import App, connect, serve

app = App(name="tutorial", version="1.0.0", tokens={"s3cret": "alice"})  # bearer token -> principal


@app.agent("words")
async def words(job, text):
    found = text.split()
    for number, word in enumerate(found, start=1):
        await job.log("info", f"word {number} is {word}")
    return {"words": len(found)}


async def main():
    async with serve(app, port=0) as server, connect(server.url, token="s3cret") as session:
        job = await session.submit("words", "an agent counts words")
        async for event in job:
            print(event.job_seq, event.kind, event.body["message"])
        print(await job.result())


if __name__ == "__main__":
    asyncio.run(main())  # or trio.run(main)
