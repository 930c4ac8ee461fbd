"""A gateway whose keys are looked at after every kill: none is valid that the journal does not know (§14)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from arcp_io.journal.credential_report import Outstanding
from arcp_io.litellm import LiteLLMProvisioner
from tests.io.gateway import MASTER, Gateway, gateway

Listed: TypeAlias = Callable[[], Sequence[Outstanding]]
"""Returns the credentials that the journal, or the store, knows and that are not revoked."""
VARIABLE: Final = "KILL9_GATEWAY"
"""Where the gateway is, for the process that serves; without it no credentials are offered."""
MODELS: Final = ("fast/small",)
SETTLES: Final = 90.0
"""Seconds after which everything is revoked that a process may have asked for before it was killed."""


class Ledger:
    """The keys of one run."""

    def __init__(self, state: Gateway) -> None:
        self.gateway = state
        self.looks = 0

    def after_a_kill(self, listed: Listed) -> list[str]:
        """Check that the journal, or the store, lists every key that is valid."""
        self.looks += 1
        valid = self.gateway.aliases()  # First: what comes later was asked for before as well.
        known = {one.alias for one in listed()}
        unlisted = [alias for alias in valid if alias not in known]
        return [f"the key {alias} is valid, and the journal does not know it" for alias in unlisted]

    def at_the_end(self, listed: Listed) -> list[str]:
        """Check the keys after an orderly end: valid ones are listed, and issued ones were revoked."""
        wrong = self.after_a_kill(listed)
        states = [one.state for one in listed() if one.alias in self.gateway.aliases()]
        return wrong + [f"a key is {state} at the end" for state in states]

    def settle(self) -> None:
        """Wait until no key is valid, for a while."""
        until = time.monotonic() + SETTLES
        while self.gateway.keys and time.monotonic() < until:
            time.sleep(0.05)

    def figures(self) -> str:
        """Return what was done, in a line."""
        return (
            f"{len(self.gateway.values)} keys issued, {len(self.gateway.keys)} valid at the end;"
            f" {self.looks} looks at the journal"
        )


@contextmanager
def ledger() -> Iterator[Ledger]:
    """Yield a gateway, which the processes that are started meanwhile find."""
    with gateway() as state:
        os.environ[VARIABLE] = state.url
        try:
            yield Ledger(state)
        finally:
            del os.environ[VARIABLE]


def provisioner() -> LiteLLMProvisioner | None:
    """Return the provisioner of the served App, in a run with a gateway."""
    url = os.environ.get(VARIABLE)
    return None if url is None else LiteLLMProvisioner(url, MASTER, models=MODELS)
