"""A Secret shows its value in no text, and is compared by its digest alone."""

from __future__ import annotations

import copy
import hashlib
import logging
import pickle
from collections.abc import Callable

import msgspec
import pytest
import rich.pretty
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.secret import Secret

VALUE = "rt_fake-but-long-enough-to-find"
SHOWN: dict[str, Callable[[Secret], object]] = {
    "repr": repr,
    "str": str,
    "format": lambda secret: f"{secret} {secret!r} {secret!s}",
    "in a list": lambda secret: [secret],
    "in a dict": lambda secret: {"token": secret},
    "in an exception": lambda secret: ValueError(secret),
    "rich": lambda secret: rich.pretty.pretty_repr({"token": secret}),
    "dir": dir,
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_no_repr_or_format_shows_a_secret(show: Callable[[Secret], object]) -> None:
    assert VALUE not in repr(show(Secret(VALUE)))


def test_a_log_does_not_show_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").error("refused %s", Secret(VALUE))
    assert "refused" in caplog.text
    assert VALUE not in caplog.text


def test_reveal_returns_the_value_of_a_secret() -> None:
    assert Secret(VALUE).reveal() == VALUE


@given(st.text(), st.text())
def test_a_secret_matches_only_its_own_digest(one: str, other: str) -> None:
    assert Secret(one).matches(Secret(one).digest())
    assert Secret(one).matches(Secret(other).digest()) == (one == other)


def test_the_digest_of_a_secret_is_sha256() -> None:
    assert Secret("abc").digest() == hashlib.sha256(b"abc").digest()
    assert not Secret("abc").matches(b"")


def test_a_secret_with_a_lone_surrogate_has_a_digest() -> None:
    assert Secret("\ud800").matches(Secret("\ud800").digest())
    assert not Secret("\ud800").matches(Secret("\ud801").digest())


def test_a_secret_cannot_be_compared() -> None:
    one = Secret(VALUE)
    for other in (one, Secret(VALUE), VALUE, None):
        with pytest.raises(TypeError, match="matches"):
            _ = one == other
        with pytest.raises(TypeError, match="matches"):
            _ = one != other
    with pytest.raises(TypeError, match="matches"):
        _ = VALUE in [one]


def test_a_secret_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="digest"):
        hash(Secret(VALUE))
    with pytest.raises(TypeError, match="digest"):
        _ = {Secret(VALUE): 1}


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_cannot_be_pickled(duplicate: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        duplicate(Secret(VALUE))


def test_a_secret_cannot_be_encoded() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode({"token": Secret(VALUE)})


def test_a_secret_has_no_dict() -> None:
    with pytest.raises(TypeError):
        vars(Secret(VALUE))


def test_an_empty_secret_is_false() -> None:
    assert Secret(VALUE)
    assert not Secret("")
