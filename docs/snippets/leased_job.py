# leased_job.py
import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

from arcp_io import App, connect, errors, serve

app = App(name="tutorial", version="1.0.0", tokens={"s3cret": "alice"})


@app.agent("read")
async def read(job, paths):
    found = []
    for path in paths:
        try:
            async with job.reserve("USD", "0.40") as hold:  # refused unless 0.40 USD are left
                with job.open(path) as file:  # refused unless the lease covers the path
                    found.append(file.read())
                hold.settle("0.35", "cost.read")  # it was cheaper than that
        except errors.Denied as denied:
            found.append(denied.code)
    return {"found": found, "left": str(job.remaining("USD"))}


def files_in(directory):
    data = Path(directory).resolve()
    for name in ("open/a.txt", "open/b.txt", "open/c.txt", "secret/d.txt"):
        path = data / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {path.name}")
    return data


async def main():
    with tempfile.TemporaryDirectory() as directory:
        data = files_in(directory)
        async with serve(app, port=0) as server, connect(server.url, token="s3cret") as session:
            job = await session.submit(
                "read",
                [f"{data}/{name}" for name in ("open/a.txt", "secret/d.txt", "open/b.txt", "open/c.txt")],
                lease={"fs.read": [f"{data}/open/**"]},
                budget="USD:1.00",
                expires_at=timedelta(minutes=5),
                max_runtime=60,
            )
            print(await job.result())


if __name__ == "__main__":
    asyncio.run(main())
