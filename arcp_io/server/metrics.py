"""Figures for Prometheus, of one process: read from its runtimes when they are asked for.

Counted are facts that a runtime tells anyway (audit facts and notices), and by a meter of its pump the
events of agents and the time that records take to become durable. A server without metrics has no meter.
The only label from outside is the name of an agent, which is one of the App's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from arcp_io.drivers.ws_admission import Page
from arcp_io.version import VERSION
from arcp_proto import Audit, Noted

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "metrics need prometheus-client: pip install 'arcp-io[metrics]'", name=error.name
    ) from None

if TYPE_CHECKING:
    from arcp_io.app import App

    from .server import Server

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the bounds of the histogram of the journal's delay."""
DENIALS: Final = (
    "authentication_failed",
    "resume_refused",
    "ceiling_exceeded",
    "lease_denied",
    "guest_refused",
    "guest_denied",
)
"""The audit facts that are denials, each a value of a label; a subscription is one unless it is granted."""
_GAUGES: Final = {
    "connections": "Open connections, also those that have not said hello.",
    "running_agents": "Agents that have not stopped.",
    "held_events": "Events in the logs of sessions, which a resume may ask for.",
    "held_bytes": "Bytes of these events.",
    "unsent_events": "Events that attached sessions have not been sent yet.",
    "most_unsent_events": "Of these, the events of the session that has most.",
    "revocations_waiting": "Credentials of jobs that are over and not known to be revoked.",
    "revocations_outstanding": "Of these, credentials that are listed as ones that could not be revoked.",
}
"""Field of Gauges -> help text of the gauge."""


class Metrics:
    """The figures of the servers of one process, in a registry of their own."""

    def __init__(self, app: App) -> None:
        """Count for the agents of an App."""
        self.registry = CollectorRegistry(auto_describe=False)
        self._app = app
        self._servers: dict[Server, _Meter] = {}
        self._earlier_events = 0
        """Events of agents on servers that have ended."""
        count = self._counter
        self._started = count("arcp_jobs_started", "Jobs whose agent was started.", "agent")
        self._ended = count("arcp_jobs_ended", "Jobs that have ended.", "agent", "status")
        self._opened = count("arcp_sessions_opened", "Sessions that were opened.")
        self._resumed = count("arcp_sessions_resumed", "Sessions that were resumed.")
        self._replayed = count("arcp_replayed_events", "Events that were sent again because of a resume.")
        self._denied = count("arcp_denials", "Requests that were denied, by audit fact.", "kind")
        self._expired = count("arcp_authentications_expired", "Connections that ended with their token.")
        self._limits = count("arcp_limits_reached", "Limits that were reached.", "limit")
        self._unrevoked = count(
            "arcp_revocations_failed", "Revocations that failed, as far as they are told."
        )
        self._delay = Histogram(
            "arcp_journal_delay_seconds",
            "Time until records are durable.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Collector(self._collect))

    def page(self) -> Page:
        """Return the figures in the text format of Prometheus."""
        return Page(200, generate_latest(self.registry), CONTENT_TYPE)

    def watch(self, server: Server) -> None:
        """Count what happens on a server from now on, until `forget`."""
        self._servers[server] = server.pump.meter = _Meter(self._delay.observe)

    def forget(self, server: Server) -> None:
        """Leave a server that has ended out, but for the events that it has published."""
        meter = self._servers.pop(server, None)
        if meter is not None:
            self._earlier_events += meter.events

    def audited(self, fact: Audit) -> None:
        """Count an audit fact."""
        match fact.what:
            case "authentication_expired" | "authentication_revoked":
                self._expired.inc()
            case "limit_reached":
                self._limits.labels(fact.facts["limit"]).inc(1 + (fact.facts.get("untold") or 0))
            case "revocation_failed":
                self._unrevoked.inc()
            case "subscription" if fact.facts["decision"] != "granted":
                self._denied.labels("subscription").inc()
            case kind if kind in DENIALS:
                self._denied.labels(kind).inc()

    def noted(self, noted: Noted) -> None:
        """Count a session or a job that begins or ends."""
        facts = noted.facts
        match noted.what:
            case "session_opened":
                self._opened.inc()
            case "session_resumed":
                self._resumed.inc()
                self._replayed.inc(facts["events"])
            case "job_started":
                self._started.labels(_name(facts["agent"])).inc()
            case "job_ended":
                self._ended.labels(_name(facts["agent"]), facts["final_status"]).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("arcp_build_info", "The version of arcp-io.", labels=["version"])
        info.add_metric([VERSION], 1)
        yield info
        events = self._earlier_events + sum(meter.events for meter in self._servers.values())
        yield CounterMetricFamily("arcp_events_published", "Events that agents have published.", events)
        found = [server.runtime.jobs.gauges() for server in self._servers]
        for name, text in _GAUGES.items():
            values = [getattr(one, name) for one in found]
            total = max(values, default=0) if name.startswith("most_") else sum(values)
            yield GaugeMetricFamily(f"arcp_{name}", text, total)
        sessions = GaugeMetricFamily(
            "arcp_sessions", "Sessions that are open or resumable.", labels=["state"]
        )
        sessions.add_metric(["attached"], sum(one.attached_sessions for one in found))
        sessions.add_metric(["detached"], sum(one.detached_sessions for one in found))
        yield sessions
        jobs = GaugeMetricFamily("arcp_jobs", "Jobs that are kept, by status.", labels=["agent", "status"])
        counted: dict[tuple[str, str], int] = {}
        for one in found:
            for (agent, status), number in one.jobs.items():
                counted[agent, status.value] = counted.get((agent, status.value), 0) + number
        for (agent, status_text), number in counted.items():
            jobs.add_metric([agent, status_text], number)
        yield jobs
        behind = sum(one.records_behind for one in found)
        yield GaugeMetricFamily("arcp_journal_waiting_records", "Records that are not durable yet.", behind)


class _Collector:
    """The source of the figures that are read and not counted, as a registry wants it."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect


class _Meter:
    """Counts the events on one pump, and observes how long each group of its records takes to be durable."""

    def __init__(self, observe: Callable[[float], object]) -> None:
        self.events = 0
        self._observe = observe
        self._waiting: deque[tuple[int, float]] = deque()

    def published(self) -> None:
        self.events += 1

    def kept(self, count: int) -> None:
        self._waiting.append((count, time.monotonic()))

    def durable(self, count: int) -> None:
        now, waiting = time.monotonic(), self._waiting
        while waiting and waiting[0][0] <= count:
            self._observe(now - waiting.popleft()[1])


def _name(agent: str) -> str:
    """Return the name of an agent without its version."""
    return agent.partition("@")[0]
