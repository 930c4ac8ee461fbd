# reports.py
import anyio
from fastapi import FastAPI

from arcp_io import App

agents = App(name="reports", version="0.1.0", tokens={"s3cret": "alice"})  # bearer token -> principal


@agents.agent("report")
async def report(job, topic):
    for number in range(1, 6):
        await job.log("info", f"part {number} of {topic}")
        await job.progress(number, total=5, units="parts")
        await anyio.sleep(1)
    return {"topic": topic, "parts": 5}


arcp = agents.asgi(dashboard=True)
app = FastAPI(lifespan=arcp.lifespan)
app.mount("/agents", arcp)
