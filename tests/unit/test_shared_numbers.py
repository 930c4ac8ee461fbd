"""Events with one home number: those that the submitting session does not take (§7.6)."""

from __future__ import annotations

from typing import Final

import msgspec

from arcp_proto.client import Client, ClientConfig
from arcp_proto.events import Log, Progress
from arcp_proto.features import FEATURES
from arcp_proto.limits import Limits
from arcp_proto.output import JobEmitted, JobEnded, Subscribed, SubscriptionEnded, Welcomed
from arcp_proto.resumption import Resumption

from .pair import RUNTIME_CONFIG, UNIX, Pair

FEW: Final = tuple(name for name in FEATURES if name not in ("progress", "result_chunk"))
CONFIG: Final = msgspec.structs.replace(RUNTIME_CONFIG, resume_window_sec=5)
SEEN: Final = {"bob": {"alice": "observe"}}


class Story:
    """Alice has submitted a job in a session without `progress` and `result_chunk`; bob observes it."""

    def __init__(self, limits: Limits | None = None) -> None:
        config = msgspec.structs.replace(CONFIG, limits=limits or Limits(), observers=SEEN)
        self.pair = Pair(config, ClientConfig(features=FEW), tokens={"secret": "alice", "other": "bob"})
        self.pair.connect()
        self.job = self.pair.submit()
        self.bob()

    def bob(self, resumption: Resumption | None = None) -> None:
        """A process of bob's begins."""
        pair = self.pair
        pair.client = Client(ClientConfig(), seed=b"b" * 32, now=pair.now, unix=UNIX, resumption=resumption)
        pair.connect("other")

    def log(self, text: str = "hi") -> None:
        """The job says what its home takes."""
        self.pair.runtime.emit(self.job, "log", Log("info", text), now=self.pair.now)
        self.pair.advance(0.01)

    def progress(self, *numbers: int) -> None:
        """The job says what its home does not take."""
        for number in numbers:
            self.pair.runtime.emit(self.job, "progress", Progress(number), now=self.pair.now)
        self.pair.advance(0.01)

    def subscribe(self, after: int | None = 0) -> None:
        """Bob asks."""
        pair = self.pair
        pair.client.subscribe(self.job, after, after is not None, now=pair.now)
        pair.advance(0.01)

    def stop(self) -> None:
        """His subscription ends; he asks again a second later."""
        self.pair.runtime.observers_set({}, now=self.pair.now)
        self.pair.settle()
        self.pair.last(SubscriptionEnded)
        self.pair.runtime.observers_set(SEEN, now=self.pair.now)

    def drop(self) -> None:
        """His transport is gone; that of alice stays."""
        if self.pair.client.connection is not None:
            self.pair.drop(self.pair.client.connection)

    def lose(self) -> None:
        """His session is lost; the runtime opens another."""
        self.drop()
        self.pair.advance(6)
        self.reach()

    def reach(self) -> None:
        """He tries until a session is open that is none of before."""
        pair = self.pair
        known = len(pair.all(Welcomed))
        while len(pair.all(Welcomed)) == known:
            if pair.client.connection is None:
                pair.connect("other")
            pair.advance(5)
        assert not pair.last(Welcomed).resumed

    def got(self) -> list[int]:
        """What he has, by number; 0 stands for a log."""
        events = [event for event in self.pair.all(JobEmitted) if event.source_seq is not None]
        return [event.body.get("current", 0) for event in events]

    def asked(self) -> list[int]:
        return [one["payload"].get("from_event_seq") for one in self.pair.sent_by("client", "job.subscribe")]


def test_an_ended_subscription_goes_on_within_a_number() -> None:
    story = Story()
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.stop()
    story.progress(3, 4)
    story.pair.advance(2)
    story.progress(5)
    story.log()
    assert story.got() == [0, 1, 2, 3, 4, 5, 0]
    story.stop()
    story.pair.advance(2)
    story.progress(6)
    assert story.got() == [0, 1, 2, 3, 4, 5, 0, 6]
    assert story.asked() == [0, 0, 1]


def test_a_lost_session_goes_on_within_a_number() -> None:
    story = Story()
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.lose()
    story.progress(3)
    assert story.got() == [0, 1, 2, 3]
    story.log()
    story.drop()
    story.progress(4, 5)
    story.lose()
    assert story.got() == [0, 1, 2, 3, 0, 4, 5]


def test_a_streamed_result_is_whole_over_a_loss() -> None:
    story = Story()
    story.subscribe()
    runtime, pair = story.pair.runtime, story.pair
    story.log()
    runtime.write_result(story.job, "ab", now=pair.now)
    pair.advance(0.01)
    story.stop()
    runtime.write_result(story.job, "cd", now=pair.now)
    pair.advance(2)
    runtime.finish(story.job, None, now=pair.now)
    pair.advance(1)
    assert pair.last(JobEnded).result == "abcd"


def test_an_end_that_shares_the_first_number_comes() -> None:
    story = Story()
    story.subscribe()
    runtime, pair = story.pair.runtime, story.pair
    runtime.write_result(story.job, "ab", now=pair.now)
    pair.advance(0.01)
    story.stop()
    runtime.finish(story.job, None, now=pair.now)
    pair.advance(2)
    end = pair.last(JobEnded)
    assert (end.result, end.source_seq) == ("ab", 1)


def process(story: Story, count: int) -> Resumption:
    """Bob processes so much of what he has got, and writes down where he is."""
    client = story.pair.client
    for event in [one for one in story.pair.all(JobEmitted) if one.source_seq is not None][:count]:
        client.processed(event.job_id, event.seq, now=story.pair.now)
    resumption = client.resumption()
    assert resumption is not None
    return Resumption.of_json(resumption.to_json())


def test_another_process_resumes_within_a_number() -> None:
    story = Story()
    story.subscribe()
    story.log()
    story.progress(1, 2, 3)
    resumption = process(story, 2)
    story.drop()
    story.pair.events.clear()
    story.bob(resumption)
    story.progress(4)
    assert story.got() == [2, 3, 4]
    story.lose()
    story.progress(5)
    assert story.got() == [2, 3, 4, 5]


def test_another_process_recovers_within_a_number() -> None:
    story = Story()
    story.subscribe()
    story.log()
    story.progress(1, 2, 3)
    resumption = process(story, 2)
    story.drop()
    story.pair.advance(6)
    story.pair.events.clear()
    story.bob(resumption)
    story.reach()
    story.progress(4)
    assert story.got() == [2, 3, 4]


def test_who_subscribes_twice_has_what_he_asked_for_last() -> None:
    story = Story()
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.subscribe()
    assert story.got() == [0, 1, 2, 0, 1, 2]
    story.stop()
    story.progress(3)
    story.pair.advance(2)
    assert story.got() == [0, 1, 2, 0, 1, 2, 3]


def test_who_asks_for_what_is_above_a_number_has_no_more_of_it() -> None:
    story = Story()
    story.log()
    story.progress(1)
    story.subscribe(1)
    story.stop()
    story.progress(2)
    story.log()
    story.pair.advance(2)
    assert (story.got(), story.asked()) == ([0], [1, 1])


def test_how_much_of_a_number_came_before_a_live_subscription_is_not_known() -> None:
    story = Story()
    story.log()
    story.progress(1)
    story.subscribe(None)
    story.progress(2, 3)
    story.stop()
    story.pair.advance(2)
    story.log()
    story.progress(4)
    assert (story.got(), story.asked()) == ([2, 3, 0, 4], [None, 1])
    story.stop()
    story.progress(5)
    story.pair.advance(2)
    assert (story.got(), story.asked()) == ([2, 3, 0, 4, 5], [None, 1, 1])


def test_before_the_first_number_it_is_not_known_either() -> None:
    story = Story()
    story.progress(1)
    story.subscribe(None)
    story.progress(2)
    story.stop()
    story.pair.advance(2)
    story.log()
    assert story.got()[:1] == [2]
    assert story.asked() == [None, 1]


def test_what_is_cut_within_a_number_is_told() -> None:
    story = Story(Limits(history_events=3))
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.stop()
    story.progress(3, 4, 5)
    story.pair.advance(2)
    assert story.pair.last(Subscribed).history_from == 1
    story.log()
    assert story.got()[:3] == [0, 1, 2]
    assert story.got()[-1] == 0


def test_what_another_session_takes_is_not_counted_with() -> None:
    story = Story()
    story.subscribe()
    story.log()
    story.progress(1, 2)
    story.lose()
    assert story.asked() == [0, 0]
    story.pair.runtime.features = tuple(name for name in FEATURES if name != "list_jobs")
    story.lose()
    assert story.asked() == [0, 0, 1]
    story.log()
    assert story.got() == [0, 1, 2, 0]
