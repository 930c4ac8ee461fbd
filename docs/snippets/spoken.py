# spoken.py
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from arcp_io import App
from arcp_io.pydantic_ai import Leased, Metered, Price

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


def add(a: int, b: int) -> int:
    return a + b


@app.agent("spoken", version="1.0.0")
async def spoken(job, question):
    model = Metered(TestModel(), job, prices={"test/test": Price(input="1.00", output="10.00")})
    agent = Agent(model, toolsets=[Leased([add], job)])
    async with agent.run_stream(question) as run, job.stream_result() as out:
        async for piece in run.stream_text(delta=True):
            await out.write(piece)
