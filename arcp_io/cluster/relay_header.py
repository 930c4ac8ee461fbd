"""The header of a relayed connection: which shard the client belongs to, and what its gateway knows of it."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

import msgspec

from arcp_proto import LocalProtocolError, TokenScope
from arcp_proto.leases import check_scope

from .guests import MAX_TENANT

VERSION: Final = 1
"""The version of the header, its field `v`."""
KEY_BYTES: Final = 32
"""Bytes of the key of an owner, which it writes into its row of the store."""
NONCE_BYTES: Final = 32
"""Bytes of the random values that each side chooses for one connection."""
MAC_BYTES: Final = hashlib.sha256().digest_size
TAIL_BYTES: Final = NONCE_BYTES + MAC_BYTES
"""Bytes behind the line: the nonce of the gateway, and the MAC."""
MAX_LINE_BYTES: Final = 32 * 1024
"""Bytes of the line with its newline; its texts take less, even if JSON escapes all of them."""
MAX_PRINCIPAL: Final = 2048
"""Characters of a principal."""
MAX_PEER: Final = 256
"""Characters of the address of a client."""
MAX_GUEST: Final = MAX_TENANT
"""Characters of the tenant of a guest."""
MAX_TOKEN_ID: Final = 256
"""Characters of the id of a bearer token, as a verifier may give it."""
MAX_SHARD: Final = 2**31 - 1
MAX_EPOCH: Final = 2**63 - 1
MAX_EXPIRES: Final = 2**63 - 1
"""The last point in time that a header names, in the year 2262; a later one is written as this one."""

_HEADER_LABEL: Final = b"arcp relay header\n"
"""Begins what the MAC of a header covers, so that the MAC of an answer never passes for one."""


class RelayRefused(Exception):
    """A relayed connection was refused. The message holds neither keys nor nonces nor received bytes."""


class RelayForged(RelayRefused):
    """A message of the handshake does not prove that its sender has the key of the owner."""


class RelayHeader(msgspec.Struct, frozen=True):
    """The client of a relayed connection, as its gateway knows it."""

    shard: int
    epoch: int
    """The epoch of the owner that the gateway read in the store."""
    principal: str | None
    """The principal that the gateway has verified; None if it has verified none."""
    expires: int | None
    """The time at which the bearer token of the principal expires, in nanoseconds of Unix time."""
    secure: bool
    """Whether the connection of the client and the connection to the owner cannot be overheard."""
    peer: str
    """The address of the client as a label: host:port."""
    throttled: bool = False
    """Whether too many authentications have failed at that address, so that the gateway verifies no token."""
    guest: str | None = None
    """The tenant that the principal visits as a guest; None if the session is in its own tenant.

    A node of a release without guests refuses a header with this field.
    """
    scope: TokenScope | None = None
    """The agents and leases that the bearer token allows; None without bounds.

    A node of a release without scopes refuses a header with this field.
    """
    token_id: str = ""
    """The id that the verifier gave to the bearer token; empty without one.

    A node of a release without these ids refuses a header with this field.
    """


class _Line(RelayHeader, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A header as the line of JSON has it."""

    v: int


class _Version(msgspec.Struct):
    """The field that headers of all versions have."""

    v: int


_LINE: Final = msgspec.json.Decoder(_Line, strict=True)
_VERSION: Final = msgspec.json.Decoder(_Version, strict=True)


def encode(header: RelayHeader, *, key: bytes, owner_nonce: bytes, gateway_nonce: bytes) -> bytes:
    """Return a header as a line of JSON, the nonce of the gateway, and the MAC over nonces and line.

    Raises ValueError for a field out of bounds.
    """
    fault = _fault(header)
    if fault is not None:
        raise ValueError(f"the header of a relayed connection cannot be sent: {fault}")
    expires = None if header.expires is None else min(max(header.expires, 0), MAX_EXPIRES)
    fields: dict[str, Any] = {"v": VERSION, **msgspec.structs.asdict(header), "expires": expires}
    if not header.throttled:
        del fields["throttled"]  # As it was before there was this field.
    if header.guest is None:
        del fields["guest"]
    if header.scope is None:
        del fields["scope"]
    if not header.token_id:
        del fields["token_id"]
    line = msgspec.json.encode(fields) + b"\n"
    return line + gateway_nonce + header_mac(line, key, owner_nonce, gateway_nonce)


def decode(line: bytes, tail: bytes, *, key: bytes, owner_nonce: bytes) -> RelayHeader:
    """Return the header of a line, newline included, and the bytes behind it.

    The MAC is checked first. Raises RelayForged for a header that is forged or of another connection, and
    RelayRefused for one that is of another version or out of bounds.
    """
    gateway_nonce, mac = tail[:NONCE_BYTES], tail[NONCE_BYTES:]
    if not hmac.compare_digest(header_mac(line, key, owner_nonce, gateway_nonce), mac):
        raise RelayForged("the header is not signed with the key of this node for this connection")
    return _decoded(line)


def header_mac(line: bytes, key: bytes, owner_nonce: bytes, gateway_nonce: bytes) -> bytes:
    """Return the MAC of a header, valid for one connection."""
    return hmac.digest(key, _HEADER_LABEL + owner_nonce + gateway_nonce + line, "sha256")


def _decoded(line: bytes) -> RelayHeader:
    if len(line) > MAX_LINE_BYTES:
        raise RelayRefused(f"the header has more than {MAX_LINE_BYTES} bytes")
    try:
        if _VERSION.decode(line).v != VERSION:
            raise RelayRefused(f"the header is not of version {VERSION}, which this node reads")
        found = _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The text of the error would show what was received.
        raise RelayRefused("the header is not a JSON object with the fields of its version") from None
    fields = {name: getattr(found, name) for name in RelayHeader.__struct_fields__}
    header = RelayHeader(**fields)
    fault = _fault(header)
    if fault is not None:
        raise RelayRefused(f"the header is out of bounds: {fault}")
    if header.expires is not None and not 0 <= header.expires <= MAX_EXPIRES:
        raise RelayRefused("the header is out of bounds: `expires` is not a time after 1970 and before 2262")
    return header


def _fault(header: RelayHeader) -> str | None:
    """Return why a header is out of bounds, or None; `expires` may have any value."""
    if not 0 <= header.shard <= MAX_SHARD:
        return f"`shard` is not between 0 and {MAX_SHARD}"
    if not 1 <= header.epoch <= MAX_EPOCH:
        return f"`epoch` is not between 1 and {MAX_EPOCH}"
    if header.principal is not None and not 1 <= len(header.principal) <= MAX_PRINCIPAL:
        return f"`principal` is empty or has more than {MAX_PRINCIPAL} characters"
    if len(header.peer) > MAX_PEER:
        return f"`peer` has more than {MAX_PEER} characters"
    if header.guest is not None and not 1 <= len(header.guest) <= MAX_GUEST:
        return f"`guest` is empty or has more than {MAX_GUEST} characters"
    if len(header.token_id) > MAX_TOKEN_ID or not header.token_id.isascii():
        return f"`token_id` has more than {MAX_TOKEN_ID} characters, or others than those of ASCII"
    try:
        check_scope(header.scope or TokenScope())
    except LocalProtocolError as error:
        return f"`scope`: {error}"
    if not all(map(_is_text, (header.principal or "", header.peer, header.guest or ""))):
        return "a text holds a lone surrogate"
    return None


def _is_text(text: str) -> bool:
    """Return whether UTF-8 can encode a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
