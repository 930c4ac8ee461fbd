# adder.py
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from arcp_io import App
from arcp_io.pydantic_ai import LeaseOf, Price

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


def add(a: int, b: int) -> int:
    return a + b


adder = Agent(TestModel(), tools=[add])  # A model without a network: it calls each tool, and tells what came.


@app.agent("adder", version="1.0.0")
async def answer(job, question):
    behind = LeaseOf(job, prices={"test/test": Price(input="1.00", output="10.00")})  # Per million tokens.
    return (await adder.run(question, capabilities=[behind])).output
