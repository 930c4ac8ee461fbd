# isolated.py
from arcp_io import App

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@app.agent("environment", isolation="process")
def environment(job, input):
    import os

    return sorted(os.environ)
