# export.py
import anyio

from arcp_io import App

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@app.agent("export")
async def export(job, rows):
    async with job.stream_result() as out:
        for number in range(rows):
            await out.write(f"{number},{number**2}\n")


async def download(session, path):
    job = await session.submit("export", 100_000)
    async with await anyio.open_file(path, "w") as file:
        async for piece in job.result_stream():
            await file.write(piece)
