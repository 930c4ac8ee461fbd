"""One runtime behind HAProxy and nginx, which cut connections that are silent for three seconds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from arcp_io import App, JobContext, connect, serve
from arcp_proto import Detached
from tests.cluster.balancers import PROGRAMS, SNIPPETS, free_port, missing, running, with_changes
from tests.cluster.conftest import skip_for

pytestmark = pytest.mark.anyio

EVENTS = 100_000
SILENCE = 3.6
"""Seconds without an event, in which a connection is cut."""
TUNNEL = "3s"


@pytest.mark.parametrize("program", ["haproxy", "nginx"])
async def test_every_event_arrives_once_through_a_proxy_that_cuts_connections(
    program: str, tmp_path: Path
) -> None:
    skip_for(missing(program))
    app, uds, port = App("tests", "1", tokens={"t0ken": "alice"}), str(tmp_path / "arcp.sock"), free_port()

    @app.agent("counter")
    async def counter(job: JobContext, input: Any) -> None:
        for number in range(EVENTS):
            if number % (EVENTS // 3) == EVENTS // 6:
                await anyio.sleep(SILENCE)
            await job.log("info", str(number))

    seen, cuts = 0, 0
    async with serve(app, uds=uds):
        with running(program, configuration(program, uds, port, tmp_path), port, tmp_path):
            async with connect(f"ws://127.0.0.1:{port}/arcp", "t0ken") as session:

                async def watch() -> None:
                    nonlocal cuts
                    async for change in session.watch():
                        cuts += isinstance(change, Detached)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watch)
                    job = await session.submit("counter")
                    async for event in job:
                        if event.kind == "log":  # The runtime tells of many unacknowledged events, too.
                            assert event.body["message"] == str(seen)
                            seen += 1
                    await job.result()
                    tasks.cancel_scope.cancel()
    assert seen == EVENTS
    assert cuts >= 3


def configuration(program: str, uds: str, port: int, directory: Path) -> Path:
    """Write the configuration of the documentation for one runtime, without TLS and with short tunnels."""
    name = {"haproxy": "haproxy_one.cfg", "nginx": "nginx_one.conf"}[program]
    changes = {"/run/agents/arcp.sock": uds}
    if program == "haproxy":
        changes |= {
            "bind :443 ssl crt /etc/haproxy/agents.pem alpn http/1.1": f"bind 127.0.0.1:{port}",
            "timeout tunnel 5m": f"timeout tunnel {TUNNEL}",
        }
    else:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"    {kind}_temp_path {directory}/{kind};\n" for kind in kinds)
        changes |= {
            "events {\n": "user root;\nevents {\n",
            "listen 443 ssl": f"listen 127.0.0.1:{port}",
            "        ssl_certificate /etc/nginx/agents.pem;\n": "",
            "        ssl_certificate_key /etc/nginx/agents.key;\n": "",
            "proxy_read_timeout 5m": f"proxy_read_timeout {TUNNEL}",
            "http {\n": f"http {{\n    access_log off;\n{places}",
        }
    path = directory / PROGRAMS[program]
    path.write_text(with_changes((SNIPPETS / name).read_text(), changes))
    return path


def test_the_units_are_valid(tmp_path: Path) -> None:
    """Check the units of the documentation by systemd, with programs and users that there are here."""
    skip_for("" if Path("/usr/bin/systemd-analyze").exists() else "systemd is not installed")
    text = (SNIPPETS / "arcp.service").read_text()
    changes = {"/srv/agents/.venv/bin/arcp-io": "/bin/true", "User=agents": "User=root"}
    (tmp_path / "arcp.service").write_text(with_changes(text, changes))
    (tmp_path / "arcp.socket").write_text((SNIPPETS / "arcp.socket").read_text())
    units = [str(tmp_path / name) for name in ("arcp.service", "arcp.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
