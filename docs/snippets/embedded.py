# embedded.py
import asyncio

from arcp_io import App, connect, serve

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@app.agent("echo")
async def echo(job, input):
    return {"echo": input}


async def main():
    async with serve(app, port=0) as server:  # port 0 takes a free one
        async with connect(server.url, token="s3cret") as session:
            job = await session.submit("echo", {"x": 1})
            print(await job.result())
        print(server.counts(), [info.job_id for info in server.jobs(finished=True)])
        await server.shut_down(drain=30)


if __name__ == "__main__":
    asyncio.run(main())
