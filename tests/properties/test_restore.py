"""Records are all that is needed, and any number of them is a legal past."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcp_proto.engine.endpoint import state_of
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.journal.records import Record, decode_record
from arcp_proto.server.runtime import Runtime
from tests.unit.world import START, UNIX

from . import structure
from .machines import SETUP, actions, examples
from .play import Action, Play, config_of, run
from .restart import applied as applied_at
from .restart import encoded

SEED = b"r" * 32
LEFT_AND_LAPSED: Sequence[Action] = (
    ("join", 0, 0, 0),
    ("submit", 187, 111, 59),
    ("shut_down", 171, 42, 120),
    ("set_clock", 185, 139, 109),
)
"""A job is left to the next process, and then its lease ends."""
LEFT_AND_CANCELLED: Sequence[Action] = (
    ("join", 0, 0, 0),
    ("submit", 179, 45, 131),
    ("submit", 221, 243, 233),
    ("shut_down", 66, 198, 32),
    ("fail", 74, 50, 180),
    ("cancel", 188, 102, 57),
)
"""A job is left to the next process, and cancelled while another has its grace."""
LEFT_AND_STREAMED: Sequence[Action] = (
    ("join", 0, 0, 0),
    ("submit", 130, 3, 106),
    ("shut_down", 240, 187, 184),
    ("write", 56, 205, 18),
    ("stop", 151, 54, 49),
    ("shut_down", 141, 165, 248),
)
"""A job streams in its grace and is left to the next process, and the runtime is shut down once more."""
STREAMED_AND_DRAINED: Sequence[Action] = (
    ("join", 0, 0, 0),
    ("submit", 57, 145, 244),
    ("shut_down", 147, 204, 88),
    ("write", 7, 190, 49),
    ("shut_down", 79, 108, 96),
    ("wait", 227, 41, 223),
)
"""A job streams in its grace, and the time of another drain is over before."""


def restored(config: RuntimeConfig, records: Sequence[Record]) -> Runtime:
    return Runtime.restore(config, records, seed=SEED, now=START, unix=UNIX)


def applied(config: RuntimeConfig, records: Sequence[Record]) -> Runtime:
    """Return a runtime with the given records applied, before the restart changes it."""
    return applied_at(config, records, now=START, unix=UNIX)


def played(setup: tuple[int, int, int], drawn: Sequence[Action]) -> Play:
    """Run actions with a journal."""
    return run((setup[0] | 1, *setup[1:]), drawn)


@settings(max_examples=examples(80))
@given(setup=SETUP, drawn=actions(without=("crash",)))
@example((61, 66, 161), LEFT_AND_CANCELLED)
@example((93, 206, 197), LEFT_AND_LAPSED)
@example((53, 36, 93), STREAMED_AND_DRAINED)
@example((17, 161, 52), LEFT_AND_STREAMED)
def test_a_snapshot_is_all_records(setup: tuple[int, int, int], drawn: Sequence[Action]) -> None:
    play = played(setup, drawn)
    lived = play.world.runtime.snapshot()
    from_records = restored(play.config, play.world.records)
    from_snapshot = restored(play.config, lived)
    bare = RuntimeConfig(name="", version="", journal=True, limits=play.config.limits)
    assert encoded(Runtime.compacted(bare, play.world.records)) == encoded(lived)
    assert encoded(Runtime.compacted(bare, lived)) == encoded(lived)
    assert encoded(from_snapshot.snapshot()) == encoded(from_records.snapshot())
    assert (
        list(state_of(from_snapshot).jobs) == list(state_of(from_records).jobs) == list(play.world.state.jobs)
    )
    assert state_of(from_snapshot).timers.keys() == state_of(from_records).timers.keys()
    one, two = from_snapshot.take(), from_records.take()
    assert encoded(one.records) == encoded(two.records)
    assert str(one.requests) == str(two.requests)


@settings(max_examples=examples(80))
@given(setup=SETUP, drawn=actions(without=("crash",)), data=st.data())
def test_any_prefix_is_a_legal_past(
    setup: tuple[int, int, int], drawn: list[Action], data: st.DataObject
) -> None:
    play = played(setup, drawn)
    records = play.world.records
    for count in range(0, len(records) + 1, 1 + len(records) // 25):
        runtime = restored(play.config, records[:count])
        structure.check(state_of(runtime))
        assert all(job.terms.agent == "again" for job in state_of(runtime).unfinished.values())
        made = runtime.take().records
        lived = encoded(runtime.snapshot())
        assert encoded(applied(play.config, [*records[:count], *made]).snapshot()) == lived
        assert encoded(applied(play.config, runtime.snapshot()).snapshot()) == lived
        if not state_of(runtime).unfinished:  # Else agents that were started again are started once more.
            again = restored(play.config, [*records[:count], *made])
            assert encoded(again.snapshot()) == lived
            assert again.take().records == ()


@settings(max_examples=examples(50))
@given(setup=SETUP, drawn=actions())
def test_records_survive_being_written(setup: tuple[int, int, int], drawn: list[Action]) -> None:
    play = played(setup, drawn)
    written = encoded(play.world.records)
    assert [decode_record(data) for data in written] == play.world.records
    secrets = [text.encode() for text in play.old_tokens]
    assert not any(secret in data for data in written for secret in [b"secret", *secrets])


@settings(max_examples=examples(50))
@given(setup=SETUP, drawn=actions(without=("crash",)))
def test_without_a_journal_the_wire_is_the_same(setup: tuple[int, int, int], drawn: list[Action]) -> None:
    """Compare the frames of a run with and without a journal.

    All limits of logs are high, those of a principal and of the runtime included: "when a quarter of the
    events or bytes that a session's log may hold is not durable, the agents of its jobs wait"
    (docs/explanation/durability.md), and one input can fill a quarter of a short log.
    """
    setup = setup[0] & ~0b10000, setup[1] & ~0b100011, setup[2]
    with_journal = played(setup, [action for action in drawn if action[0] != "lag"])
    without = run((setup[0] & ~1, *setup[1:]), drawn)
    assert without.world.records == []
    assert [client.peer.raw for client in without.clients] == [
        client.peer.raw for client in with_journal.clients
    ]


def test_configurations_differ() -> None:
    configs = [config_of(a, b, 0) for a in range(8) for b in range(8)]
    assert len(dict.fromkeys(map(str, configs))) == 64
