"""`arcp-io config show`: the settings of the client commands, and where each of them comes from."""

from __future__ import annotations

import json
from typing import Any

from .access import Access
from .option_groups import grouped
from .options import Json, Keeping, Url
from .output import print_out
from .printable import HIDDEN, one_line, shown_url
from .profiles import config_file, profile_names


@grouped
def show(access: Access, keeping: Keeping, url: Url = None, as_json: Json = False) -> None:
    """Show the settings of the client commands, and where each value comes from.

    A flag comes before a variable of the environment, that before the profile, and that before the default.
    Profiles stand in arcp-io/config.toml below $XDG_CONFIG_HOME, by default ~/.config:

    \b
      profile = "local"               the profile to use without --profile
      [profiles.local]
      url = "ws://127.0.0.1:7777/arcp"
      token_file = "local.token"      beside the file; or token, if the file is for you alone

    Other keys are cafile, allow_plain, give_up and loop. Secrets are not shown.

    \b
    Examples:
      arcp-io config show
      arcp-io config show --profile work --json | jq '.settings[] | select(.name == "url")'
    """
    settings = list(_settings(access, keeping, url))
    used = access.used
    name = used.name if used is not None else None
    path = str(used.path if used is not None else config_file())
    profiles = profile_names()
    if as_json:
        told = {"file": path, "profile": name, "profiles": profiles, "settings": settings}
        print_out(json.dumps(told))
        return
    print_out(f"file        {path}")
    print_out(f"profiles    {', '.join(profiles) or 'none'}")
    for one in settings:
        value = (
            "-"
            if one["value"] is None
            else str(one["value"]).lower()
            if one["value"] in (True, False)
            else one["value"]
        )
        print_out(f"{one['name']:<11} {one_line(value)}  ({one['from']})")


def _settings(access: Access, keeping: Keeping, url: str | None) -> list[dict[str, Any]]:
    """Return the settings: name, value, and where it comes from."""
    origins = access.origins
    profile = access.used.name if access.used is not None else None
    from_file = profile is not None and access.profile is None
    values: dict[str, Any] = {
        "profile": profile,
        "url": None if url is None else shown_url(url, with_query=False),
        "token": HIDDEN if access.token else None,
        "token_file": access.token_file,
        "cafile": access.cafile,
        "allow_plain": access.allow_plain,
        "give_up": keeping.give_up,
        "loop": access.loop.value,
    }
    told = {**origins, "profile": "file"} if from_file else origins
    return [{"name": name, "value": value, "from": told[name]} for name, value in values.items()]
