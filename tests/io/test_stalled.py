"""Observers that never read: readers miss no event, and the runtime holds no more than its limits allow."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from arcp_io.server.server import serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.limits import MIB
from tests.io.apps import TOKEN
from tests.io.conftest import on_every_loop
from tests.io.peers import Ended, Message, websocket
from tests.io.stalled import FEATURES, READING, Peak, flood, make_app, measure, stalled

pytestmark = pytest.mark.anyio

CAPS: dict[str, Any] = {
    "max_session_events": 2_000,
    "max_session_bytes": 1 * MIB,
    "max_principal_events": 100_000,
    "max_principal_bytes": 16 * MIB,
    "max_total_events": 200_000,
    "max_total_bytes": 24 * MIB,
    "max_history_events": 1_000,
    "max_history_bytes": 1 * MIB,
}
OBSERVERS = 100
EVENTS = 5_000


@on_every_loop
async def test_a_hundred_stalled_observers_beside_one_that_reads() -> None:
    peak = Peak()
    async with serve(make_app(**CAPS), port=0) as server, anyio.create_task_group() as tasks:

        async def look() -> None:
            nonlocal peak
            while True:
                peak = measure(server, peak)
                await anyio.sleep(0.001)

        tasks.start_soon(look)
        rate = await flood(server.url, EVENTS, OBSERVERS)
        assert rate.events == EVENTS
        tasks.cancel_scope.cancel()
    assert peak.blocked > 0
    assert 0 < peak.events <= CAPS["max_total_events"]
    assert 0 < peak.bytes <= CAPS["max_total_bytes"]
    assert peak.of_a_principal <= CAPS["max_principal_bytes"]
    assert peak.of_a_log <= CAPS["max_session_bytes"]


@on_every_loop
async def test_a_client_that_reads_again_has_no_gap_and_is_told_of_the_end() -> None:
    async with (
        serve(make_app(**CAPS), port=0) as server,
        websocket(server.url) as submitting,
        websocket(server.url) as opening,
    ):
        await submitting.hello(TOKEN, FEATURES)
        await opening.hello(TOKEN, FEATURES)
        job_id = (await submitting.submit("flood", EVENTS))["payload"]["job_id"]
        async with stalled(server.url, job_id, 2) as late, anyio.create_task_group() as tasks:
            tasks.start_soon(submitting.until, "job.result")
            for _ in range(2):
                await opening.run("open")
            while state_of(server.runtime).unfinished:
                await anyio.sleep(0.01)
            for peer in late:
                numbered: list[Message] = []
                code = None
                try:
                    while not _is_last(numbered[-1:]):
                        message = await peer.receive()
                        numbered += [message] if "event_seq" in message else []
                except Ended as ended:
                    code = ended.code
                assert [one["event_seq"] for one in numbered] == list(range(1, len(numbered) + 1))
                positions = [one["payload"]["job_seq"] for one in numbered if "job_seq" in one["payload"]]
                assert positions == list(range(positions[0], positions[0] + len(positions)))
                assert code is None
        async with websocket(server.url) as again:
            await again.hello(READING, FEATURES)
            await again.send("job.subscribe", {"job_id": job_id, "history": True})
            answer = await again.until("job.result")
            assert answer[0]["payload"]["history_from"] > 1


def _is_last(messages: list[Message]) -> bool:
    """Return whether the messages have the end of the job or of its observation."""
    payloads = [message["payload"] for message in messages]
    return any(
        "final_status" in payload or payload.get("body", {}).get("phase") == "unsubscribed"
        for payload in payloads
    )
