"""Server-sent events over real servers: cuts at any byte, kills of the server, and its end."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from threading import Thread
from typing import Final

import pytest

from arcp_io import sync
from tests.asgi.event_source import EventSource
from tests.asgi.servers import SERVERS, Site, running
from tests.hanging import PATIENCE
from tests.io.apps import TOKEN

CUTS = 1_000
MOST_BYTES = 2_500
"""Bytes after which a connection is cut at the latest: the headers and some ten events."""

PATIENT: Final = {"granian": ("--workers-kill-timeout=2",)}
"""The options of servers that otherwise wait for every response, however long it lasts."""


def submitted(site: Site, agent: str, count: int) -> EventSource:
    """Submit a job and leave; return a source of its events."""
    with sync.connect(site.url, TOKEN) as session:
        job = session.submit(agent, count)
    return EventSource(site.port, f"/jobs/{job.id}/events", TOKEN)


def check_all_once(source: EventSource, end: str = "success") -> None:
    """Check that every event of a job came once and in order, as one stream without a cut brings them."""
    assert [event.number for event in source.events] == [str(n + 1) for n in range(len(source.events))]
    assert [event.data["job_seq"] for event in source.events] == [int(one.number) for one in source.events]
    assert source.events[-1].kind == "end" and source.events[-1].data["body"]["final_status"] == end
    whole = EventSource(source._port, source._path, TOKEN)
    whole.connect()
    assert whole.events == source.events


@pytest.mark.parametrize("server", SERVERS)
def test_a_stream_that_is_cut_a_thousand_times_loses_and_repeats_nothing(server: str, tmp_path: Path) -> None:
    draw = random.Random(1)
    with running(server, "alone", tmp_path) as site:
        source = submitted(site, "paced", 8_000)
        refused = 0
        while source.cuts < CUTS:
            source.connect(draw.randrange(1, MOST_BYTES))
            assert source.status in (0, 200, 429), source.status
            if source.status == 429:  # The server has not noticed yet that earlier clients are gone.
                refused += 1
                time.sleep(0.05)
        assert source.events[-1].kind != "end"
        source.follow()
        check_all_once(source)
        assert [event.data["body"].get("message") for event in source.events[:-1]] == [
            str(number) for number in range(8_000)
        ]
    assert refused < CUTS


@pytest.mark.parametrize("server", ["uvicorn-sansio", "hypercorn-trio"])
def test_a_stream_goes_on_after_kills_of_the_server(server: str, tmp_path: Path) -> None:
    """Check that what a client has got before a kill stays as it was: a restarted agent begins again."""
    draw, kills, port = random.Random(2), 5, 0
    journal = str(tmp_path / "agents.journal")
    source: EventSource | None = None
    for number in range(kills + 1):
        with running(server, "alone", tmp_path, port=port, ARCP_JOURNAL=journal) as site:
            port = site.port
            source = source or submitted(site, "paced", 3_000)
            upto = len(source.events) + draw.randrange(50, 500)
            while number < kills and len(source.events) < upto:
                source.connect(draw.randrange(1, 4 * MOST_BYTES))
                assert source.status in (0, 200, 429), source.status
            if number < kills:
                os.killpg(site.process.pid, signal.SIGKILL)
                site.process.wait(PATIENCE)
            else:
                source.follow()
                check_all_once(source)
    assert source is not None and source.cuts > kills
    assert len(source.events) > 3_001, "each start of the agent has published events"


@pytest.mark.parametrize("server", SERVERS)
def test_a_stop_ends_a_stream_and_its_client_goes_on_at_the_next_process(server: str, tmp_path: Path) -> None:
    journal = str(tmp_path / "agents.journal")
    with running(server, "alone", tmp_path, ARCP_JOURNAL=journal) as site:
        source = submitted(site, "steps", 100)
        reading = Thread(target=source.follow)
        reading.start()
        until = time.monotonic() + PATIENCE
        while len(source.events) < 10:
            assert time.monotonic() < until
            time.sleep(0.01)
        site.stop()
    with running(server, "alone", tmp_path, port=site.port, ARCP_JOURNAL=journal):
        reading.join(PATIENCE)
        assert source.status == 204
        check_all_once(source)
    assert "ASGI callable" not in site.text() and "exceeded" not in site.text()


@pytest.mark.parametrize("server", SERVERS)
def test_a_stop_does_not_wait_for_the_stream_of_a_job_that_runs_on(server: str, tmp_path: Path) -> None:
    with running(server, "alone", tmp_path, *PATIENT.get(server, ())) as site:
        source = submitted(site, "sleep", 0)
        reading = Thread(target=source.connect)
        reading.start()
        until = time.monotonic() + PATIENCE
        while not source.events:
            assert time.monotonic() < until
            time.sleep(0.01)
        site.stop()
        reading.join(PATIENCE)
        assert not reading.is_alive()
    assert "end" not in [event.kind for event in source.events], "the client comes back"
    assert "ASGI callable" not in site.text() and "exceeded" not in site.text()
