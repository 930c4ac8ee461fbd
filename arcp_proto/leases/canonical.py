"""The canonical form of a path, a URL or a name, in which it is matched and shown (§9.2, §9.3)."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple
from unicodedata import category, normalize

from arcp_proto.limits import MAX_TARGET_BYTES
from arcp_proto.namespaces import COST_BUDGET, NET_FETCH

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_URL: Final = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE | re.ASCII)
_NO_URL: Final = re.compile(r"[\\ ]|%(?![0-9A-Fa-f]{2})|%(?:5c|00)", re.IGNORECASE | re.ASCII)
_ESCAPED_SLASH: Final = re.compile("%2f", re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}|\*))?\Z")
_LABELS: Final = re.compile(r"(?:[^.]{1,63}\.)*[^.]{1,63}\.?\Z")
_NO_HOST: Final = re.compile(r"[\x00-\x20\"#%/:<>?@\[\\\]^`{|}\x7f]")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\.?\Z")
_ZEROS: Final = re.compile(r"(?:\b0:)+0\b")
_ESCAPED_DOT: Final = re.compile("%2e", re.IGNORECASE)
_ESCAPED_DOTS: Final = re.compile(r"/(?:%2e|\.%2e|%2e\.|%2e%2e)(?:/|\Z)", re.IGNORECASE)
_ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})")
_ESCAPED: Final = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]+")
"""Characters that a URL holds only escaped in its path or query (RFC 3986, 3.3 and 3.4)."""
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_IGNORED: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks that are ignored by default (Unicode, DerivedCoreProperties)."""
_MOST_HOST: Final = 512
"""Characters of a host; DNS allows 253, and a pattern has no more bytes."""
_PORTS: Final = {"http": "80", "https": "443"}
_OTHER: Final = re.compile(r"(?!https?:)([a-z][a-z0-9+.-]*)://([^/?#]*)([^?#]*)", re.IGNORECASE | re.ASCII)
_FULL_STOP: Final = "\u3002"


class Unfit(Exception):
    """A text is not a path or not a URL; the message is the fault, as in "holds a backslash"."""


class Url(NamedTuple):
    """A URL, or a pattern of URLs, in normal form without its fragment.

    Scheme and host are in lower case, the port is always present, path and query are in the normal form of
    RFC 3986, 6.2.2, so that every client sends them unchanged. `query` is None where a pattern has no `?`; a
    target without a query has an empty one.
    """

    scheme: str
    host: str
    port: str
    path: str
    query: str | None

    @property
    def text(self) -> str:
        """The URL as it is shown and fetched: without the default port of its scheme."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.host}{port}{self.path}{query}"

    @property
    def matched(self) -> str:
        """The URL as it is matched: its parts separated by spaces, which no URL holds."""
        return f"{self.scheme} {self.host} {self.port} {self.path} {self.matched_query or ''}"

    @property
    def matched_query(self) -> str | None:
        """The query as it is matched: servers read `%2F` in it as a slash, so no `*` crosses it."""
        return None if self.query is None else self.query.replace("%2F", "/")


def canonical(capability: str, target: str) -> str | None:
    """Return the form of a target to show and to use; None if it is not a target of the capability (§9.3).

    A target of fs.* is an absolute path, of net.fetch a URL, of others any text; cost.budget has none. For
    net.fetch the form is the URL to fetch: of http and https in ASCII, and the same for every HTTP client.
    """
    if capability != NET_FETCH or is_other_url(target):
        return matchable(capability, target)
    if is_too_long(target):
        return None
    try:
        text = read_url(target).text
    except Unfit:
        return None
    return None if is_too_long(text) else text


def matchable(capability: str, target: str) -> str | None:
    """Return the form in which a target is matched; None if it is not a target of the capability (§9.3)."""
    if not target or capability == COST_BUDGET or is_too_long(target):
        return None
    try:
        if capability == NET_FETCH:
            if is_other_url(target):
                return "".join(read_other_url(target))
            url = read_url(target)
            return None if is_too_long(url.text) else url.matched
        if not target.isascii() and _SURROGATE.search(target):
            return None
        if not capability.startswith("fs."):
            return target
        return None if "\x00" in target else read_path(target)
    except Unfit:
        return None


def is_too_long(target: str) -> bool:
    """Return whether a target has more bytes than are compared (`limits.MAX_TARGET_BYTES`)."""
    if len(target) > MAX_TARGET_BYTES:
        return True
    return not target.isascii() and len(target.encode("utf-8", "surrogatepass")) > MAX_TARGET_BYTES


def read_path(text: str) -> str:
    """Return an absolute path without `.`, `..`, `//` and a trailing slash; raises Unfit.

    Nothing is decoded, and the host resolves links.
    """
    if not text.startswith("/"):
        raise Unfit("is not an absolute path")
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
    """Return the parts of a URL; a pattern may have `*` in its host and as its port. Raises Unfit."""
    if _UNPRINTABLE.search(text):
        raise Unfit("holds a control character")
    url = _URL.match(text)
    if url is None:
        raise Unfit("is not a URL of the form scheme://...")
    if _NO_URL.search(text):
        raise Unfit("holds a space, a backslash, a bare % or an escaped %5C, %00")
    if text.count("#") > 1:
        raise Unfit("holds a second #, at which some clients cut it")
    scheme, authority, path, query = url.groups()
    if _ESCAPED_SLASH.search(path):
        raise Unfit("holds an escaped %2F in its path, where servers disagree; it may stand in a query")
    if "@" in authority:
        raise Unfit("names a user")
    scheme = scheme.lower()
    host, port = _read_authority(authority, pattern)
    if query is None and not pattern:
        query = ""
    return Url(scheme, host, port or _PORTS[scheme], _read_url_path(path), query and _normal(query))


def is_other_url(text: str) -> bool:
    """Return whether a target or pattern of net.fetch begins with a `scheme://` other than http and https."""
    return _OTHER.match(text) is not None


def read_other_url(text: str) -> tuple[str, str]:
    """Return `scheme://` in lower case and the rest, unchanged, of a URL that is not http or https.

    Such a URL is compared as text, because it is unknown which of its forms are equivalent. So it must have
    one form only. Raises Unfit for control characters, a space, a backslash, a bare `%`, an escaped `/`, `\\`
    or NUL, a user, and for a segment `.` or `..`, escaped or not.
    """
    if _UNPRINTABLE.search(text):
        raise Unfit("holds a control character")
    if _NO_URL.search(text) or _ESCAPED_SLASH.search(text):
        raise Unfit("holds a space, a backslash, a bare % or an escaped %2F, %5C, %00")
    url = _OTHER.match(text)
    rest = "" if url is None else text[url.end(1) + 3 :]
    if url is None or not rest:
        raise Unfit("is not a URL of the form scheme://...")
    scheme, authority, path = url.groups()
    if "@" in authority:
        raise Unfit("names a user")
    if any(segment in (".", "..") for segment in _ESCAPED_DOT.sub(".", authority + path).split("/")):
        raise Unfit("has a segment . or .., which only http and https resolve")
    return f"{scheme.lower()}://", rest


def _read_authority(authority: str, pattern: bool) -> tuple[str, str | None]:
    match = _AUTHORITY.match(authority)
    if match is None or (match[3] == "*" and not pattern):
        raise Unfit("has no host, or no port after its colon")
    address, host, port = match.groups()
    if port not in (None, "*"):
        port = str(int(port))
        if not 1 <= int(port) <= 65_535:
            raise Unfit("has a port that is not between 1 and 65535")
    if host is not None:
        return _read_host(host, pattern), port
    try:
        return f"[{_compressed(IPv6Address(address))}]", port
    except AddressValueError:
        raise Unfit("has no IPv6 address in its brackets") from None


def _read_host(host: str, pattern: bool) -> str:
    """Return the ASCII form of a host, by which it is compared; an encoded label must not hold `*`."""
    if len(host) > _MOST_HOST:
        raise Unfit("has a host that is too long")
    ascii_host = _to_ascii(host).lower()
    if _NO_HOST.search(ascii_host) or ascii_host.count("*") != host.count("*"):
        raise Unfit("has a character in its host that no host has")
    if ascii_host.endswith("."):
        raise Unfit("has a host that ends in a dot, which some clients leave out")
    if not host.isascii() and ascii_host not in _encoded(host):
        raise Unfit("has a host with two ASCII forms; write the one that is meant, xn--...")
    if "*" in ascii_host:
        if not pattern:
            raise Unfit("has a * in its host")
        if any(label.startswith("xn--") and "*" in label for label in ascii_host.split(".")):
            raise Unfit("has a * in an internationalized label")
    elif _NUMBER.match(ascii_host[ascii_host.rstrip(".").rfind(".") + 1 :]) and not _is_ipv4(ascii_host):
        raise Unfit("has a host that ends in a number and is not an IPv4 address")
    return ascii_host


def _to_ascii(host: str) -> str:
    if host.isascii() and _LABELS.match(host):
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        raise Unfit("has a host with an empty or too long label, or without an ASCII form") from None


def _encoded(host: str) -> tuple[str, ...]:
    """Return the ASCII form that current Unicode and UTS 46 agree on; empty if they do not.

    IDNA 2003, which the codec implements, deletes and folds some characters. UTS 46 deletes ignored
    characters, folds some that `lower` does not, and knows letters that are not assigned here.
    """
    shown = normalize("NFKC", host)
    folded = normalize("NFKC", shown.lower())
    if folded != normalize("NFKC", shown.casefold()) or any(map(_is_ignored, host + folded)):
        return ()
    labels = folded.replace(_FULL_STOP, ".").split(".")
    return (
        ".".join(
            label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in labels
        ),
    )


def _is_ignored(character: str) -> bool:
    """Return whether a character is ignored, private or not assigned, by its category or by UTS 46."""
    return category(character) in ("Cf", "Cn", "Co") or _IGNORED.match(character) is not None


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True


def _compressed(address: IPv6Address) -> str:
    """Return an address in the form of RFC 5952, the same in every Python: no dots, the first longest run
    of zeros as `::`.
    """
    digits = f"{int(address):032x}"
    text = ":".join(f"{int(digits[at : at + 4], 16):x}" for at in range(0, 32, 4))
    runs = sorted(_ZEROS.finditer(text), key=lambda run: (-len(run[0]), run.start()))
    if not runs:
        return text
    return f"{text[: runs[0].start()].rstrip(':')}::{text[runs[0].end() :].lstrip(':')}"


def _read_url_path(path: str) -> str:
    """Resolve `.` and `..` as RFC 3986, 5.2.4 does; raises Unfit for escaped ones, and for a leading `//`.

    Clients disagree on `%2e%2e`: some resolve it before the other dots, some after them, some not at all. Of
    a path that begins with `//` some send one slash, because the text could be read as a host.
    """
    if _ESCAPED_DOTS.search(path):
        raise Unfit("holds an escaped dot segment, such as %2e%2e")
    path = _without_dots(_normal(path))
    if path.startswith("//"):
        raise Unfit("has a path that begins with //, of which some clients send one /")
    return path


def _without_dots(path: str) -> str:
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


def _normal(text: str) -> str:
    """Return a path or a query in normal form: only necessary escapes, in capitals."""
    if "%" in text:
        text = _ESCAPE.sub(_unescaped, text)
    return _ESCAPED.sub(_escaped, text)


def _unescaped(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())
