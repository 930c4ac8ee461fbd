# team.py
from arcp_io import App

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@app.agent("count", version="1.0.0")
async def count(job, path):
    with job.open(path) as file:
        return len(file.read().split())


@app.agent("team", version="1.0.0")
async def team(job, paths):
    children = [
        await job.delegate("count", path, lease_request={"fs.read": [path], "cost.budget": ["USD:0.10"]})
        for path in paths
    ]
    return sum([await child.result() for child in children])
