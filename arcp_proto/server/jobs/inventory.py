"""The agents of a runtime, and the resolution of their names and versions (§7.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal
from arcp_proto.ids import qualified
from arcp_proto.leases.token_scope import TokenScope
from arcp_proto.limits import MAX_AGENT_LENGTH
from arcp_proto.wire.messages import AgentEntry

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_VERSION: Final = re.compile(r"[a-zA-Z0-9.+_-]+\Z")


class AgentInfo(msgspec.Struct, frozen=True):
    """An agent as a host registers it; several versions need a default, a single one is the default.

    The jobs of a `restartable` agent start again, from their input, after a restart of the runtime.
    """

    name: str
    versions: tuple[str, ...] = ()
    default: str | None = None
    restartable: bool = False

    def entry(self) -> AgentEntry:
        """Return the agent as the welcome lists it; raises LocalProtocolError for a wrong one."""
        name, versions, default = self.name, self.versions, self.default
        if not _NAME.match(name):
            raise LocalProtocolError(f"{name!r} is not an agent name: a-z, 0-9 and . _ - after the first")
        for version in versions:
            if not _VERSION.match(version):
                raise LocalProtocolError(
                    f"{version!r} is not a version of {name}: letters, digits and . + _ -"
                )
        if any(len(qualified(name, version)) > MAX_AGENT_LENGTH for version in versions or (None,)):
            raise LocalProtocolError(f"name@version of {name} is longer than {MAX_AGENT_LENGTH} characters")
        if len(dict.fromkeys(versions)) < len(versions):
            raise LocalProtocolError(f"a version of {name} comes twice")
        if default is None and len(versions) == 1:
            default = versions[0]
        if (default is None and versions) or (default is not None and default not in versions):
            raise LocalProtocolError(f"{name} needs a default that is one of its versions")
        return AgentEntry(name, list(versions), default)


class Inventory:
    """All agents of a runtime, fixed for its lifetime."""

    __slots__ = ("_by_name", "_restartable", "entries")

    entries: list[AgentEntry]
    """The agents as the welcome lists them, sorted by name."""

    def __init__(self, agents: Sequence[AgentInfo]) -> None:
        """Check the agents; raises LocalProtocolError for a name or version that is wrong or comes twice."""
        entries = [agent.entry() for agent in agents]
        self.entries = sorted(entries, key=lambda entry: entry.name)
        self._by_name = {entry.name: entry for entry in entries}
        self._restartable = frozenset(agent.name for agent in agents if agent.restartable)
        if len(self._by_name) < len(entries):
            raise LocalProtocolError("two agents have the same name; one agent may have several versions")

    def resolve(self, agent: str) -> tuple[str, str | None]:
        """Return the name and version that `name` or `name@version` means; None: the agent has no version.

        Raises Refusal INVALID_REQUEST, AGENT_NOT_AVAILABLE or AGENT_VERSION_NOT_AVAILABLE.
        """
        named = self._by_name.get(agent)
        if named is not None:
            return named.name, named.default
        name, version = _split(agent)
        entry = self._by_name.get(name)
        if entry is None:
            raise Refusal(ErrorCode.AGENT_NOT_AVAILABLE, f"{name} is not registered")
        if version is None:
            return name, entry.default
        if version not in entry.versions:
            versions = ", ".join(entry.versions) or "none"
            raise Refusal(
                ErrorCode.AGENT_VERSION_NOT_AVAILABLE, f"{agent} is not registered; versions: {versions}"
            )
        return name, version

    def has(self, name: str, version: str | None) -> bool:
        """Return whether an agent is registered with this version; None: without a version."""
        entry = self._by_name.get(name)
        return entry is not None and (
            version in entry.versions if version is not None else not entry.versions
        )

    def allowed(self, scope: TokenScope) -> list[AgentEntry]:
        """Return the entries of the agents that a token allows, each with the versions that it allows.

        The default of an agent is listed only if it is allowed.
        """
        found = []
        for entry in self.entries:
            versions = [one for one in entry.versions if scope.allows(entry.name, one)]
            if versions or (not entry.versions and scope.allows(entry.name, None)):
                default = entry.default if entry.default in versions else None
                found.append(AgentEntry(entry.name, versions, default))
        return found

    def restartable(self, name: str) -> bool:
        """Return whether the jobs of an agent start again after a restart of the runtime."""
        return name in self._restartable


def _split(agent: str) -> tuple[str, str | None]:
    if len(agent) > MAX_AGENT_LENGTH:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"the agent is longer than {MAX_AGENT_LENGTH} characters",
            details={"limit": "agent_length", "max": MAX_AGENT_LENGTH},
        )
    name, at, version = agent.partition("@")
    if not _NAME.match(name) or (at and not _VERSION.match(version)):
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{agent!r} is not an agent: name or name@version (§7.5)")
    return name, version if at else None
