# status.py
from arcp_io import App, errors

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@app.agent("status", version="1.0.0")
async def status(job, urls):
    found = {}
    async with job.http_client(follow_redirects=True, timeout=10) as client:
        for url in urls:
            try:
                found[url] = (await client.get(url)).status_code  # net.fetch
            except errors.Denied as denied:
                found[url] = denied.message
    return found
