"""The one form of a path, a URL or a name in which it is matched and shown (§9.2, §9.3)."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple
from unicodedata import normalize

from .budget import COST_BUDGET

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_URL: Final = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE | re.ASCII)
_NO_URL: Final = re.compile(r"[\\ ]|%(?![0-9A-Fa-f]{2})|%(?:2f|5c|00)", re.IGNORECASE | re.ASCII)
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}|\*))?\Z")
_LABELS: Final = re.compile(r"(?:[^.]{1,63}\.)*[^.]{1,63}\.?\Z")
_NO_HOST: Final = re.compile(r"[\x00-\x20\"#%/:<>?@\[\\\]^`{|}\x7f]")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\.?\Z")
_ZEROS: Final = re.compile(r"(?:\b0:)+0\b")
_ESCAPED_DOT: Final = re.compile("%2e", re.IGNORECASE)
_MOST_HOST: Final = 512
"""Characters of a host; DNS knows 253, and a pattern has no more bytes."""
_PORTS: Final = {"http": "80", "https": "443"}
_FULL_STOP: Final = "\u3002"


class Unfit(Exception):
    """A text is no path or no URL: what is wrong with it, as in "holds a backslash"."""


class Url(NamedTuple):
    """A URL, or a pattern of URLs, without its fragment: scheme and host in small letters, port always there.

    `query` is None where a pattern has no `?`; a target without a query has an empty one.
    """

    scheme: str
    host: str
    port: str
    path: str
    query: str | None

    @property
    def text(self) -> str:
        """As it is shown: without the port that the scheme has anyway."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.host}{port}{self.path}{query}"

    @property
    def matched(self) -> str:
        """As it is matched: a space, which no URL holds, stands between the parts."""
        return f"{self.scheme} {self.host} {self.port} {self.path} {self.query or ''}"


def canonical(capability: str, target: str) -> str | None:
    """The form in which a target is shown; None for what can be no target of the capability (§9.3).

    Of fs.* an absolute path, of net.fetch an http or https URL, of others any text; of cost.budget nothing.
    """
    if capability != "net.fetch":
        return matchable(capability, target)
    try:
        return read_url(target).text
    except Unfit:
        return None


def matchable(capability: str, target: str) -> str | None:
    """The form in which a target is matched; None for what can be no target of the capability (§9.3)."""
    if not target or capability == COST_BUDGET:
        return None
    try:
        if capability == "net.fetch":
            return read_url(target).matched
        if not target.isascii() and _SURROGATE.search(target):
            return None
        if not capability.startswith("fs."):
            return target
        return None if "\x00" in target else read_path(target)
    except Unfit:
        return None


def read_path(text: str) -> str:
    """An absolute path without `.`, `..`, `//` and a slash at its end; raises Unfit.

    Nothing is decoded, and links are what the host makes of them.
    """
    if not text.startswith("/"):
        raise Unfit("is no absolute path")
    if "\\" in text:
        raise Unfit("holds a backslash")
    if "/." not in text and "//" not in text and text[-1] != "/":
        return text
    segments: list[str] = []
    for segment in text.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


def read_url(text: str, *, pattern: bool = False) -> Url:
    """The parts of a URL; of a pattern also with `*` in its host and as its port. Raises Unfit."""
    if _UNPRINTABLE.search(text):
        raise Unfit("holds a control character")
    url = _URL.match(text)
    if url is None:
        raise Unfit("is no http or https URL")
    if _NO_URL.search(text):
        raise Unfit("holds a space, a backslash, a bare % or an escaped %2F, %5C, %00")
    scheme, authority, path, query = url.groups()
    if "@" in authority:
        raise Unfit("names a user")
    scheme = scheme.lower()
    host, port = _read_authority(authority, pattern)
    if query is None and not pattern:
        query = ""
    return Url(scheme, host, port or _PORTS[scheme], _read_url_path(path), query)


def _read_authority(authority: str, pattern: bool) -> tuple[str, str | None]:
    match = _AUTHORITY.match(authority)
    if match is None or (match[3] == "*" and not pattern):
        raise Unfit("has no host, or no port after its colon")
    address, host, port = match.groups()
    if port not in (None, "*"):
        port = str(int(port))
        if int(port) > 65_535:
            raise Unfit("has a port above 65535")
    if host is not None:
        return _read_host(host, pattern), port
    try:
        return f"[{_compressed(IPv6Address(address))}]", port
    except AddressValueError:
        raise Unfit("has no IPv6 address in its brackets") from None


def _read_host(host: str, pattern: bool) -> str:
    """A host is compared by its ASCII form, so it has one, and no `*` inside a label that is encoded."""
    if len(host) > _MOST_HOST:
        raise Unfit("has a host that is too long")
    ascii_host = _to_ascii(host).lower()
    if _NO_HOST.search(ascii_host) or ascii_host.count("*") != host.count("*"):
        raise Unfit("has a character in its host that no host has")
    if not host.isascii() and ascii_host != _encoded(host):
        raise Unfit("has a host with two ASCII forms; write the one that is meant, xn--...")
    if "*" in ascii_host:
        if not pattern:
            raise Unfit("has a * in its host")
        if any(label.startswith("xn--") and "*" in label for label in ascii_host.split(".")):
            raise Unfit("has a * in an internationalized label")
    elif _NUMBER.match(ascii_host[ascii_host.rstrip(".").rfind(".") + 1 :]) and not _is_ipv4(ascii_host):
        raise Unfit("has a host that ends in a number and is no IPv4 address")
    return ascii_host


def _to_ascii(host: str) -> str:
    if host.isascii() and _LABELS.match(host):
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        raise Unfit("has a host with an empty or too long label, or without an ASCII form") from None


def _encoded(host: str) -> str:
    """The ASCII form by today's Unicode; IDNA 2003, which the codec is, deletes and folds some characters."""
    folded = normalize("NFKC", normalize("NFKC", host).lower())
    labels = folded.replace(_FULL_STOP, ".").split(".")
    return ".".join(
        label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in labels
    )


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True


def _compressed(address: IPv6Address) -> str:
    """RFC 5952, and the same in every Python: no dots, the first longest run of zeros as `::`."""
    digits = f"{int(address):032x}"
    text = ":".join(f"{int(digits[at : at + 4], 16):x}" for at in range(0, 32, 4))
    runs = sorted(_ZEROS.finditer(text), key=lambda run: (-len(run[0]), run.start()))
    if not runs:
        return text
    return f"{text[: runs[0].start()].rstrip(':')}::{text[runs[0].end() :].lstrip(':')}"


def _read_url_path(path: str) -> str:
    """RFC 3986, 5.2.4: `%2e` is a dot, `.` and `..` are resolved, and empty segments are segments."""
    path = _ESCAPED_DOT.sub(".", path)
    if "/." not in path:
        return path or "/"
    segments: list[str] = []
    parts = path.split("/")[1:]
    for part in parts:
        if part == "..":
            del segments[-1:]
        elif part != ".":
            segments.append(part)
    if parts[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)
