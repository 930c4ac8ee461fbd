"""Errors of the store, the database that all nodes share."""

from __future__ import annotations

from arcp_io.journal.protocol import JournalError


class StoreError(JournalError):
    """A store that refuses a statement or cannot be used; the message gives the reason and the remedy.

    The statement has changed nothing.
    """


class StoreAway(StoreError):
    """A store that cannot be reached, or does not answer; a statement may have been carried out or not."""


class StoreSlow(StoreAway):
    """A store that does not answer in time; it may answer later."""


class NoStore(StoreError):
    """A database without a store."""
