"""A research agent with a budget: two tools over HTTP, two children, one model grant.

`Vendor` is a real HTTP server on loopback that charges for what it does, by job. The agent `research`
searches, and delegates to `writer`, which may use a model, and to `critic`, which may not. It goes on
until its budget is used up, takes what its children have left, goes on with that, and returns what it
has.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import Request, urlopen

from anyio.to_thread import run_sync

from arcp_io import App, BlockingJobContext, JobContext
from arcp_io.errors import Denied

PRICES: Final = {"search": Decimal("0.07"), "complete": Decimal("0.115")}
"""Prices in USD, for each request."""
MOST: Final = {"search": "0.10", "complete": "0.12"}
"""Amounts in USD that are reserved for a request before its price is known."""
MODEL: Final = "small-1"
TOKEN: Final = "t0ken"


class Vendor(ThreadingHTTPServer):
    """An HTTP server that sells searches and completions; `charged` holds the charges, by job."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Counter)
        self.charged: dict[str, Decimal] = {}
        self.traces: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Counter(BaseHTTPRequestHandler):
    """A handler that answers with JSON, and with the price in a header."""

    server: Vendor

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        price = PRICES[url.path.strip("/")]
        job_id = self.headers["X-Job"]
        with self.server.lock:
            self.server.charged[job_id] = self.server.charged.get(job_id, Decimal(0)) + price
            self.server.traces.add(self.headers["traceparent"].split("-")[1])
        text = json.dumps({"answer": f"{url.path} {parse_qs(url.query)['q'][0]}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Cost", str(price))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def selling() -> Iterator[Vendor]:
    """Run a vendor until the block is left."""
    with Vendor() as vendor:
        thread = threading.Thread(target=vendor.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield vendor
        finally:
            vendor.shutdown()
            thread.join()


def fetch(url: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the answer that a vendor sells, and its price."""
    with urlopen(Request(url, headers=dict(headers)), timeout=10) as response:
        return json.load(response)["answer"], response.headers["X-Cost"]


def address(vendor: str, tool: str, query: str) -> str:
    return f"{vendor}/{tool}?{urlencode({'q': query})}"


def headers(job: JobContext | BlockingJobContext) -> dict[str, str]:
    return {"X-Job": job.id, **job.trace_headers()}


def lease(vendor: str) -> dict[str, list[str]]:
    """Return the lease that the research needs, without its budget."""
    return {
        "tool.call": ["search", "complete"],
        "net.fetch": [f"{vendor}/*"],
        "model.use": ["small-*"],
        "agent.delegate": ["writer", "critic"],
    }


app = App(
    "research", "1.0.0", tokens={TOKEN: "alice", "other": "bob"}, observers={"bob": {"alice": "observe"}}
)


@app.agent("research", version="1.0.0")
async def research(job: JobContext, input: Any) -> dict[str, Any]:
    """Search until the budget is used up; the report says that it is incomplete, and why."""
    vendor, grants = input["vendor"], lease(input["vendor"])
    writer = await job.delegate(
        "writer",
        input,
        lease_request={
            **{name: grants[name] for name in ("net.fetch", "model.use")},
            "tool.call": ["complete"],
            "cost.budget": ["USD:0.30"],
        },
    )
    critic = await job.delegate(
        "critic",
        input,
        lease_request={
            "net.fetch": [f"{vendor}/search"],
            "tool.call": ["search"],
            "cost.budget": ["USD:0.20"],
        },
    )
    findings: list[str] = []
    await _search_until_refused(job, vendor, findings)
    parts = {"writer": await writer.result(), "critic": await critic.result()}
    stopped = await _search_until_refused(job, vendor, findings)
    return {
        "findings": findings,
        **parts,
        "complete": False,
        "stopped": stopped,
        "remaining": str(job.remaining("USD")),
    }


async def _search_until_refused(job: JobContext, vendor: str, findings: list[str]) -> str:
    while True:
        try:
            findings.append(await _search(job, vendor, f"part {len(findings)}"))
        except Denied as denied:
            if denied.code != "BUDGET_EXHAUSTED":
                raise
            return denied.message


async def _search(job: JobContext, vendor: str, query: str) -> str:
    async with job.tool("search", {"q": query}) as call:
        url = address(vendor, "search", query)
        url = await job.fetch_allowed(url)
        async with job.reserve("USD", MOST["search"]) as hold:
            answer, cost = await run_sync(fetch, url, headers(job))
            hold.settle(cost, "cost.search")
        call.result = answer
    return answer


@app.agent("writer")
def writer(job: BlockingJobContext, input: Any) -> list[str]:
    """Call a model until the budget is used up, and report each cost by a metric."""
    texts: list[str] = []
    while (left := job.remaining("USD")) is not None and left >= Decimal(MOST["complete"]):
        with job.tool("complete", {"model": MODEL}) as call:
            job.model(MODEL)
            url = address(input["vendor"], "complete", f"text {len(texts)}")
            url = job.fetch_allowed(url)
            call.result, cost = fetch(url, headers(job))
            job.metric("cost.inference", Decimal(cost), unit="USD", dimensions={"model": MODEL})
        texts.append(call.result)
    return texts


@app.agent("critic")
async def critic(job: JobContext, input: Any) -> dict[str, Any]:
    """Ask for targets that the lease does not cover, and report the refusals; then search."""
    refused: dict[str, str] = {}
    for capability, target in (
        ("model.use", MODEL),
        ("tool.call", "complete"),
        ("agent.delegate", "writer"),
        ("net.fetch", f"{input['vendor']}/complete?q=x"),
    ):
        try:
            await job.authorize(capability, target)
        except Denied as denied:
            refused[capability] = denied.code
    found: list[str] = []
    await _search_until_refused(job, input["vendor"], found)
    return {"refused": refused, "found": found}
