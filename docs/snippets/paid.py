# paid.py
import os

from arcp_io import App, SqliteJournal, run
from arcp_io.litellm import LiteLLMProvisioner

gateway = LiteLLMProvisioner(
    "https://gateway.example", os.environ["LITELLM_MASTER_KEY"], models=["fast/small", "fast/large"]
)
app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"}, provisioner=gateway)


@app.agent("summary", version="1.0.0")
async def summary(job, text):
    for key in job.credentials:  # Empty if the lease names no model of the gateway.
        await job.log("info", f"{key.endpoint} takes {key.constraints}")  # Call it with key.value.reveal().
    return len(job.credentials)


if __name__ == "__main__":
    run(app, certfile="chain.pem", journal=SqliteJournal("agents.journal"))
