"""Sessions that do not take all kinds of events: positions have gaps, and no event is lost (§6.2, §7.6)."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from arcp_proto.client.client import Client
from arcp_proto.client.config import CLIENT_FEATURES, ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.output import JobEnded, JobEvent, Subscribed, SubscriptionEnded, Welcomed
from arcp_proto.limits import Limits
from arcp_proto.wire.event_bodies import Log, Progress
from tests.unit.pair import RUNTIME_CONFIG, UNIX, Pair

FEW: Final = tuple(name for name in CLIENT_FEATURES if name not in ("progress", "result_chunk"))
CONFIG: Final = msgspec.structs.replace(RUNTIME_CONFIG, resume_window_sec=5)
SEEN: Final = {"bob": {"alice": "observe"}}


class Story:
    """A job of alice, in a session without `progress` and `result_chunk`, and bob, an observer of it."""

    def __init__(self, features: tuple[str, ...] = CLIENT_FEATURES, limits: Limits | None = None) -> None:
        config = msgspec.structs.replace(CONFIG, limits=limits or Limits(), observers=SEEN)
        self.features = features
        """The features of bob's sessions."""
        self.pair = Pair(config, ClientConfig(features=FEW), tokens={"secret": "alice", "other": "bob"})
        self.pair.connect()
        self.job = self.pair.submit()
        self.bob()

    def bob(self, resumption: Resumption | None = None) -> None:
        """Begin a new process of bob's client."""
        pair, config = self.pair, ClientConfig(features=self.features)
        pair.client = Client(config, seed=b"b" * 32, now=pair.now, unix=UNIX, resumption=resumption)
        pair.connect("other")

    def log(self, text: str = "hi") -> None:
        """Emit an event that every session takes."""
        self.pair.runtime.agents.emit(self.job, "log", Log("info", text), now=self.pair.now)
        self.pair.advance(0.01)

    def progress(self, *numbers: int) -> None:
        """Emit events that the submitting session does not take."""
        for number in numbers:
            self.pair.runtime.agents.emit(self.job, "progress", Progress(number), now=self.pair.now)
        self.pair.advance(0.01)

    def subscribe(self, after: int | None = 0) -> None:
        """Subscribe for bob, with the history above a position unless it is None."""
        pair = self.pair
        pair.client.subscribe(self.job, after, after is not None, now=pair.now)
        pair.advance(0.01)

    def stop(self) -> None:
        """End bob's subscription; his client subscribes again a second later."""
        self.pair.runtime.observers_set({}, now=self.pair.now)
        self.pair.settle()
        self.pair.last(SubscriptionEnded)
        self.pair.runtime.observers_set(SEEN, now=self.pair.now)

    def drop(self) -> None:
        """Drop bob's transport; that of alice stays."""
        state = self.pair.client_state
        if state.connection is not None:
            self.pair.drop(state.handles[state.connection])

    def lose(self) -> None:
        """Lose bob's session, and open another one."""
        self.drop()
        self.pair.advance(6)
        self.reach()

    def reach(self) -> None:
        """Connect bob again until another session is open."""
        pair = self.pair
        known = len(pair.all(Welcomed))
        while len(pair.all(Welcomed)) == known:
            if pair.client_state.connection is None:
                pair.connect("other")
            pair.advance(5)
        assert not pair.last(Welcomed).resumed

    def got(self) -> list[int | None]:
        """Return the positions of the events that bob has received."""
        return [event.job_seq for event in self.pair.events if isinstance(event, JobEvent) and event.job_seq]

    def asked(self) -> list[int | None]:
        """Return the positions above which bob has asked for events."""
        return [one["payload"].get("from_job_seq") for one in self.pair.sent_by("client", "job.subscribe")]

    def process(self, count: int) -> Resumption:
        """Process the first events of bob, and return the stored state of his session."""
        client = self.pair.client
        for event in self.pair.all(JobEvent)[:count]:
            client.mark_processed(event.job_id, event.receipt, now=self.pair.now)
        resumption = client.resumption()
        assert resumption is not None
        return Resumption.of_json(resumption.to_json())


BOTH = pytest.mark.parametrize(
    ("features", "left_out"), [(CLIENT_FEATURES, False), (FEW, True)], ids=["all", "few"]
)


def kept(positions: list[int], left_out: bool, *progress: int) -> list[int]:
    """Return the positions of a session that leaves out the positions of `progress`, or takes them all."""
    return [position for position in positions if not (left_out and position in progress)]


@BOTH
def test_an_ended_subscription_continues(features: tuple[str, ...], left_out: bool) -> None:
    story = Story(features)
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.stop()
    story.progress(3, 4)
    story.pair.advance(2)
    story.progress(5)
    story.log()
    assert story.got() == kept([*range(1, 8)], left_out, 2, 3, 4, 5, 6)
    story.stop()
    story.pair.advance(2)
    story.progress(6)
    story.log()
    assert story.got() == kept([*range(1, 10)], left_out, 2, 3, 4, 5, 6, 8)
    assert story.asked() == ([0, 1, 7] if left_out else [0, 3, 7])


@BOTH
def test_a_lost_session_continues(features: tuple[str, ...], left_out: bool) -> None:
    story = Story(features)
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.lose()
    story.progress(3)
    assert story.got() == kept([1, 2, 3, 4], left_out, 2, 3, 4)
    story.log()
    story.drop()
    story.progress(4, 5)
    story.lose()
    story.log()
    assert story.got() == kept([*range(1, 9)], left_out, 2, 3, 4, 6, 7)


def test_a_session_that_takes_other_kinds_continues() -> None:
    story = Story()
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.pair.runtime_state.features = tuple(name for name in CLIENT_FEATURES if name != "progress")
    story.lose()
    story.progress(3)
    story.log()
    assert story.got() == [1, 2, 3, 5]
    story.pair.runtime_state.features = CLIENT_FEATURES
    story.lose()
    story.progress(4)
    assert (story.got(), story.asked()) == ([1, 2, 3, 5, 6], [0, 3, 5])


def test_a_streamed_result_is_complete_across_an_ended_subscription() -> None:
    story = Story()
    story.subscribe()
    runtime, pair = story.pair.runtime, story.pair
    story.log()
    runtime.agents.write_result(story.job, "ab", now=pair.now)
    pair.advance(0.01)
    story.stop()
    runtime.agents.write_result(story.job, "cd", now=pair.now)
    pair.advance(2)
    runtime.agents.finish(story.job, None, now=pair.now)
    pair.advance(1)
    assert pair.last(JobEnded).result == "abcd"


def test_a_terminal_behind_chunks_not_taken_is_handed_out() -> None:
    story = Story()
    story.subscribe()
    runtime, pair = story.pair.runtime, story.pair
    runtime.agents.write_result(story.job, "ab", now=pair.now)
    pair.advance(0.01)
    story.stop()
    runtime.agents.finish(story.job, None, now=pair.now)
    pair.advance(2)
    end = pair.last(JobEnded)
    assert (end.result, end.job_seq) == ("ab", 3), "the empty last chunk is 2"


@BOTH
def test_a_restarted_client_resumes(features: tuple[str, ...], left_out: bool) -> None:
    story = Story(features)
    story.subscribe()
    story.log()
    story.progress(1)
    story.log()
    story.progress(2)
    resumption = story.process(1)
    story.drop()
    story.pair.events.clear()
    story.bob(resumption)
    story.log()
    assert story.got() == kept([2, 3, 4, 5], left_out, 2, 4)
    story.lose()
    story.progress(3)
    story.log()
    assert story.got() == kept([2, 3, 4, 5, 6, 7], left_out, 2, 4, 6)


@BOTH
def test_a_restarted_client_recovers(features: tuple[str, ...], left_out: bool) -> None:
    story = Story(features)
    story.subscribe()
    story.log()
    story.progress(1)
    story.log()
    resumption = story.process(1)
    story.drop()
    story.pair.advance(6)
    story.pair.events.clear()
    story.bob(resumption)
    story.reach()
    story.progress(2)
    story.log()
    assert story.got() == kept([2, 3, 4, 5], left_out, 2, 4)
    assert story.asked() == [0, 1]


@BOTH
def test_a_history_requested_twice_is_handed_out_twice(features: tuple[str, ...], left_out: bool) -> None:
    story = Story(features)
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.subscribe()
    once = kept([1, 2, 3], left_out, 2, 3)
    assert story.got() == once * 2
    story.stop()
    story.progress(3)
    story.log()
    story.pair.advance(2)
    assert story.got() == once * 2 + kept([4, 5], left_out, 4)


@BOTH
@pytest.mark.parametrize("after", [1, None])
def test_a_subscription_from_a_position_continues(
    features: tuple[str, ...], left_out: bool, after: int | None
) -> None:
    story = Story(features)
    story.log()
    if after is not None:
        story.progress(1)
    story.subscribe(after)
    story.stop()
    story.progress(2)
    story.log()
    story.pair.advance(2)
    assert story.got() == kept([2, 3, 4] if after else [2, 3], left_out, 2, 3 if after else 2)


def test_positions_of_a_cut_history_are_reported() -> None:
    story = Story(limits=Limits(max_history_events=3))
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.stop()
    story.progress(3, 4, 5, 6)
    story.pair.advance(2)
    assert story.pair.last(Subscribed).history_from == 5
    story.log()
    assert story.got() == [1, 2, 3, 5, 6, 7, 8]


def test_the_submitting_session_continues_over_gaps() -> None:
    config = ClientConfig(features=FEW)
    pair = Pair(CONFIG, config)
    pair.connect()
    job = pair.submit()
    runtime = pair.runtime

    def emit(*numbers: int) -> None:
        for number in numbers:
            runtime.agents.emit(job, "progress", Progress(number), now=pair.now)
        runtime.agents.emit(job, "log", Log("info", "hi"), now=pair.now)
        pair.advance(0.01)

    emit(1, 2)
    pair.drop()
    emit(3)
    pair.connect()
    emit()
    pair.drop()
    pair.advance(6)
    emit(4)
    while len(pair.all(Welcomed)) < 3:
        if pair.client_state.connection is None:
            pair.connect()
        pair.advance(5)
    emit()
    assert [event.job_seq for event in pair.all(JobEvent)] == [3, 5, 6, 8, 9]
    runtime.agents.finish(job, {"done": True}, now=pair.now)
    pair.advance(0.01)
    end = pair.last(JobEnded)
    assert (end.result, end.job_seq) == ({"done": True}, 10)
