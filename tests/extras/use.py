"""Use one extra in an environment that has nothing else: `python use.py EXTRA`; `bare` is arcp-io alone.

It does what the extra is for, checks that the environment holds nothing beside what the extra may bring, and
that what needs another extra names it.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from importlib.metadata import distributions
from typing import Any, Final, NamedTuple

from arcp_io import App, JobContext, connect, serve

BARE: Final = frozenset({"arcp-io", "msgspec", "anyio", "websockets", "idna", "typing-extensions"})
TOOLS: Final = frozenset({"pip", "setuptools", "wheel"})

app = App(name="extras", version="1", tokens={"s3cret": "alice"})


@app.agent("echo")
async def echo(job: JobContext, input: Any) -> Any:
    await job.log("info", "hello")
    return input


@app.agent("fetch")
async def fetch(job: JobContext, input: Any) -> str:
    async with job.http_client() as client:
        try:
            await client.get("http://127.0.0.1:9/")
        except Exception as error:
            return type(error).__name__
    return "fetched"


@app.agent("tools")
async def tools(job: JobContext, input: Any) -> list[str]:
    from mcp.server import MCPServer

    server = MCPServer("extras")
    for name in ("allowed", "other"):
        server.add_tool(lambda: "", name=name)
    async with job.mcp(server) as leased:
        return [tool.name for tool in await leased.list()]


async def run_job(agent: str, **asked: Any) -> Any:
    """Run a job over a WebSocket of this machine, and return its result."""
    async with serve(app, port=0) as server, connect(server.url, token="s3cret") as session:
        return await (await session.submit(agent, [1], **asked)).result()


def use_bare() -> None:
    assert asyncio.run(run_job("echo")) == [1]


def use_trio() -> None:
    import trio

    assert trio.run(run_job, "echo") == [1]


def use_cli() -> None:
    done = subprocess.run(
        ["arcp-io", "demo", "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("{")


def use_http() -> None:
    assert asyncio.run(run_job("fetch")) == "Denied"


def use_jwt() -> None:
    from arcp_io import JwtVerifier

    JwtVerifier("https://127.0.0.1:9/keys", audience="agents", issuer="https://issuer.example")


def use_metrics() -> None:
    async def scrape() -> bytes:
        async with serve(app, port=0, metrics=True) as server:
            async with connect(server.url, token="s3cret") as session:
                await (await session.submit("echo", [1])).result()
            page = f"http://127.0.0.1:{server.port}/metrics"
            return await asyncio.to_thread(lambda: urllib.request.urlopen(page, timeout=10).read())

    assert b"arcp_events_published_total 1.0" in asyncio.run(scrape())


def use_otel() -> None:
    importlib.import_module("arcp_io.otel")
    assert asyncio.run(run_job("echo")) == [1]


def use_postgres() -> None:
    importlib.import_module("arcp_io.cluster.connection")


def use_mcp() -> None:
    assert asyncio.run(run_job("tools", lease={"tool.call": ["allowed"]})) == ["allowed"]


def use_pydantic_ai() -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    from arcp_io.pydantic_ai import LeaseOf, Price

    @app.agent("thinker")
    async def thinker(job: JobContext, input: Any) -> Any:
        run = Agent(TestModel(custom_output_text="thought"))
        behind = LeaseOf(job, prices={"test/test": Price(input="1", output="10")})
        return (await run.run("think", capabilities=[behind])).output

    assert asyncio.run(run_job("thinker", lease={"model.use": ["test/test"]}, budget="USD:1")) == "thought"


class Extra(NamedTuple):
    """One extra: what uses it, the distributions that it may add, and the module that needs it.

    `brings` names other extras that come with its distributions.
    """

    use: Callable[[], None]
    adds: frozenset[str] = frozenset()
    needed_by: str = ""
    brings: tuple[str, ...] = ()


MCP: Final = frozenset(
    {
        *("mcp", "mcp-types", "httpx2", "httpcore2", "h11", "truststore"),
        *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
        *("jsonschema", "jsonschema-specifications", "referencing", "rpds-py", "attrs"),
        *("starlette", "sse-starlette", "uvicorn", "click", "python-multipart"),
        *("pyjwt", "cryptography", "cffi", "pycparser", "opentelemetry-api", "importlib-metadata", "zipp"),
    }
)
"""The distributions that the MCP SDK needs, for its client and its server."""
EXTRAS: Final = {
    "bare": Extra(use_bare),
    "trio": Extra(use_trio, frozenset({"trio", "attrs", "sortedcontainers", "outcome", "sniffio"})),
    "cli": Extra(
        use_cli,
        frozenset(
            {
                "typer",
                "rich",
                "click",
                "shellingham",
                "markdown-it-py",
                "mdurl",
                "pygments",
                "annotated-doc",
                "pydantic",
                "pydantic-core",
                "annotated-types",
                "typing-inspection",
            }
        ),
    ),
    "http": Extra(use_http, frozenset({"httpx", "httpcore", "h11", "certifi"}), "arcp_io.http_client"),
    "jwt": Extra(use_jwt, frozenset({"pyjwt", "cryptography", "cffi", "pycparser"}), "arcp_io.server.jwks"),
    "metrics": Extra(use_metrics, frozenset({"prometheus-client"}), "arcp_io.server.metrics"),
    "otel": Extra(use_otel, frozenset({"opentelemetry-api", "importlib-metadata", "zipp"}), "arcp_io.otel"),
    "pydantic-ai": Extra(
        use_pydantic_ai,
        frozenset(
            {
                "pydantic-ai-slim",
                "pydantic-graph",
                "genai-prices",
                "pydantic",
                "pydantic-core",
                "annotated-types",
                "typing-inspection",
                "griffelib",
                "logfire-api",
                "opentelemetry-api",
                "httpx2",
                "httpcore2",
                "h11",
                "truststore",
            }
        ),
        "arcp_io.pydantic_ai",
        ("otel",),
    ),
    "postgres": Extra(use_postgres, frozenset({"psycopg", "psycopg-binary"}), "arcp_io.cluster.connection"),
    "mcp": Extra(use_mcp, MCP, "arcp_io.mcp_tools.server_connection", ("jwt", "otel")),
}


def installed() -> set[str]:
    """Return the normalized names of all distributions of this environment."""
    return {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower() for one in distributions()}


def check_the_others(name: str) -> None:
    """Check that what needs another extra says how to install it."""
    for other, extra in EXTRAS.items():
        if other == name or other in EXTRAS[name].brings or not extra.needed_by:
            continue
        try:
            importlib.import_module(extra.needed_by)
        except ModuleNotFoundError as error:
            assert f"pip install 'arcp-io[{other}]'" in str(error), error
        else:
            raise AssertionError(f"{extra.needed_by} needs nothing of {other}")


def main(name: str) -> None:
    extra = EXTRAS[name]
    strange = installed() - BARE - TOOLS - extra.adds
    assert not strange, f"arcp-io[{name}] brings {strange}"
    extra.use()
    check_the_others(name)
    print(f"arcp-io[{name}]: {len(installed() - TOOLS)} distributions")


if __name__ == "__main__":
    main(sys.argv[1])
