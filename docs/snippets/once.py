# once.py
async def pay(session, invoice):
    job = await session.submit("pay", invoice, idempotency_key=f"pay-{invoice}")
    return await job.result()
