# test_budget.py
from decimal import Decimal

import pytest
from leased_job import app, files_in


@pytest.fixture
def arcp_app():
    return app


async def test_two_files_are_paid(arcp_runtime, tmp_path):
    async with arcp_runtime as runtime, runtime.connect("s3cret") as session:
        data = files_in(tmp_path)
        paths = [f"{data}/open/{name}.txt" for name in "abc"]
        lease = {"fs.read": [f"{data}/open/**"]}
        job = await session.submit("read", paths, lease=lease, budget="USD:1.00")
        assert (await runtime.ending(job)).spent == {"USD": Decimal("0.70")}


def test_without_a_lease_nothing_is_read(arcp_blocking_runtime):
    with arcp_blocking_runtime.connect("s3cret") as session:
        job = session.submit("read", ["/data/a.txt"])
        assert job.result()["found"] == ["PERMISSION_DENIED"]
