# counter.py
import anyio

from arcp_io import App

app = App(name="tutorial", version="1.0.0", tokens={"s3cret": "alice"})


@app.agent("count", restartable=True)
async def count(job, last):
    for number in range(1, last + 1):
        await job.log("info", f"attempt {job.attempt}: number {number}")
        await anyio.sleep(0.2)
    return last
