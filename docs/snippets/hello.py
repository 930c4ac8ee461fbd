# hello.py
from arcp_io import App

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})  # token -> principal


@app.agent("echo", version="1.0.0")
async def echo(job, input):
    await job.log("info", "hello")
    await job.progress(1, total=1, units="steps")
    return {"echo": input}
