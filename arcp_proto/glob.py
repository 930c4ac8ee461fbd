"""The grammar of lease patterns: what a path, a URL and a name may look like (§9.2)."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final

from .errors import ErrorCode, Refusal
from .limits import MAX_PATTERN_BYTES

_EVERYTHING: Final = "**"
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URL: Final = re.compile(r"https?://([^/?#]*)([^?#]*)", re.IGNORECASE | re.ASCII)
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}|\*))?\Z")
_NO_URL: Final = re.compile(r"[\\ ]|%(?![0-9A-Fa-f]{2})|%(?:2f|5c|00)", re.IGNORECASE | re.ASCII)
_NO_HOST: Final = re.compile(r"[\x00-\x20\"#%/:<>?@\[\\\]^`{|}\x7f]")
_TWO_FORMS: Final = re.compile(r"[\u00df\u03c2\u200c\u200d]")
"""Characters of which IDNA 2003 and IDNA 2008 make different hosts."""


def check_pattern(namespace: str, pattern: str) -> None:
    """Raise Refusal INVALID_REQUEST unless `pattern` can be a grant of `namespace` (§9.2).

    For fs.* an absolute path, for net.fetch an http or https URL, `**` alone in both; otherwise any
    text without control characters.
    """
    _check_text(pattern)
    if pattern == _EVERYTHING:
        return
    if namespace.startswith("fs."):
        _check_path(pattern)
    elif namespace == "net.fetch":
        _check_url(pattern)


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


def _check_path(pattern: str) -> None:
    if not pattern.startswith("/"):
        raise _refusal(pattern, "is no absolute path")
    if "\\" in pattern:
        raise _refusal(pattern, "holds a backslash")
    _check_dots(pattern, pattern)


def _check_url(pattern: str) -> None:
    url = _URL.match(pattern)
    if url is None:
        raise _refusal(pattern, "is no http or https URL")
    if _NO_URL.search(pattern):
        raise _refusal(pattern, "holds a space, a backslash, a bare % or an escaped %2F, %5C, %00")
    authority, path = url.groups()
    if "@" in authority:
        raise _refusal(pattern, "names a user")
    _check_authority(pattern, authority)
    _check_dots(pattern, re.sub("%2e", ".", path, flags=re.IGNORECASE))


def _check_authority(pattern: str, authority: str) -> None:
    match = _AUTHORITY.match(authority)
    if match is None:
        raise _refusal(pattern, "has no host, or no port after its colon")
    address, host, port = match.groups()
    if port not in (None, "*") and int(port) > 65_535:
        raise _refusal(pattern, "has a port above 65535")
    if host is not None:
        _check_host(pattern, host)
    elif not _is_address(address):
        raise _refusal(pattern, "has no IPv6 address in its brackets")


def _check_host(pattern: str, host: str) -> None:
    """A host is compared by its ASCII form, so it has one, and no `*` inside a label that is encoded."""
    try:
        ascii_host = host.encode("idna").decode().lower()
    except UnicodeError:
        raise _refusal(
            pattern, "has a host with an empty or too long label, or without an ASCII form"
        ) from None
    if _NO_HOST.search(ascii_host) or ascii_host.count("*") != host.count("*"):
        raise _refusal(pattern, "has a character in its host that no host has")
    if _TWO_FORMS.search(host):
        raise _refusal(pattern, "has a host with two ASCII forms; write the one that is meant, xn--...")
    if any(label.startswith("xn--") and "*" in label for label in ascii_host.split(".")):
        raise _refusal(pattern, "has a * in an internationalized label")


def _check_dots(pattern: str, path: str) -> None:
    """`..` takes the segment before it away; after a wildcard nobody can say which one that is."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == ".." and segments:
            if "*" in segments.pop():
                raise _refusal(pattern, "has .. after a wildcard")
        elif segment not in ("", ".", ".."):
            segments.append(segment)


def _is_address(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _refusal(pattern: str, fault: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, f"the pattern {pattern!r} {fault}")
