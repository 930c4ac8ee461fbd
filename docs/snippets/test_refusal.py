# test_refusal.py
from leased_job import app

from arcp_io import connect, serve_memory


async def test_a_path_beyond_the_lease_is_refused():
    async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
        lease = {"fs.read": ["/data/open/**"]}
        job = await session.submit("read", ["/data/secret/d.txt"], lease=lease, budget="USD:1.00")
        assert await job.result() == {"found": ["PERMISSION_DENIED"], "left": "1.00"}
