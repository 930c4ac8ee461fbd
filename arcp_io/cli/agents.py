"""`arcp-io agents`: list the agents of a runtime."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from .access import Access
from .option_groups import grouped
from .options import Json, RuntimeUrl, server_for
from .output import print_out
from .printable import one_line
from .question import ask

if TYPE_CHECKING:
    from arcp_io.client.session import Session


@grouped
def agents(access: Access, url: RuntimeUrl = None, as_json: Json = False) -> None:
    """List the agents of a runtime, with their versions; a star marks the version that a bare name runs.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io agents ws://127.0.0.1:7777/arcp
      arcp-io agents --profile work --json | jq -r '.agents[].name'
    """
    found = ask(access, server_for(url, access, "URL"), _look, as_json=as_json)
    if as_json:
        print_out(json.dumps(found))
        return
    width = max((len(agent["name"]) for agent in found["agents"]), default=0)
    for agent in found["agents"]:
        versions = [f"{one}*" if one == agent["default"] else one for one in agent["versions"]]
        print_out(f"{one_line(agent['name']).ljust(width)}  {one_line(' '.join(versions))}".rstrip())
    if not found["agents"]:
        print("The runtime names no agents.", file=sys.stderr)


async def _look(session: Session) -> dict[str, Any]:
    agents = [
        {"name": agent.name, "versions": list(agent.versions or ()), "default": agent.default}
        for agent in session.agents
    ]
    return {
        "runtime": {"name": session.runtime.name, "version": session.runtime.version},
        "features": sorted(session.features),
        "agents": agents,
    }
