"""Stand-ins for the secrets in a recording, and the places of secrets in messages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from .errors import Refusal, Unreadable
from .limits import MAX_CONTAINERS, MAX_DEPTH
from .secret import Secret
from .wire import codec, messages
from .wire.messages import MessageType

SALT_BYTES: Final = 16
"""Least number of bytes of the salt of the stand-ins."""
SECRET_FIELDS: Final = (
    *("token", "resume_token", "access_token", "refresh_token", "bearer", "authorization", "auth"),
    *("password", "passwd", "secret", "client_secret", "api_key", "apikey"),
)
"""Fields whose texts are secrets, in any message, and in data of agents and users."""
VALUE: Final = "value"
"""A field whose text is a secret only in messages with credentials."""
_SCHEME: Final = "scheme"
"""The one field in `auth` that is not replaced (§6.1)."""
_MOST_PROVED: Final = 100_000
"""Digests of proved secrets that are kept, to find them in other messages; the oldest are dropped."""
_WITH_SECRETS: Final = (
    MessageType.SESSION_HELLO,
    MessageType.SESSION_RESUME,
    MessageType.SESSION_WELCOME,
    MessageType.SESSION_JOBS,
    MessageType.JOB_ACCEPTED,
    MessageType.JOB_SUBSCRIBED,
)
_OWN: Final = tuple(
    name for name in codec.Envelope.__struct_fields__ if name not in ("extensions", "payload")
)
"""Fields of an envelope that belong to the protocol, and hold no secret."""
_KNOWN: Final = (*messages.TO_RUNTIME, *messages.TO_CLIENT)
_FILLERS: Final[Mapping[str, bytes]] = {
    codec.NOT_TEXT: b"\xff",
    codec.TOO_DEEP: b"[" * (MAX_DEPTH + 1),
    codec.TOO_MANY: b"[" * (MAX_CONTAINERS + 1),
    codec.NO_OBJECT: b"",
}
"""Reason why a message is unreadable -> the beginning of its replacement, which spaces follow."""


class StandIns:
    """Stand-ins for secrets: the same for the same secret, and of the same length.

    `trusting` says that the peer is a runtime, whose secrets are proved by being sent.
    """

    __slots__ = ("_pending", "_proved", "_salt", "trusting", "twins")

    def __init__(self, salt: bytes, *, trusting: bool = False) -> None:
        self._salt = hashlib.blake2b(salt, digest_size=64, person=b"arcp-stand-in").digest()
        self._proved: dict[bytes, None] = {}
        self._pending: dict[int, bytes] = {}
        self.trusting = trusting
        self.twins: Mapping[bytes, str] = {}
        """The stand-ins of the runtime's own tokens, by digest: the tokens of a replay."""

    def of(self, secret: str) -> str:
        """Return as many hexadecimal digits as the secret has bytes in UTF-8.

        Without the salt they reveal nothing else.
        """
        twin = self.twins.get(Secret(secret).digest())
        if twin is not None:
            return twin
        data = secret.encode()
        return hashlib.shake_256(self._salt + data).hexdigest(len(data))[: len(data)]

    def knows(self, text: str) -> bool:
        """Return whether a text is a proved secret, in any place."""
        digest = Secret(text).digest()
        return digest in self._proved or digest in self.twins

    def shown(self, connection: int, token: str) -> None:
        """Note the token that a client has sent: it is a secret once the host has accepted it."""
        self._pending[connection] = Secret(token).digest()

    def answered(self, connection: int, principal: object) -> None:
        """Note the host's answer to a token; None refuses it."""
        digest = self._pending.pop(connection, None)
        if digest is not None and principal is not None:
            self._keep(digest)

    def prove(self, secret: str) -> None:
        """Note a text that is a secret in any case."""
        self._keep(Secret(secret).digest())

    def _keep(self, digest: bytes) -> None:
        self._proved[digest] = None
        if len(self._proved) > _MOST_PROVED:
            del self._proved[next(iter(self._proved))]


def redact(message: bytes, stand_ins: StandIns) -> bytes:
    """Return a message with stand-ins in place of its secrets, of the same length.

    Secrets are the texts in fields with such names, and proved secrets. A message that does not hold a JSON
    object is replaced by one with the same fault, since a secret may be anywhere in it.
    """
    try:
        if len(message) > MAX_CONTAINERS and codec.holds_too_many(message):
            raise Unreadable(codec.TOO_MANY)
        fields = codec.decode_fields(message)
        walk = Walk(stand_ins, everything=not _is_harmless(message))
        redacted = {
            name: value if name in _OWN else walk.redacted(value, walk.is_secret(name))
            for name, value in fields.items()
        }
    except Refusal as refusal:
        return _FILLERS[refusal.message].ljust(len(message))
    if not walk.everything and all(redacted[name] is value for name, value in fields.items()):
        return message
    return codec.encode_checked(redacted).ljust(len(message))


class Walk:
    """Replaces the secrets in JSON by stand-ins.

    `everything` says that the message has a type with secrets, or an unknown one. Then unreadable parts are
    errors, and all of it is written anew, so that no repeated field hides a secret; otherwise parts without a
    secret stay as written.
    """

    def __init__(self, stand_ins: StandIns, *, everything: bool) -> None:
        self._stand_ins = stand_ins
        self.everything = everything

    def is_secret(self, name: str) -> bool:
        """Return whether the texts in a field are secrets."""
        return name.lower().replace("-", "_") in SECRET_FIELDS or (self.everything and name == VALUE)

    def redacted(self, value: msgspec.Raw, secret: bool) -> object:
        """Return a JSON value with stand-ins in place of its secret texts."""
        try:
            return self._redacted(value, secret)
        except Refusal:
            if self.everything:
                raise
            return value

    def _redacted(self, value: msgspec.Raw, secret: bool) -> object:
        match bytes(value)[:1]:
            case b"{":
                fields = codec.decode_fields(value)
                found = {
                    name: item
                    if secret and name == _SCHEME
                    else self.redacted(item, secret or self.is_secret(name))
                    for name, item in fields.items()
                }
                same = not self.everything and all(found[name] is item for name, item in fields.items())
                return value if same else found
            case b"[":
                items = codec.decode_items(value)
                listed = [self.redacted(item, secret) for item in items]
                same = not self.everything and all(new is old for new, old in zip(listed, items, strict=True))
                return value if same else listed
            case b'"':
                return self._text(value, secret)
            case _:
                return value

    def _text(self, value: msgspec.Raw, secret: bool) -> object:
        try:
            text = codec.decode_value(value)
        except Refusal:
            if secret:
                raise
            return value
        if secret and self.everything and self._stand_ins.trusting:
            self._stand_ins.prove(text)
        return self._stand_ins.of(text) if secret or self._stand_ins.knows(text) else value

    def covered(self, value: object, secret: bool = False) -> object:
        """Return a value of our own side with stand-ins in place of its secret texts."""
        match value:
            case str():
                return self._stand_ins.of(value) if secret or self._stand_ins.knows(value) else value
            case Mapping():
                return {
                    name: self.covered(item, secret or (isinstance(name, str) and self.is_secret(name)))
                    for name, item in value.items()
                }
            case list() | tuple():
                return [self.covered(item, secret) for item in value]
            case _:
                return value


def token_of(message: bytes) -> str | None:
    """Return the bearer token of a hello or a resume; None if there is none."""
    try:
        envelope = codec.decode_envelope(message)
        if envelope.type not in (MessageType.SESSION_HELLO, MessageType.SESSION_RESUME):
            return None
        auth = codec.decode_fields(codec.decode_fields(envelope.payload)["auth"])
        token = codec.decode_value(auth["token"])
    except (Refusal, KeyError):
        return None
    return token if isinstance(token, str) else None


def _is_harmless(message: bytes) -> bool:
    """Return whether a message has a type without secrets."""
    try:
        message_type = codec.decode_envelope(message).type
    except Refusal:
        return False
    harmless = message_type in _KNOWN and message_type not in _WITH_SECRETS
    return harmless and b"credential_rotated" not in message
