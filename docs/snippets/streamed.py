# streamed.py
from arcp_io import App

agents = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@agents.agent("count")
async def count(job, upto):
    for number in range(1, upto + 1):
        await job.progress(number, total=upto)
    return {"counted": upto}


app = agents.asgi(sse=True)
