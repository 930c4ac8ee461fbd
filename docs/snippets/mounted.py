# mounted.py
from fastapi import FastAPI

from arcp_io import App

agents = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@agents.agent("echo")
async def echo(job, input):
    await job.log("info", "hello")
    return {"echo": input}


arcp = agents.asgi()
app = FastAPI(lifespan=arcp.lifespan)
app.mount("/agents", arcp)


@app.get("/jobs")
async def jobs():
    return [job.job_id for job in arcp.server.jobs(finished=True)]
