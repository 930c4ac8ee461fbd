"""An App: the agents that a runtime serves, and its settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, get_type_hints

from arcp_io.server import recording as recording_file
from arcp_io.server.audit_log import LEAST_SIZE, SIZE, AuditTo
from arcp_io.server.auth import TokenTable, Verifier, is_async
from arcp_io.server.run import run
from arcp_proto import AgentInfo, Ceiling, Limits, LocalProtocolError, RuntimeConfig, qualified

from .errors import InvalidRequest
from .placing.links import Links
from .placing.placement import Placement
from .provisioning import CredentialProvisioner
from .values import is_shape, read_as

if TYPE_CHECKING:
    from arcp_io.journal import Journal
    from arcp_io.otel import Tracing
    from arcp_io.server.asgi import AsgiApp

__all__ = ["Agent", "App", "run"]

AgentFunction: TypeAlias = Callable[[Any, Any], Any]
"""`async def agent(job: JobContext, input)`, or a plain function of a BlockingJobContext."""
HEARTBEAT_SEC: Final = 30
"""Seconds between heartbeats of an App that does not state them, on a node alone."""
Isolation: TypeAlias = Literal["process"] | None

F = TypeVar("F", bound=AgentFunction)


@dataclass(frozen=True)
class Agent:
    """One registered version of an agent."""

    name: str
    version: str | None
    function: AgentFunction
    default: bool = False
    isolation: Isolation = None
    restartable: bool = False
    placement: Placement | None = None
    is_async: bool = field(init=False)
    """Whether it runs on the loop; a plain function runs in a worker thread."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", is_async(self.function))

    @cached_property
    def input_type(self) -> type[Any] | None:
        """The class that the input is read as, if the parameter has such an annotation."""
        return _input_type(self.function)

    @property
    def qualified_name(self) -> str:
        """`name@version`, or the name of an agent without versions (§7.5)."""
        return qualified(self.name, self.version)

    def input_of(self, value: Any) -> Any:
        """Return the input of a job as the function takes it; see `input_of`."""
        return value if self.input_type is None else _read_input(value, self.input_type)


def input_of(function: AgentFunction, value: Any) -> Any:
    """Return the input of a job, converted to the annotation of the function's second parameter.

    The annotation counts if it is a class with fields: a dataclass, a Struct, an attrs class or a pydantic
    model. Raises InvalidRequest for a value that does not fit, and names the field.
    """
    kind = _input_type(function)
    return value if kind is None else _read_input(value, kind)


def _read_input(value: Any, kind: type[Any]) -> Any:
    try:
        return read_as("input", value, kind)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _input_type(function: AgentFunction) -> type[Any] | None:
    """Return the class with fields that annotates a function's input, or None."""
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < 2:
        return None
    try:
        hints = get_type_hints(function if inspect.isroutine(function) else type(function).__call__)
    except (NameError, TypeError, AttributeError):
        return None  # The names exist for type checkers only.
    kind = hints.get(parameters[1].name)
    return kind if is_shape(kind) else None


class App:
    """A runtime's name, its agents, and the principals that may use them.

    `tokens` maps a bearer token to its principal; `auth` is called instead, a plain or async function from a
    token to its principal or None; `anonymous` admits clients without a token, each as a principal of its
    own. `heartbeat` is in seconds, 0 for none; by default 30, and 10 on many nodes. For `resume_window`
    seconds a session outlives its connection: a client that reconnects in time gets what it missed.
    `observers` gives rights to see the jobs of other principals: {principal: {owner or "*": "list" or
    "observe"}} (§7.6). With `models_required` a lease without model.use allows no model, otherwise any
    (§9.7). `ceilings` bound the leases that may be requested. `max_threads` bounds the plain agents that run
    at a time, including those that outlive their job. `quirks` answers peers that deviate from the draft in
    the form that they can read. Every fact for an audit (§14) is logged by the logger "arcp_io.audit", and
    goes to `audit` as well: a file, to which it is appended as a line of JSON, or a function that is called
    with each Audit and must not block. The files of the audit have `audit_bytes` together, 64 KiB at least;
    None means without bound.

    For debugging `recording` is a file, which must not exist: it gets every input of the runtime, among them
    all that clients and agents send, with stand-ins for secrets, until it has `recording_bytes`, 64 KiB at
    least. `arcp-io replay` runs it again. A runtime with a journal is not recorded.

    A `provisioner` issues credentials for jobs (§9.8), if there is a journal from which they are revoked
    after a crash, or with `volatile_credentials`, for tests. They are sent over TLS, stdio and in memory;
    with `secure_loopback` a plain connection from this machine counts as secure too.

    On many nodes a `tenant` function tells whose jobs may be seen together, as the name of a group of
    principals; by default each principal is a tenant of its own. It must give the same answer on every node.
    A right of `observers` to a principal of another tenant then holds in the session of a guest, which asks
    for that tenant in its URL (`?tenant=NAME`); "*" means all principals of the observer's own tenant.

    `links` says where agents with a placement on another machine reach this runtime, and how that is
    protected; by default on loopback.

    With `tracing`, a Tracing of `arcp_io.otel`, jobs, tool calls and delegations have spans of OpenTelemetry.

    With `debug`, for development, clients get the type and the text of an exception that ends a job or a tool
    call; otherwise they learn only that the agent failed, and the log of the server has the rest.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        tokens: Mapping[str, str] | None = None,
        auth: Verifier | None = None,
        anonymous: bool = False,
        limits: Limits | None = None,
        heartbeat: int | None = None,
        resume_window: int = 600,
        observers: Mapping[str, Mapping[str, str]] | None = None,
        models_required: bool = True,
        ceilings: Sequence[Ceiling] = (),
        max_threads: int = 64,
        quirks: bool = True,
        audit: AuditTo | None = None,
        audit_bytes: int | None = SIZE,
        recording: str | os.PathLike[str] | None = None,
        recording_bytes: int = recording_file.SIZE,
        provisioner: CredentialProvisioner | None = None,
        secure_loopback: bool = False,
        volatile_credentials: bool = False,
        debug: bool = False,
        tenant: Callable[[str], str] | None = None,
        links: Links | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        if tokens is not None and auth is not None:
            raise ValueError("give an App tokens or auth, not both: auth can check the tokens too")
        if max_threads < 1:
            raise ValueError("max_threads is at least 1")
        if audit_bytes is not None and audit_bytes < LEAST_SIZE:
            raise ValueError(f"audit_bytes is at least {LEAST_SIZE}, or None")
        if recording_bytes < recording_file.LEAST_SIZE:
            raise ValueError(f"recording_bytes is at least {recording_file.LEAST_SIZE}")
        self.name = name
        self.version = version
        self.anonymous = anonymous
        self.limits = limits or Limits()
        self.heartbeat = heartbeat
        self.resume_window = resume_window
        self.observers = {principal: dict(owners) for principal, owners in (observers or {}).items()}
        self.models_required = models_required
        self.ceilings = tuple(ceilings)
        self.max_threads = max_threads
        self.quirks = quirks
        self.audit = audit
        self.audit_bytes = audit_bytes
        self.recording = recording
        self.recording_bytes = recording_bytes
        self.provisioner = provisioner
        self.secure_loopback = secure_loopback
        self.volatile_credentials = volatile_credentials
        self.debug = debug
        self.tenant = tenant
        self.links = links or Links()
        self.tracing = tracing
        self.verifier: Verifier | None = TokenTable(tokens) if tokens is not None else auth
        self._agents: dict[str, dict[str | None, Agent]] = {}

    def __repr__(self) -> str:
        return f"<App {self.name} {self.version}: {', '.join(self._agents) or 'no agents'}>"

    def agent(
        self,
        name: str,
        *,
        version: str | None = None,
        default: bool = False,
        isolation: Isolation = None,
        placement: Placement | Isolation = None,
        restartable: bool = False,
    ) -> Callable[[F], F]:
        """Register a function as an agent; a decorator, which returns the function unchanged.

        Of several versions one is the `default`. `isolation="process"` runs each job in a separate process;
        a `placement` does so on another machine, such as `Ray(num_gpus=1)` or `Dask("tcp://scheduler:8786")`
        of `arcp_io.placing`, or with "process" on this one. With `restartable` a job that was interrupted by
        a restart of a runtime with a journal, and that has streamed nothing of its result, starts again from
        its input, under the same id (see `job.attempt`). An input whose parameter is annotated with a
        dataclass, a Struct, an attrs class or a pydantic model is converted to that; one that does not fit
        ends the job with INVALID_REQUEST.

        Raises ValueError for a name or version that breaks the grammar of §7.5 or is taken, and TypeError for
        a function that cannot be called with (job, input).
        """

        def register(function: F) -> F:
            if placement is not None and isolation is not None:
                raise ValueError(f"{name}: give isolation or a placement, not both")
            isolated, placed = isolation, None
            if isinstance(placement, Placement):
                placed = placement
            elif placement is not None:
                isolated = placement
            self._register(Agent(name, version, function, default, isolated, restartable, placed))
            return function

        return register

    def asgi(
        self,
        *,
        path: str = "/arcp",
        hosts: Sequence[str] | None = None,
        origins: Sequence[str] = (),
        allow_plain: bool = False,
        drain: float = 30.0,
        journal: Journal | None = None,
        metrics: bool = False,
        dashboard: bool = False,
        sse: bool = False,
    ) -> AsgiApp:
        """Return an ASGI 3 application that serves this App, alone or mounted in another application.

        It takes WebSockets at `path`, and answers `/livez` and `/readyz` for load balancers, all of them
        below the path where it is mounted. `hosts` are the admitted Host headers, by default those of
        loopback; `origins` are the admitted web origins, by default none. Clients without TLS are admitted
        from loopback alone, unless `allow_plain`.

        The lifespan of its server starts the runtime, and at the end running jobs get `drain` seconds. A
        mounted application gets no lifespan: give its `lifespan` to the outer one. Otherwise the first
        request starts the runtime, and jobs get no time at the end. With a `journal` sessions and jobs
        survive the process. The server has to run one worker. With `metrics` (extra `metrics`) admitted hosts
        get figures for Prometheus at `/metrics`, and with `dashboard` a page about jobs at `/dashboard`. With
        `sse` the events of a job are server-sent events at `/jobs/{job_id}/events`, for bearer tokens.

        Raises ValueError for an invalid App, path or journal.
        """
        from arcp_io.server.asgi import AsgiApp

        return AsgiApp(
            self,
            path=path,
            hosts=hosts,
            origins=origins,
            allow_plain=allow_plain,
            drain=drain,
            journal=journal,
            metrics=metrics,
            dashboard=dashboard,
            sse=sse,
        )

    def find(self, name: str, version: str | None) -> Agent:
        """Return the agent that was registered under this name and version; raises KeyError."""
        return self._agents[name][version]

    def tenant_of(self, principal: str) -> str:
        """Return the tenant of a principal; raises TypeError and ValueError if it is not valid text."""
        if self.tenant is None:
            return principal
        tenant = self.tenant(principal)
        if not isinstance(tenant, str):
            raise TypeError(f"App(tenant=...) returns text, not {type(tenant).__name__}")
        tenant.encode()
        return tenant

    def config(self) -> RuntimeConfig:
        """Return the configuration for a Runtime; raises ValueError for an App that cannot be served."""
        if self.verifier is None and not self.anonymous:
            raise ValueError(
                "no client could use this App: give it tokens={token: principal}, auth=<a verifier>,"
                " or anonymous=True to admit all clients"
            )
        for versions in self._agents.values():
            for agent in versions.values():
                if agent.placement is not None:
                    agent.placement.check()
        return RuntimeConfig(
            name=self.name,
            version=self.version,
            agents=tuple(_info(name, versions) for name, versions in self._agents.items()),
            anonymous=self.anonymous,
            heartbeat_interval_sec=HEARTBEAT_SEC if self.heartbeat is None else self.heartbeat,
            resume_window_sec=self.resume_window,
            observers=self.observers,
            models_required=self.models_required,
            ceilings=self.ceilings,
            credentials=self.provisioner is not None,
            credential_namespaces=tuple(getattr(self.provisioner, "namespaces", ())),
            volatile_credentials=self.volatile_credentials,
            quirks=self.quirks,
            limits=self.limits,
        )

    def _register(self, agent: Agent) -> None:
        _check_function(agent)
        try:
            AgentInfo(agent.name, () if agent.version is None else (agent.version,)).entry()
        except LocalProtocolError as error:
            raise ValueError(str(error)) from None
        versions = self._agents.get(agent.name, {})
        if agent.version in versions:
            raise ValueError(f"{agent.qualified_name} is registered already")
        if versions and (agent.version is None or None in versions):
            raise ValueError(f"{agent.name} is registered with and without a version: give each a version")
        if agent.default and any(other.default for other in versions.values()):
            raise ValueError(f"{agent.name} has a default version already")
        self._agents.setdefault(agent.name, {})[agent.version] = agent


def _check_function(agent: Agent) -> None:
    function = agent.function
    if not callable(function):
        raise TypeError(f"{agent.name}: an agent is a function of (job, input)")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{agent.name}: an agent returns; it streams its result with job.stream_result()")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise TypeError(f"{agent.name}: an agent is called with (job, input)") from None
    if agent.isolation not in (None, "process"):
        raise ValueError(f'{agent.name}: isolation is None or "process", not {agent.isolation!r}')
    if agent.isolation == "process" or agent.placement is not None:
        from arcp_io.agents.isolation.parent import reference

        reference(function)


def _info(name: str, versions: Mapping[str | None, Agent]) -> AgentInfo:
    named = tuple(version for version in versions if version is not None)
    default = next((agent.version for agent in versions.values() if agent.default), None)
    if len(named) > 1 and default is None:
        raise ValueError(f"{name} has the versions {', '.join(named)}: mark one with default=True")
    restartable = [agent.restartable for agent in versions.values()]
    if any(restartable) and not all(restartable):
        raise ValueError(f"{name} has restartable versions and others: mark all of them, or none")
    return AgentInfo(name, named, default, all(restartable))
