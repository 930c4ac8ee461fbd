# threaded.py
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from arcp_io import App
from arcp_io.pydantic_ai import LeaseOf, Price

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@app.agent("threaded", isolation="process")
def threaded(job, question):
    behind = LeaseOf(job, prices={"test/test": Price(input="1.00", output="10.00")})
    return Agent(TestModel()).run_sync(question, capabilities=[behind]).output
