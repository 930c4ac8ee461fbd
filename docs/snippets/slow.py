# slow.py
import anyio

from arcp_io import App

app = App(name="tutorial", version="1.0.0", tokens={"s3cret": "alice"})


@app.agent("watch")
async def watch(job, place):
    await job.status("watching")
    try:
        await anyio.sleep_forever()
    finally:
        await job.log("info", "stopped")
