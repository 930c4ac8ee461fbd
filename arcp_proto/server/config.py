"""The configuration of a runtime by its host, which is checked before the runtime begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import FEATURES, Feature
from arcp_proto.leases.ceilings import Ceiling, check_ceilings
from arcp_proto.limits import KIB, MAX_RUNTIME_SEC, Limits
from arcp_proto.server.jobs.inventory import AgentInfo, Inventory
from arcp_proto.server.sessions.subscriptions import Right
from arcp_proto.wire import codec
from arcp_proto.wire.first import MAX_LABEL_LENGTH, is_label

SUPPORTED_FEATURES: Final = FEATURES
"""The features of §6.2 that this runtime offers."""

LEAST_FRAME: Final = 32 * KIB
"""Bytes: the smallest frame limit, which fits an answer with the largest lease, and every error."""

WELCOME_BYTES: Final = 1024
"""An upper bound for the bytes of a welcome beside names and inventory."""

EVENT_BYTES: Final = 256
"""An upper bound for the bytes around a body in its payload: the longest kind, the time, a position."""

Observers = Mapping[str, Mapping[str, str]]
"""The rights to the jobs of others: principal to owner, "*" for all, to "list" or "observe" (§7.6)."""


Guests = Mapping[str, Mapping[str, Mapping[str, str]]]
"""The rights to the jobs of other tenants: principal to tenant to owner, "*" for all of it, to a right."""


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a runtime. Times are in seconds.

    `resume_window_sec` is how long a session outlives its connection; a `heartbeat_interval_sec` of 0 offers
    no heartbeats; `quirks` answers peers that deviate in the form that they read. `observers` are the rights
    to the jobs of others in the same tenant, and `guests` those to jobs of other tenants, in sessions of
    guests (see `Runtime.connect`), both until `observers_set`. `journal` tells that the host persists records
    and reports `persisted`; without it no records are made. With `models_required` a lease without
    `model.use` allows no model, else any (§9.7). The first of the `ceilings` that is for a submit binds it.
    """

    name: str
    version: str
    agents: tuple[AgentInfo, ...] = ()
    anonymous: bool = False
    heartbeat_interval_sec: int = 30
    resume_window_sec: int = 600
    quirks: bool = True
    journal: bool = False
    observers: dict[str, dict[str, str]] = {}
    guests: dict[str, dict[str, dict[str, str]]] = {}
    credentials: bool = False
    """Whether the host has a provisioner, and answers `IssueCredentials` and `RevokeCredential` (§9.8)."""
    credential_namespaces: tuple[str, ...] = ()
    """The namespaces with credentials; empty: every lease can have credentials.

    A lease without a pattern of any of them gets no credentials.
    """
    volatile_credentials: bool = False
    """Whether credentials are offered without a journal too: they then outlive a process that dies."""
    models_required: bool = True
    notices: bool = False
    """Whether the host gets `Noted` for sessions and jobs that begin and end."""
    ceilings: tuple[Ceiling, ...] = ()
    label: str = ""
    """The label in the resume tokens, which tells a host with several runtimes which one issued a token.

    It has 1 to 32 letters, digits, `-` and `_` of ASCII, and clients see it: `rt_<label>.` begins each token.
    """
    limits: Limits = Limits()

    @property
    def features(self) -> tuple[str, ...]:
        """The features that the runtime offers (§6.2)."""
        withheld = {
            Feature.HEARTBEAT: self.heartbeat_interval_sec == 0,
            Feature.PROVISIONED_CREDENTIALS: not self.credentials
            or not (self.journal or self.volatile_credentials),
        }
        return tuple(name for name in SUPPORTED_FEATURES if not withheld.get(name, False))


def check_config(config: RuntimeConfig, inventory: Inventory) -> None:
    """Check that every answer fits a frame, the label, and the rights of observers.

    Raises LocalProtocolError if not.
    """
    if config.limits.max_envelope_bytes < LEAST_FRAME:
        raise LocalProtocolError(f"a frame has at least {LEAST_FRAME} bytes")
    size = len(codec.encode_checked([config.name, config.version, inventory.entries]))
    if size > config.limits.max_envelope_bytes - WELCOME_BYTES:
        raise LocalProtocolError(f"the agents' inventory of {size} bytes does not fit a welcome")
    for seconds in (config.heartbeat_interval_sec, config.resume_window_sec):
        if not 0 <= seconds <= MAX_RUNTIME_SEC:
            raise LocalProtocolError(f"{seconds} is not between 0 and {MAX_RUNTIME_SEC} seconds")
    if config.label and not is_label(config.label):
        raise LocalProtocolError(
            f"a label has at most {MAX_LABEL_LENGTH} letters, digits, '-' and '_' of ASCII, unlike"
            f" {config.label!r}"
        )
    check_observers(config.observers)
    check_guests(config.guests)
    check_ceilings(config.ceilings)


def check_observers(observers: Observers) -> None:
    """Check the rights of observers; raises LocalProtocolError for an unknown one."""
    for principal, owners in observers.items():
        for owner, word in owners.items():
            if word not in (Right.LIST, Right.OBSERVE):
                raise LocalProtocolError(
                    f'observers: {principal} may "list" or "observe" the jobs of {owner}, not {word!r}'
                )


def check_guests(guests: Guests) -> None:
    """Check the rights of guests; raises LocalProtocolError for an unknown one."""
    for principal, tenants in guests.items():
        for tenant, owners in tenants.items():
            check_tenant(tenant)
            check_observers({principal: owners})


def check_tenant(tenant: str) -> None:
    """Check that a record can hold the name of a tenant; raises LocalProtocolError if it is not Unicode."""
    try:
        tenant.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError("the tenant holds a lone surrogate, so it is not valid Unicode") from None
