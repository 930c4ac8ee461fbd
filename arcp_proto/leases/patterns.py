"""The grammar of lease patterns, and the form in which they are compared with targets (§9.2)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.limits import MAX_PATTERN_BYTES
from arcp_proto.namespaces import NET_FETCH

from .canonical import Unfit, Url, is_other_url, read_other_url, read_path, read_url

EVERYTHING: Final = "**"

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URL_PATH: Final = re.compile(r"[^:]*://[^/?#]*([^?#]*)")
_ANY_HOST: Final = re.compile(r"\*\*+\Z")
_ANY_PATH: Final = re.compile(r"(?:/\*\*+)+\Z")


class Part(NamedTuple):
    """A stretch of a pattern whose wildcards stop at the same characters."""

    text: str
    star: str = "/"
    """Characters at which a `*` stops."""
    run: str = ""
    """Characters at which a `**` stops."""


Parts = tuple[Part, ...]


def check_pattern(namespace: str, pattern: str) -> None:
    """Raise Refusal INVALID_REQUEST unless `pattern` can be a grant of `namespace` (§9.2).

    For fs.* an absolute path, for net.fetch a URL, `**` alone in both; otherwise any text without control
    characters. The scheme of a URL has no wildcard.
    """
    _check_text(pattern)
    if pattern == EVERYTHING:
        return
    try:
        if namespace.startswith("fs."):
            read_path(pattern)
            _check_dots(pattern)
        elif namespace == NET_FETCH and is_other_url(pattern):
            read_other_url(pattern)
        elif namespace == NET_FETCH:
            read_url(pattern, pattern=True)
            path = _URL_PATH.match(pattern)
            _check_dots(path[1] if path else "")
    except Unfit as unfit:
        raise _refusal(pattern, str(unfit)) from None


def parse_pattern(namespace: str, pattern: str) -> list[Parts]:
    """Return the parsed forms whose union is a valid pattern, for matching with targets (§9.2).

    `**` alone in net.fetch covers http and https; URLs of other schemes are covered by patterns that name
    their scheme.
    """
    if namespace.startswith("fs."):
        return [_rooted(read_path("/**" if pattern == EVERYTHING else pattern))]
    if namespace != NET_FETCH:
        return [(Part(pattern),)]
    if pattern == EVERYTHING:
        return [*parse_pattern(namespace, "http://**:*/**"), *parse_pattern(namespace, "https://**:*/**")]
    if is_other_url(pattern):
        scheme, rest = read_other_url(pattern)
        return [
            (Part(scheme), *_rooted(rest))
        ]  # Separate parts, since the slashes of the scheme are not a directory.
    url = read_url(pattern, pattern=True)
    if _ANY_HOST.match(url.host):
        return [_parse_url(url, url.host), _parse_url(url, f"[{EVERYTHING}")]
    return [_parse_url(url, url.host)]


def _parse_url(url: Url, host: str) -> Parts:
    """Return the parts in the form of `Url.matched`.

    Only the whole host `**` covers addresses in brackets.
    """
    query = url.matched_query
    return (
        Part(f"{url.scheme} "),
        Part(host, star=".[ ", run="[ "),
        Part(" "),
        Part(url.port, star=" ", run=" "),
        Part(" "),
        *_rooted(url.path, " "),
        Part(" "),
        Part(EVERYTHING if query is None else query, star="/ ", run=" "),
    )


def _rooted(path: str, run: str = "") -> Parts:
    """Return the parts of a path.

    It begins with a slash, so `/**` alone does not cover a directory itself.
    """
    star = "/" + run
    if _ANY_PATH.match(path):
        return (Part("/"), Part(EVERYTHING, star, run))
    return (Part(path, star, run),)


def _check_text(pattern: str) -> None:
    if not pattern:
        raise Refusal(ErrorCode.INVALID_REQUEST, "a pattern is empty")
    if len(pattern.encode("utf-8", "replace")) > MAX_PATTERN_BYTES:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"a pattern is longer than {MAX_PATTERN_BYTES} bytes",
            details={"limit": "lease_pattern_bytes", "max": MAX_PATTERN_BYTES},
        )
    if _UNPRINTABLE.search(pattern):
        raise _refusal(pattern, "holds a control character")


def _check_dots(path: str) -> None:
    """Raise Unfit for `..` after a wildcard, since it is unknown which segment it would remove."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == ".." and segments:
            if "*" in segments.pop():
                raise Unfit("has .. after a wildcard")
        elif segment not in ("", ".", ".."):
            segments.append(segment)


def _refusal(pattern: str, fault: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, f"the pattern {pattern!r} {fault}")
