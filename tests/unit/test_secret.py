"""A Secret shows nothing, wherever it goes."""

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
def test_nothing_shows_it(show: Callable[[Secret], object]) -> None:
    assert VALUE not in repr(show(Secret(VALUE)))


def test_a_log_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").error("refused %s", Secret(VALUE))
    assert "refused" in caplog.text
    assert VALUE not in caplog.text


def test_it_is_revealed_on_purpose() -> None:
    assert Secret(VALUE).reveal() == VALUE


@given(st.text(), st.text())
def test_it_matches_its_own_digest_and_no_other(one: str, other: str) -> None:
    assert Secret(one).matches(Secret(one).digest())
    assert Secret(one).matches(Secret(other).digest()) == (one == other)


def test_its_digest_is_sha256() -> None:
    assert Secret("abc").digest() == hashlib.sha256(b"abc").digest()
    assert not Secret("abc").matches(b"")


def test_a_value_that_is_no_text_has_a_digest() -> None:
    assert Secret("\ud800").matches(Secret("\ud800").digest())
    assert not Secret("\ud800").matches(Secret("\ud801").digest())


def test_it_is_not_compared() -> None:
    one = Secret(VALUE)
    for other in (one, Secret(VALUE), VALUE, None):
        with pytest.raises(TypeError, match="matches"):
            _ = one == other
        with pytest.raises(TypeError, match="matches"):
            _ = one != other
    with pytest.raises(TypeError, match="matches"):
        _ = VALUE in [one]


def test_it_is_not_hashed() -> None:
    with pytest.raises(TypeError, match="digest"):
        hash(Secret(VALUE))
    with pytest.raises(TypeError, match="digest"):
        _ = {Secret(VALUE): 1}


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_copied_out(duplicate: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        duplicate(Secret(VALUE))


def test_it_is_not_encoded() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode({"token": Secret(VALUE)})


def test_it_has_no_dict_to_look_into() -> None:
    with pytest.raises(TypeError):
        vars(Secret(VALUE))


def test_whether_there_is_one() -> None:
    assert Secret(VALUE)
    assert not Secret("")
