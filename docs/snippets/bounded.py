# bounded.py
from arcp_io import App, Limits

limits = Limits(max_total_running_jobs=200, max_principal_running_jobs=20, max_requests_per_sec=100)
app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"}, limits=limits, audit="audit.ndjson")


@app.agent("echo", version="1.0.0")
async def echo(job, input):
    return input
