"""The module of the guide by which a page in a browser follows a job, in chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest

from arcp_io import App, BlockingJobContext, sync
from tests.docs.pages import configurations
from tests.io.web_server import web_served

from .conftest import Visitor

Visit = Callable[..., Visitor]
FOLLOW = """async ([source, url, token, last]) => {
    const { stream } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const taken = [];
    try {
        await stream(url, token, (event) => { taken.push([event.job_seq, event.kind]); }, { last });
    } catch (error) {
        return [taken, error.message];
    }
    return [taken, ""];
}"""


class Site:
    """A runtime with streams, whose agent publishes half of its numbers, and the rest after a step."""

    def __init__(self) -> None:
        self.step = Event()
        self.agents = App("site", "1", tokens={"s3cret": "alice", "other": "bob"})
        self.port = 0
        self.agents.agent("count")(self._count)

    def _count(self, job: BlockingJobContext, upto: int) -> int:
        for number in range(upto):
            if number == upto // 2:
                self.step.wait()
            job.log("info", f"{number} \u20ac \u2028")
        return upto

    def submit(self, upto: int) -> str:
        """Submit a job, and leave."""
        with sync.connect(f"ws://127.0.0.1:{self.port}/arcp", "s3cret") as session:
            return session.submit("count", upto).id


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    with web_served(found.agents.asgi(sse=True)) as found.port:
        yield found
        found.step.set()


def follow(page: Any, site: Site, job: str, token: str = "s3cret", last: str = "") -> Any:
    """Follow a job in a page; return the positions and kinds that came, and the error."""
    url = f"http://127.0.0.1:{site.port}/jobs/{job}/events"
    return page.evaluate(FOLLOW, [configurations()["stream.js"], url, token, last])


def test_a_page_follows_a_job_over_cuts(site: Site, visit: Visit) -> None:
    visitor = visit()
    page = visitor.open(f"http://127.0.0.1:{site.port}/livez", token=None)
    job, asked = site.submit(20), []

    def cut(route: Any) -> None:
        """Answer twice with a part of the stream that ends in the middle of an event; lose one request."""
        asked.append(route.request.headers.get("last-event-id", ""))
        if len(asked) > 3:
            site.step.set()
            route.continue_()
        elif len(asked) == 2:
            route.abort()
        else:
            beginning = int(asked[-1] or 0) + 1
            blocks = [
                f'id: {number}\nevent: log\ndata: {{"job_seq": {number}, "kind": "log"}}\n\n'
                for number in range(beginning, beginning + 4)
            ]
            body = "retry: 1\n\n:\n\n" + "".join(blocks)[:-20]
            route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/events", cut)
    taken, error = follow(page, site, job)
    assert error == ""
    assert taken == [[number, "log"] for number in range(1, 21)] + [[21, "end"]]
    assert asked == ["", "3", "3", "6"]
    assert follow(page, site, job, last="21") == [[], ""], "204 ends it"


def test_a_page_is_told_why_it_gets_nothing(site: Site, visit: Visit) -> None:
    visitor = visit()
    page = visitor.open(f"http://127.0.0.1:{site.port}/livez", token=None)
    job = site.submit(2)
    assert follow(page, site, job, "wrong") == [[], "401: the token is not valid\n"]
    assert follow(page, site, job, "other") == [[], "404: no such job\n"]
