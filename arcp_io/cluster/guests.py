"""Guests of many nodes: the tenant that a client asks for in its URL, and the rights to its jobs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from arcp_proto import LocalProtocolError

PARAMETER: Final = "tenant"
"""The parameter of the query that names a tenant."""
MAX_TENANT: Final = 256
"""Characters of a tenant that a client asks for."""

_ESCAPED: Final = re.compile("(?:[^%]|%[0-9A-Fa-f]{2})*")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")

logger = logging.getLogger("arcp_io")


def tenant_asked(target: str) -> str | None:
    """Return the tenant that the path and query of a request ask for; None if they ask for none.

    Other parameters have no meaning. A parameter counts by its name as it reads without escapes, so that no
    proxy takes it for another one. Raises ValueError for a name that is given twice, is not UTF-8 in escapes,
    has a control character, or has not between 1 and MAX_TENANT characters; the message does not show it.
    """
    pairs = [pair.partition("=") for pair in target.partition("?")[2].split("&")]
    asked = [value for name, _, value in pairs if _unescaped(name) == PARAMETER.encode()]
    if not asked:
        return None
    if len(asked) > 1:
        raise ValueError(f"the parameter {PARAMETER} is given more than once")
    if _ESCAPED.fullmatch(asked[0]) is None:
        raise ValueError(f"the parameter {PARAMETER} holds a percent sign that escapes nothing")
    try:
        tenant = _unescaped(asked[0]).decode()
    except UnicodeDecodeError:
        raise ValueError(f"the parameter {PARAMETER} is not UTF-8") from None
    if not 1 <= len(tenant) <= MAX_TENANT:
        raise ValueError(f"the parameter {PARAMETER} has not between 1 and {MAX_TENANT} characters")
    if _CONTROL.search(tenant):
        raise ValueError(f"the parameter {PARAMETER} holds a control character")
    return tenant


def fault_of_query(target: str) -> str:
    """Return why the query of a request is not valid; empty if it is."""
    try:
        tenant_asked(target)
    except ValueError as error:
        return str(error)
    return ""


class Rights(NamedTuple):
    """The rights to see jobs of others, as the runtime of a shard has them."""

    observers: dict[str, dict[str, str]]
    """The rights within a tenant: principal -> owner, or "*" for all of the tenant -> right."""
    guests: dict[str, dict[str, dict[str, str]]]
    """The rights to jobs of other tenants: principal -> tenant -> owner -> right."""


def rights_of(observers: Mapping[str, Mapping[str, str]], tenant_of: Callable[[str], str]) -> Rights:
    """Return rights by whether observer and owner are of one tenant; "*" stays within that of the observer.

    Raises LocalProtocolError for a right that is neither "list" nor "observe".
    """
    rights = Rights({}, {})
    for observer, owners in observers.items():
        own = tenant_of(observer)
        rights.observers[observer] = {}
        for owner, word in owners.items():
            if word not in ("list", "observe"):
                raise LocalProtocolError(
                    f'observers: {observer} may "list" or "observe" the jobs of {owner}, not {word!r}'
                )
            tenant = own if owner == "*" else tenant_of(owner)
            if tenant == own:
                rights.observers[observer][owner] = word
            else:
                rights.guests.setdefault(observer, {}).setdefault(tenant, {})[owner] = word
    return rights


def warn_of_guests(rights: Rights) -> None:
    """Log a warning if there are rights to jobs of other tenants, and say how they are used."""
    pairs = [
        f"{observer} to jobs of {owner}"
        for observer, tenants in rights.guests.items()
        for owners in tenants.values()
        for owner in owners
    ]
    if pairs:
        logger.warning(
            "observers gives %d rights across tenants (%s): they hold only in a session that the observer"
            " opens with ?%s=NAME in its URL, the name of the tenant of the owner",
            len(pairs),
            ", ".join(pairs[:3]) + (", ..." if len(pairs) > 3 else ""),
            PARAMETER,
        )


def _unescaped(text: str) -> bytes:
    """Return the bytes of a name or value, escaped as HTML forms do it; other characters as UTF-8."""
    return unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape"))
