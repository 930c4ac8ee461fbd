"""A node in a process of its own, and the places where one node runs after the other."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

from tests.cluster.link import Link
from tests.cluster.private_postgres import PrivatePostgres, free_port
from tests.kill9.server import Server

PATIENCE: Final = 20.0
"""Seconds beyond its drain in which a node ends."""


class NodeProcess(Server):
    """`arcp-io serve --journal postgresql://...`, with its connections behind links."""

    def __init__(self, name: str, place: Place, logs: Path) -> None:
        super().__init__(logs / name)
        self.name = name
        self.port = place.port
        self.place = place
        self.node = ""
        """The id of the node, once it has beaten."""
        self.left = False
        """Whether it has ended after SIGTERM."""

    async def listening(self) -> None:
        await super().listening()
        self.place.port = self.place.clients.target = self.port

    def options(self) -> list[str]:
        place = self.place
        store = place.postgres.url(place.database, place.store.port)
        return [
            *("--journal", f"{store}&application_name={self.name}"),
            *("--node-listen", f"127.0.0.1:{place.nodes.target}"),
            *("--node-advertise", f"127.0.0.1:{place.nodes.port}"),
            *("--lease", f"{place.lease:g}", "--drain", f"{place.drain:g}"),
        ]

    def heard(self, line: str) -> None:
        super().heard(line)
        with self.journal.with_suffix(".log").open("a") as log:
            log.write(f"{time.monotonic():.3f} {line}")
        if found := re.search(r"node ([0-9a-f-]{36}) at ", line):
            self.node = found[1]


class Place:
    """The addresses of a node: one that is started again in place has the same ones."""

    def __init__(self, postgres: PrivatePostgres, database: str, *, lease: float, drain: float) -> None:
        self.postgres = postgres
        self.database = database
        self.lease = lease
        self.drain = drain
        self.port = 0
        """The port for clients; 0 before the first process."""
        self.clients = Link()
        self.nodes = Link(free_port())
        self.store = Link(postgres.port)
        self.process: NodeProcess | None = None
        """The process that runs here."""

    @property
    def links(self) -> tuple[Link, ...]:
        return (self.clients, self.nodes, self.store)

    async def listen(self) -> None:
        """Begin the links."""
        for link in self.links:
            await link.listen()

    async def close(self) -> None:
        """End the links."""
        for link in self.links:
            await link.close()
