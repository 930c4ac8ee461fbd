"""The connections to the store: statements take time, fail, are lost, or are carried out too late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.ids import MILLISECOND, SECOND

from .table import Table

if TYPE_CHECKING:
    from .cluster import Cluster
    from .node import Node

TIMEOUT: Final = 2 * SECOND
"""The time after which a node waits no longer for an answer."""


@dataclass(slots=True)
class Call:
    """One statement under way."""

    node: Node
    life: int
    statement: Callable[[Table], Any]
    answered: Callable[[Any], None]
    failed: Callable[[], None]
    over: bool = False
    """Whether the node has the answer, or waits no longer."""


class Store:
    """One database, and the network around it."""

    def __init__(self, cluster: Cluster, shards: int) -> None:
        self.table = Table(shards)
        self.down = False
        self.latency = 20 * MILLISECOND
        self.late = 0
        """The percentage of statements that are delayed by seconds."""
        self.loses = 0
        """The percentage of answers that are lost."""
        self._cluster = cluster

    def ask(
        self,
        node: Node,
        statement: Callable[[Table], Any],
        answered: Callable[[Any], None],
        failed: Callable[[], None],
    ) -> None:
        """Carry out a statement after a delay, and return the answer after another delay."""
        cluster = self._cluster
        call = Call(node, node.life, statement, answered, failed)
        takes = cluster.pick(self.latency + 1)
        if cluster.chance(self.late):
            takes += cluster.pick(6 * SECOND)
            node.unlucky(takes)
        cluster.later(takes, self._arrive, call)
        cluster.later(TIMEOUT, self._give_up, call)

    def _arrive(self, call: Call) -> None:
        cluster = self._cluster
        if self.down or call.node.cut:
            return
        self.table.remember()
        result = call.statement(self.table)
        self.table.check()
        if cluster.chance(self.loses):
            call.node.unlucky(TIMEOUT)
        else:
            cluster.later(cluster.pick(self.latency + 1), self._answer, call, result)

    def _answer(self, call: Call, result: Any) -> None:
        if not (call.over or self.down or call.node.cut):
            call.over = True
            call.node.deliver(call.life, call.answered, result)

    def _give_up(self, call: Call) -> None:
        if not call.over:
            call.over = True
            call.node.deliver(call.life, call.failed)
