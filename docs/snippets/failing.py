# failing.py
from arcp_io import App, errors

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice"})


@app.agent("fail")
async def fail(job, how):
    if how == "perhaps later":  # INTERNAL_ERROR: trying again may help
        raise errors.AgentError("the disk is on fire")
    if how == "never":  # INVALID_REQUEST: it fails again
        raise errors.AgentError("the input has no rows", retryable=False)
    raise errors.AgentError("the disk is full", code="x-vendor.acme.DISK_FULL", retryable=True)
