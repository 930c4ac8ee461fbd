"""A connection to the store: opened when it is needed, and opened again after a loss.

psycopg is used synchronously, in threads that are not those of an event loop.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

from arcp_io.forks import keep_from_copies

from .errors import StoreAway, StoreError, StoreSlow
from .url import StoreUrl

try:
    import psycopg
    from psycopg import errors as pg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise ModuleNotFoundError(
        f"a store in PostgreSQL needs psycopg: pip install 'arcp-io[postgres]' ({error})", name="psycopg"
    ) from None

__all__ = ["LEASE", "Connection", "Db", "pg"]

T = TypeVar("T")
Db: TypeAlias = "psycopg.Connection[Any]"

TRIES: Final = 10
"""How often a transaction is tried that the server ends for a conflict with another (40001, 40P01)."""
FIRST_PAUSE: Final = 0.005
"""Seconds before the second try; each further pause is twice as long."""
STARTS: Final = "the database system is "
"""Words with which a server refuses connections while it starts, recovers or stops.

libpq does not show the code of such an error (57P03). In another language the refusal is like any other.
"""
LEASE: Final = 5.0
"""Seconds within which a dead connection is recognized, unless the options of the URL say otherwise."""


def defaults(lease: float) -> dict[str, str]:
    """Return the options of libpq that hold unless the URL states them."""
    return {
        "connect_timeout": "2",
        "tcp_user_timeout": f"{int(lease * 1000)}",
        "keepalives": "1",
        "keepalives_idle": "1",
        "keepalives_interval": "1",
        "keepalives_count": f"{max(1, int(lease) - 1)}",
        "fallback_application_name": "arcp-io",
    }


READS: Final = 1
"""The bit of psycopg for a socket that can be read, or that should be."""
WRITES: Final = 2
"""The bit of psycopg for a socket that can be written to, or that should be."""


class Limited(psycopg.Connection[Any]):
    """A connection of psycopg that waits only so long for each answer of the server."""

    seconds: float = 0.0
    """The limit; 0 waits for ever."""

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """Wait for an answer; raises TimeoutError, after which the connection cannot be used."""
        if not self.seconds:
            found: T = super().wait(gen, *args, **options)
            return found
        deadline = time.monotonic() + self.seconds
        descriptor: int = self.pgconn.socket
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(_ready(descriptor, wanted, deadline))
        except StopIteration as done:
            result: T = done.value
            return result


class Connection:
    """One connection to the store, for one thread at a time; others wait for it.

    Every transaction is that of one call of `run`.
    """

    def __init__(
        self,
        url: StoreUrl,
        *,
        answer_seconds: float,
        check: Callable[[Db], object] | None = None,
        lease: float = LEASE,
    ) -> None:
        """Prepare a connection; `check` is called with each new connection, and raises StoreError."""
        self.url = url
        self._answer_seconds = answer_seconds
        self._check = check
        self._lease = lease
        self._lock = threading.Lock()
        self._db: Limited | None = None

    def run(self, work: Callable[[Db], T], *, again: bool = False) -> T:
        """Return the result of statements, for which a connection is opened if there is none.

        With `again` they are sent once more when a connection turns out to be lost that was open before: for
        statements that may be carried out twice.

        Each statement outside of `Db.transaction()` is a transaction of its own. After a conflict with
        another transaction `work` is called again, TRIES times in all. Raises StoreAway when the outcome is
        unknown, because the connection was lost, could not be opened, or was silent for too long (StoreSlow).
        Raises StoreError when the server refuses a statement.
        """
        pause = FIRST_PAUSE
        with self._lock:
            again = again and self._db is not None
            for left in reversed(range(TRIES)):
                try:
                    return self._try(work)
                except (pg.SerializationFailure, pg.DeadlockDetected) as error:
                    if not left:
                        raise self._refused(error) from error
                    time.sleep(pause)
                    pause *= 2
                except StoreAway:
                    if not again:
                        raise
                    again = False
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connection; a later `run` opens it again."""
        with self._lock:
            self._drop()

    def _try(self, work: Callable[[Db], T]) -> T:
        db = self._opened()
        try:
            return work(db)
        except (pg.SerializationFailure, pg.DeadlockDetected):
            raise
        except TimeoutError as error:
            self._drop()
            raise StoreSlow(
                f"the store {self.url.shown} does not answer for {self._answer_seconds:g} s"
            ) from error
        except psycopg.Error as error:
            # A server that has become a standby takes no writes: another server may be the primary now.
            if db.closed or isinstance(error, pg.ReadOnlySqlTransaction):
                self._drop()
                raise self._away(error) from error
            raise self._refused(error) from error
        except StoreError:
            raise
        except BaseException:
            self._drop()
            raise

    def _opened(self) -> Limited:
        if self._db is not None and not self._db.closed:
            return self._db
        self._drop()
        try:
            options: dict[str, Any] = {**defaults(self._lease), **conninfo_to_dict(self.url.libpq)}
            db: Limited = Limited.connect(
                "", autocommit=True, prepare_threshold=5 if self.url.prepare else None, **options
            )
        except psycopg.ProgrammingError as error:
            raise StoreError(f"the URL of the store {self.url.shown} is wrong: {_said(error)}") from error
        except psycopg.Error as error:
            raise self._away(error) from error
        keep_from_copies(db.fileno())
        db.seconds = self._answer_seconds
        try:
            if self._check is not None:
                self._check(db)
        except TimeoutError as error:
            db.close()
            raise self._away(error) from error
        except psycopg.Error as error:
            lost = db.closed
            db.close()
            raise (self._away(error) if lost else self._refused(error)) from error
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(psycopg.Error):
                db.close()

    def _away(self, error: BaseException) -> StoreAway:
        slow = isinstance(error, (pg.ConnectionTimeout, TimeoutError)) or STARTS in str(error)
        kind = StoreSlow if slow else StoreAway
        return kind(f"the store {self.url.shown} cannot be reached: {_said(error)}")

    def _refused(self, error: BaseException) -> StoreError:
        return StoreError(f"the store {self.url.shown} refuses a statement: {_said(error)}")


def _ready(descriptor: int, wanted: int, deadline: float) -> int:
    """Return what a socket is ready for, of what is wanted, as bits of psycopg; raises TimeoutError."""
    poll = select.poll()
    poll.register(descriptor, (wanted & READS and select.POLLIN) | (wanted & WRITES and select.POLLOUT))
    events = poll.poll(max(0.0, deadline - time.monotonic()) * 1_000)
    if not events:
        raise TimeoutError("the server does not answer")
    found = events[0][1]
    if found & ~(select.POLLIN | select.POLLOUT):
        return wanted  # The connection is broken, as reading or writing will tell.
    return (READS if found & select.POLLIN else 0) | (WRITES if found & select.POLLOUT else 0)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
