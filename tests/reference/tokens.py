"""Which resume tokens of a session are valid, and how a resume ends (draft §6.3; protocol §2)."""

from __future__ import annotations

from typing import Final, TypeVar

MOST: Final = 4
"""As many tokens of a session are valid at the same time."""

T = TypeVar("T")


def issue(tokens: list[T], token: T) -> T:
    """Add the token of another welcome: valid are the last proven one and those issued last."""
    tokens.append(token)
    if len(tokens) > MOST:
        del tokens[1]
    return token


def prove(tokens: list[T], token: T) -> None:
    """End all tokens that are older than one which the client has shown to have."""
    if token in tokens:
        del tokens[: tokens.index(token)]


def is_over(expires: int | None, wall: int, *, alone: bool) -> bool:
    """Return whether a session is resumed only with a fresh bearer: its authentication has expired."""
    return alone and expires is not None and expires <= wall


def verdict(cursor: int, *, first: int, last: int) -> str:
    """Return the code with which a resume by a valid token is refused; empty if it is served.

    `first` is the oldest number that the log keeps, `last` + 1 when it keeps none.
    """
    if cursor > last:
        return "INVALID_REQUEST"
    return "RESUME_WINDOW_EXPIRED" if cursor < first - 1 else ""
