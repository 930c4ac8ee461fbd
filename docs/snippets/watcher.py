# watcher.py
async def watch(session):
    seen = {}
    async for entry in session.list_jobs(agent="count"):
        job = await session.subscribe(entry.job_id, history=True)
        seen[job.id] = [(event.job_seq, event.kind) async for event in job]
    return seen
