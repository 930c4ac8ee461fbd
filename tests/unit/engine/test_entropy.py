"""Entropy: a seed always draws the same values, and the draws of one scope do not move those of another."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.engine.entropy import SEED_BYTES, Entropy
from arcp_proto.errors import LocalProtocolError

SEED = bytes(range(32))
SEEDS = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)
SCOPES = st.text(max_size=8)
PURPOSES = st.sampled_from(["session", "job", "message"])
Draw = tuple[str, str, str]
DRAWS = st.lists(st.tuples(SCOPES, st.sampled_from(["bits", "token", "fraction"]), PURPOSES), max_size=20)


def drawn(entropy: Entropy, draw: Draw) -> object:
    scope, kind, purpose = draw
    match kind:
        case "bits":
            return entropy.bits(scope, purpose)
        case "token":
            return entropy.token(scope, purpose).reveal()
        case _:
            return entropy.fraction(scope, purpose)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(length: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"32 bytes, not {length}"):
        Entropy(bytes(length))


def test_the_values_of_a_seed_are_pinned() -> None:
    """Pin the values of one seed, which a recording needs in later versions, too."""
    entropy = Entropy(SEED)
    assert entropy.bits("alice", "session").hex() == "a9d857796a55208b1149882bb8180aff"
    assert entropy.token("alice", "rt_").reveal() == "rt_Z3gnpen0iTqxO7C1AGIOXxt8OaV05lzmt-Mv5bsQxZU"
    assert entropy.fraction("alice", "jitter") == 0.5657080342164988


@given(SEEDS, SCOPES, st.lists(PURPOSES, max_size=4))
def test_draws_together_are_draws_one_by_one(seed: bytes, scope: str, purposes: list[str]) -> None:
    one, other = Entropy(seed), Entropy(seed)
    assert one.draws(scope, *purposes) == [other.bits(scope, purpose) for purpose in purposes]
    assert one.bits(scope, "more") == other.bits(scope, "more")


@given(SEEDS, DRAWS)
def test_the_same_seed_gives_the_same_values(seed: bytes, draws: list[Draw]) -> None:
    one, other = Entropy(seed), Entropy(seed)
    assert [drawn(one, draw) for draw in draws] == [drawn(other, draw) for draw in draws]


@given(SEEDS, SEEDS, SCOPES, PURPOSES)
def test_different_seeds_give_different_values(one: bytes, other: bytes, scope: str, purpose: str) -> None:
    same = one == other
    assert (Entropy(one).bits(scope, purpose) == Entropy(other).bits(scope, purpose)) == same
    tokens = [Entropy(seed).token(scope, purpose).reveal() for seed in (one, other)]
    assert (tokens[0] == tokens[1]) == same


@given(DRAWS, DRAWS, st.randoms(use_true_random=False))
def test_draws_of_other_scopes_change_nothing(mine: list[Draw], others: list[Draw], random: Random) -> None:
    """Compare the draws of one scope with those that it has while other scopes draw in between."""
    mine = [("mine", kind, purpose) for _scope, kind, purpose in mine]
    others = [("not-" + scope, kind, purpose) for scope, kind, purpose in others]
    alone = Entropy(SEED)
    expected = [drawn(alone, draw) for draw in mine]
    together, found = Entropy(SEED), []
    waiting = list(others)
    for draw in mine:
        for _ in range(random.randint(0, 3)):
            if waiting:
                drawn(together, waiting.pop())
        found.append(drawn(together, draw))
    assert found == expected


@given(DRAWS)
def test_no_value_is_drawn_twice(draws: list[Draw]) -> None:
    entropy = Entropy(SEED)
    values = [drawn(entropy, draw) for draw in draws]
    assert len(values) == len({repr(value) for value in values})


def test_many_draws_of_one_scope_do_not_repeat() -> None:
    entropy = Entropy(SEED)
    values = [entropy.bits("alice", "message") for _ in range(2000)]
    values += [entropy.bits("bob", "message") for _ in range(2000)]
    assert len(set(values)) == 4000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b/c"), ("a/b", "c")),
        (("a/1", "b"), ("a", "1/b")),
        (("", "ab"), ("a", "b")),
        (("1:a", "b"), ("a", "b")),
    ],
)
def test_scope_and_purpose_are_separated(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert Entropy(SEED).bits(*one) != Entropy(SEED).bits(*other)


def test_each_purpose_has_its_own_bits() -> None:
    assert Entropy(SEED).bits("alice", "session") != Entropy(SEED).bits("alice", "job")


@given(SEEDS, DRAWS)
def test_the_keys_give_the_same_source_again(seed: bytes, draws: list[Draw]) -> None:
    whole = Entropy(seed)
    again = Entropy.of_keys(*whole.keys(secrets=True))
    assert [drawn(again, draw) for draw in draws] == [drawn(whole, draw) for draw in draws]


@given(SEEDS)
def test_without_secrets_the_keys_give_the_same_ids_and_other_tokens(seed: bytes) -> None:
    whole = Entropy(seed)
    again = Entropy.of_keys(*whole.keys(secrets=False))
    assert again.bits("alice", "session") == whole.bits("alice", "session")
    assert again.token("alice", "rt_").reveal() != whole.token("alice", "rt_").reveal()


def test_the_stand_in_of_a_stand_in_key_is_itself() -> None:
    """Check that the recording of a replay equals the recording that is replayed."""
    keys = Entropy(SEED).keys(secrets=False)
    assert Entropy.of_keys(*keys).keys(secrets=False) == keys


@given(SEEDS, SCOPES)
def test_a_token_holds_256_bits(seed: bytes, scope: str) -> None:
    text = Entropy(seed).token(scope, "rt_").reveal()
    assert text.startswith("rt_")
    assert len(base64.urlsafe_b64decode(text.removeprefix("rt_") + "=")) == 32


@given(SEEDS, SCOPES)
def test_a_fraction_is_between_zero_and_one(seed: bytes, scope: str) -> None:
    assert 0 <= Entropy(seed).fraction(scope, "jitter") < 1


def test_fractions_are_spread() -> None:
    entropy = Entropy(SEED)
    values = [entropy.fraction("alice", "jitter") for _ in range(1000)]
    assert 0.45 < sum(values) / len(values) < 0.55


def test_a_scope_that_is_forgotten_begins_again() -> None:
    entropy = Entropy(SEED)
    first = entropy.bits("connection-1", "message")
    entropy.forget("connection-1")
    entropy.forget("connection-2")
    assert entropy.bits("connection-1", "message") == first


def test_a_scope_may_hold_a_lone_surrogate() -> None:
    assert Entropy(SEED).bits("\ud800", "job") != Entropy(SEED).bits("\ud801", "job")


def test_the_hash_seed_of_python_changes_nothing() -> None:
    program = (
        "from arcp_proto.engine.entropy import Entropy\n"
        "entropy = Entropy(bytes(range(32)))\n"
        "for scope in ('alice', 'bob', 'alice'):\n"
        "    print(entropy.bits(scope, 'job').hex(), entropy.token(scope, 'rt_').reveal())\n"
    )
    command = [sys.executable, "-c", program]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    printed = [
        subprocess.run(
            command,
            env=os.environ | path | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].split()) == 6
