# look.py
async def look(session, job_id):
    job = await session.describe(job_id)
    print(job.agent, job.status, job.budget)
    observation = session.observe(job_id, kinds=["progress", "tool_call"])
    async for event in observation:
        print(event.job_seq, event.kind, event.body)
    return observation.end
