"""(i) A result of 30 MB in chunks: to the load client, and to each implementation's own client."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from ..case import Case, Metrics, Scenario
from ..client_process import run_client
from ..process import Server, serving

MIB: Final = 1024 * 1024
TOTAL: Final = 30 * MIB
CHUNK: Final = 64 * 1024
FOUR_MIB: Final = {"max_session_bytes": 4 * MIB, "max_history_bytes": 4 * MIB}
open_server = serving(roomy=False, limits=FOUR_MIB)


def raw(encoding: str, server: Server) -> Metrics:
    """Send the result to the load client."""
    with server.connect() as session:
        cpu, start, before = server.cpu(), time.perf_counter(), server.resident()
        session.submit("chunks", {"total": TOTAL, "chunk": CHUNK, "encoding": encoding})
        session.until("job.result")
        seconds, cpu = time.perf_counter() - start, server.cpu() - cpu
    peak = max(0, server.peak_memory() - before)
    return {
        "mb_per_s": TOTAL / MIB / seconds,
        "server_cpu_ms": cpu / (TOTAL / MIB) * 1e3,
        "peak_mb": peak / MIB,
    }


def own(encoding: str, server: Server) -> Metrics:
    """Send the result to the client of the same implementation, which acknowledges and joins the chunks."""
    cpu = server.cpu()
    input = {"total": TOTAL, "chunk": CHUNK, "encoding": encoding}
    found = run_client(server.implementation, task="result", port=server.port, input=input)
    cpu = server.cpu() - cpu
    return {
        "mb_per_s": TOTAL / MIB / found["seconds"],
        "server_cpu_ms": cpu / (TOTAL / MIB) * 1e3,
        "client_cpu_ms": found["cpu"] / (TOTAL / MIB) * 1e3,
    }


SCENARIO = Scenario(
    "i",
    "results",
    "a result of 30 MB",
    [
        Case("text, load client", open_server, partial(raw, "utf8")),
        Case("base64, load client", open_server, partial(raw, "base64")),
        Case("text, own client", open_server, partial(own, "utf8")),
        Case("base64, own client", open_server, partial(own, "base64"), quick=False),
    ],
)
