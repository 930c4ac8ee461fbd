"""The first message of a connection (§6.1 to §6.3), and the label of a resume token.

A host that has several runtimes looks at the first message before it chooses one of them. The resume token
tells which runtime issued it, if that has a label:

    rt_<43 characters>            without a label
    rt_<label>.<43 characters>    with the label of `RuntimeConfig.label`
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from arcp_proto.errors import Refusal
from arcp_proto.limits import Limits

from . import codec, messages
from .lenient import read_request

MAX_LABEL_LENGTH: Final = 32
"""Characters of a label."""
EARLY_BYTES: Final = Limits().max_early_message_bytes
"""Bytes of a first message that a runtime reads by default."""

_BEGINNING: Final = "rt_"
_END_OF_LABEL: Final = "."
_LABEL: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_LABEL_LENGTH}}}\Z")
_LABELLED: Final = re.compile(rf"rt_([A-Za-z0-9_-]{{1,{MAX_LABEL_LENGTH}}})\.[A-Za-z0-9_-]{{43}}\Z")
"""A token with a label. Tokens of other makes do not match, so that no part of them is taken for a label."""


class FirstKind(StrEnum):
    """The kind of the first message of a connection."""

    HELLO = "session.hello"
    RESUME = "session.resume"
    OTHER = "other"
    """A message of another type, which a runtime refuses before the welcome."""
    MALFORMED = "malformed"
    """A message that a runtime cannot read: too large, no envelope, another version, a wrong payload."""


class Scheme(StrEnum):
    """The authentication of a first message (§6.1)."""

    BEARER = "bearer"
    """A bearer token that is not empty."""
    ANONYMOUS = "anonymous"
    NONE = "none"
    """No authentication, or the scheme `bearer` without a token."""
    OTHER = "other"
    """A scheme that no runtime of this package supports."""


class FirstMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The properties of a first message that tell where it belongs; it holds no secret."""

    kind: FirstKind
    scheme: Scheme = Scheme.NONE
    resumes: bool = False
    """Whether the message asks to resume a session (§6.3)."""
    label: str = ""
    """The label in the resume token; empty if there is none."""


def look(message: bytes, *, limit: int = EARLY_BYTES) -> FirstMessage:
    """Return the properties of the first message of a connection, read as tolerantly as a runtime reads it.

    A message of more than `limit` bytes is MALFORMED. Raises nothing for any bytes.
    """
    if len(message) > limit:
        return _MALFORMED
    try:
        envelope = codec.decode_envelope(message)
        if not envelope.supported:
            return _MALFORMED
        if envelope.type not in (FirstKind.HELLO, FirstKind.RESUME):
            return FirstMessage(kind=FirstKind.OTHER)
        request = read_request(envelope)
    except Refusal:
        return _MALFORMED
    if isinstance(request, messages.Hello):
        token = None if request.resume is None else request.resume.resume_token
        return _found(FirstKind.HELLO, request.auth, token)
    if isinstance(request, messages.SessionResume):
        return _found(FirstKind.RESUME, request.auth, request.resume_token)
    return _MALFORMED


def is_label(text: str) -> bool:
    """Return whether a text may be a label: 1 to 32 letters, digits, `-` and `_` of ASCII."""
    return _LABEL.match(text) is not None


def token_prefix(label: str) -> str:
    """Return the beginning of the resume tokens of a runtime with this label; an empty one is none."""
    return f"{_BEGINNING}{label}{_END_OF_LABEL}" if label else _BEGINNING


def label_of(token: str) -> str:
    """Return the label of a resume token, or an empty text if it has none."""
    found = _LABELLED.match(token)
    return "" if found is None else found[1]


def _found(kind: FirstKind, auth: messages.Auth | None, token: str | None) -> FirstMessage:
    label = "" if token is None else label_of(token)
    return FirstMessage(kind=kind, scheme=_scheme(auth), resumes=token is not None, label=label)


def _scheme(auth: messages.Auth | None) -> Scheme:
    if auth is None or (auth.scheme == Scheme.BEARER and not auth.token):
        return Scheme.NONE
    return Scheme(auth.scheme) if auth.scheme in (Scheme.BEARER, Scheme.ANONYMOUS) else Scheme.OTHER


_MALFORMED: Final = FirstMessage(kind=FirstKind.MALFORMED)
