"""The dashboard in chromium: what it shows, and what it does not let happen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from arcp_io.journal import SqliteJournal

from .agents import HOSTILE, TOKEN, make_app
from .conftest import Visitor
from .served import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Page

Visit = Callable[..., Visitor]
LEASE: Final = {"cost.budget": ["USD:5"], "tool.call": ["*"], "agent.delegate": ["*"]}
SHOWN: Final = re.compile(r"([\d,]+) shown, positions ([\d,]+) to ([\d,]+)")


@pytest.fixture(scope="module")
def tower() -> Iterator[Served]:
    with served(make_app()) as runtime:
        yield runtime


def _job(runtime: Served, job_id: str) -> str:
    return f"{runtime.page}#/job/{job_id}"


def _shown(page: Page) -> tuple[int, int, int]:
    """Return how many events are shown, and the positions of the first and the last one."""
    note = page.locator(".events .count").inner_text()
    found = SHOWN.search(note)
    assert found is not None, note
    count, first, last = (int(text.replace(",", "")) for text in found.groups())
    return count, first, last


def _until_shown(page: Page, last: int) -> None:
    """Wait until the events up to a position are shown."""
    page.locator(".events .count", has_text=f"to {last:,}").wait_for(timeout=120_000)


def _heap(page: Page) -> int:
    """Return the bytes of JavaScript's heap, after garbage is collected."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return int(session.send("Runtime.getHeapUsage")["usedSize"])


def test_list_as_a_screen_reader_tells_it(visit: Visit) -> None:
    with served(make_app()) as runtime:
        runtime.submit("quick", over=True)
        runtime.submit("failing", over=True)
        runtime.submit("research", 1, over=True, lease=LEASE)
        page = visit().open(runtime.page)
        page.get_by_role("link", name="failing").wait_for()
        snapshot = page.locator("main").aria_snapshot()
    for line in (
        '- heading "Jobs" [level=1]',
        '- combobox "Status"',
        '- searchbox "Agent"',
        '- columnheader "Status"',
        '- columnheader "Spent"',
        '- cell "Succeeded"',
        '- cell "Failed"',
        '- cell "0.11 of 5 USD"',
        '- link "research@2.1.0"',
        "- status: 4 jobs.",
    ):
        assert line in snapshot, snapshot


def test_filters_show_some_jobs(visit: Visit, tower: Served) -> None:
    tower.submit("failing", over=True)
    tower.submit_many("quick", [1, 2])
    page = visit().open(tower.page)
    page.get_by_role("link", name="failing").first.wait_for()
    page.get_by_label("Status", exact=True).select_option("error")
    page.get_by_role("link", name="quick").first.wait_for(state="detached")
    page.get_by_role("link", name="failing").first.wait_for()
    assert page.get_by_role("link", name="quick").count() == 0
    page.get_by_label("Status", exact=True).select_option("")
    page.get_by_label("Agent", exact=True).fill("quick")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="failing").first.wait_for(state="detached")
    page.get_by_role("link", name="quick").first.wait_for()
    assert page.get_by_role("link", name="failing").count() == 0


def test_a_run_tells_its_end_its_budget_and_its_steps(visit: Visit, tower: Served) -> None:
    job = tower.submit("research", 3, over=True, lease=LEASE)
    page = visit().open(_job(tower, job))
    page.get_by_role("heading", name="Result").wait_for()
    page.get_by_role("link", name="quick").wait_for()
    page.locator(".timeline .row", has_text="failed").wait_for()
    snapshot = page.locator("main").aria_snapshot()
    for line in (
        '- heading "research@2.1.0" [level=1]',
        '- progressbar "Budget, USD"',
        "0.33 of 5",
        "3 of 3 sources read and compared",
        'answer\\": 42',
        '- heading "Timeline" [level=2]',
        '- heading "Events" [level=2]',
    ):
        assert line in snapshot, snapshot
    assert page.locator(".run > .top .badge").inner_text() == "Succeeded"
    page.get_by_role("link", name="quick").click()
    page.get_by_role("heading", name="quick").wait_for()
    page.get_by_role("link", name=job).click()  # Back to the parent.
    page.get_by_role("heading", name="research@2.1.0").wait_for()


def test_a_run_shows_an_input_that_the_runtime_has_kept(visit: Visit, tmp_path: Path) -> None:
    with served(make_app(), journal=SqliteJournal(tmp_path / "journal")) as runtime:
        section = ".run > section[aria-labelledby=input], .run > section:has(#input)"
        jobs = {
            runtime.submit("again", {"text": HOSTILE, "number": 7}): '"number": 7',
            runtime.submit("again", "x" * 40_000): "40,002 bytes, too large to be shown here.",
            runtime.submit("quick", {"x": 1}): "The runtime has not kept the input.",
        }
        for job, told in jobs.items():
            page = visit().open(_job(runtime, job))
            page.locator(section, has_text=told).wait_for()
            assert page.evaluate("window.hit") is None
        for job in jobs:
            runtime.cancel(job)
        page = visit().open(_job(runtime, next(iter(jobs))))
        page.locator(section, has_text="The runtime has not kept the input.").wait_for()


def test_an_error_comes_first(visit: Visit, tower: Served) -> None:
    page = visit().open(_job(tower, tower.submit("failing", over=True)))
    error = page.get_by_role("alert")
    error.wait_for()
    assert "INTERNAL_ERROR" in error.inner_text()
    assert "the disk of the crawler is full" in error.inner_text()
    box, facts = error.bounding_box(), page.locator(".facts").bounding_box()
    assert box is not None
    assert facts is not None
    assert box["y"] + box["height"] <= facts["y"]


def test_a_cancel_is_asked_until_the_agent_has_stopped(visit: Visit, tower: Served) -> None:
    app = make_app()
    app.resume_window = 1
    with served(app) as runtime:
        page = visit().open(_job(runtime, runtime.leave("stubborn", 3)))
        page.wait_for_timeout(2500)  # The session of the submitter can be resumed until then.
        page.get_by_role("button", name="Cancel run").click()
        page.get_by_role("button", name="Press again to cancel").click()
        page.locator(".run > .warn", has_text="has not stopped yet").wait_for()
        assert page.locator(".run > .top .badge").inner_text() == "Running"
        assert page.get_by_role("button", name="Cancel asked").is_disabled()
        page.locator(".run > .top .badge", has_text="Cancelled").wait_for()
        assert page.locator(".run > .warn").is_hidden()
        assert page.get_by_role("button", name="Cancel").count() == 0


def test_an_agent_that_outlives_its_run_is_told_until_it_has_stopped(visit: Visit) -> None:
    with served(make_app(stop_grace_sec=1)) as runtime:
        job = runtime.submit("stubborn", 12)
        runtime.cancel(job)
        run, jobs = visit().open(_job(runtime, job)), visit().open(runtime.page)
        badge, told = run.locator(".run > .top .badge"), run.locator(".run > .warn")
        badge.get_by_text("Cancel asked, not stopped", exact=True).wait_for()
        assert told.inner_text().startswith("The cancel was asked, and the agent has not stopped")
        row = jobs.locator(".jobs .row .badge")
        row.get_by_text("Not stopped", exact=True).wait_for()
        assert row.get_attribute("title") == "Cancel asked, not stopped"
        row.get_by_text("Cancelled", exact=True).wait_for()
        badge.get_by_text("Cancelled", exact=True).wait_for()
        assert told.is_hidden()
        run.locator(".facts", has_text=re.compile(r"Agent stopped\s*\d+ s after the end")).wait_for()


def test_a_cancel_that_is_refused_is_told(visit: Visit, tower: Served) -> None:
    job = tower.submit("wait", 1)
    page = visit().open(_job(tower, job))
    page.get_by_role("button", name="Cancel run").click()
    page.get_by_role("button", name="Press again to cancel").click()
    page.get_by_role("alert").get_by_text("Not cancelled: only a session that submitted").wait_for()
    assert page.locator(".run > .warn").is_hidden()
    assert page.get_by_role("button", name="Cancel run").is_enabled()
    tower.cancel(job)
    page.locator(".run > .top .badge", has_text="Cancelled").wait_for()


def test_offline_and_cuts_leave_no_gap(visit: Visit, tower: Served) -> None:
    job = tower.submit("wait", 0.005)
    visitor = visit()
    with tower.relayed() as (url, cut):
        page = visitor.open(f"{url}#/job/{job}")
        page.locator(".events .row").first.wait_for()
        for times in range(1, 4):
            cut()
            page.locator("#connection", has_text=f"resumed {times} time").wait_for()
        visitor.context.set_offline(True)
        page.locator("#connection", has_text="this device is offline").wait_for()
        before = _shown(page)[2]
        page.wait_for_timeout(500)
        assert _shown(page)[2] == before
        visitor.context.set_offline(False)
        page.locator("#connection", has_text="resumed 4 times").wait_for()
        tower.cancel(job)
        page.locator(".run > .top .badge", has_text="Cancelled").wait_for()
        page.locator(".events .row .kind", has_text="end").wait_for()
        count, first, last = _shown(page)
    assert (count, first) == (last, 1)
    assert last > before + 50


def test_a_hostile_agent_injects_nothing(visit: Visit, tower: Served) -> None:
    job = tower.submit("hostile", over=True, lease={"tool.call": ["**"]})
    visitor = visit()
    page = visitor.open(_job(tower, job))
    page.get_by_role("heading", name="Result").wait_for()
    page.locator(".events .row").nth(8).wait_for()
    for at in range(9):
        page.locator(".events .row").nth(at).click()
    text = page.locator("main").inner_text()
    assert "<script>window.hit=1</script>" in text
    assert "\\u202e" in text
    for character in "\u202e\u2066\x00\x1b":
        assert character in HOSTILE
        assert character not in page.content()
    assert page.evaluate("window.hit") is None
    assert (
        page.evaluate(
            "({}).constructor === Object && document.querySelectorAll('main img, main script').length"
        )
        == 0
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="← Jobs").click()
    page.get_by_role("link", name="hostile").first.wait_for()
    assert visitor.complaints == []


def test_nothing_is_asked_from_anywhere_else(visit: Visit, tower: Served) -> None:
    tower.submit("quick", 1, over=True)
    visitor = visit()
    page = visitor.open(tower.page)
    page.locator(".row a").first.click()
    page.locator(".events .row").first.wait_for()
    own = f"127.0.0.1:{tower.server.port}"
    assert len(visitor.asked) > 10
    assert {url.split("/")[2] for url in visitor.asked} == {own}
    assert all(TOKEN not in url for url in [*visitor.asked, page.url])
    assert visitor.complaints == []


def test_a_token_is_asked_for_and_kept_in_the_tab(visit: Visit, tower: Served) -> None:
    visitor = visit()
    page = visitor.open(tower.page, token=None)
    page.get_by_label("Token of the runtime").fill("guessed")
    page.get_by_role("button", name="Connect").click()
    assert "does not know this token" in page.get_by_role("alert").inner_text()
    page.get_by_label("Token of the runtime").fill(TOKEN)
    page.get_by_role("button", name="Connect").click()
    page.get_by_role("heading", name="Jobs").wait_for()
    page.reload()
    page.get_by_role("heading", name="Jobs").wait_for()
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    page.get_by_role("button", name="Forget token").click()
    page.get_by_label("Token of the runtime").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_an_anonymous_runtime_needs_no_token(visit: Visit) -> None:
    app = make_app()
    app.anonymous = True
    with served(app) as runtime:
        page = visit().open(runtime.page, token=None)
        page.get_by_text("No jobs.").wait_for()
        assert page.locator("#connection").inner_text() == "Connected"


def test_a_history_that_was_cut_is_told(visit: Visit) -> None:
    with served(make_app(max_history_events=200)) as runtime:
        page = visit().open(_job(runtime, runtime.submit("count", 3000, over=True)))
        page.get_by_text("History was cut: the first event that is left is number").wait_for()


def test_keys_choose_events_and_jobs(visit: Visit, tower: Served) -> None:
    page = visit().open(_job(tower, tower.submit("count", 50, over=True)))
    _until_shown(page, 51)
    page.get_by_label("Events").get_by_role("rowgroup").focus()
    page.keyboard.press("Home")
    assert "event number 0" in page.get_by_label("Chosen event").inner_text()
    page.keyboard.press("ArrowDown")
    assert "event number 1" in page.get_by_label("Chosen event").inner_text()
    page.keyboard.press("End")
    assert "final_status" in page.get_by_label("Chosen event").inner_text()
    page.get_by_role("link", name="← Jobs").click()
    page.locator(".jobs .row").first.wait_for()
    page.get_by_role("rowgroup", name="Jobs").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(".events .row").first.wait_for()


def test_a_kind_is_filtered_by_the_runtime(visit: Visit, tower: Served) -> None:
    page = visit().open(_job(tower, tower.submit("research", 3, over=True, lease=LEASE)))
    page.locator(".events .row").first.wait_for()
    page.get_by_label("Kind of event").select_option("thought")
    page.locator(".events .row", has_text="The archive is down").wait_for()
    kinds = page.locator(".events .row .kind").all_inner_texts()
    assert set(kinds) == {"thought", "end"}


def test_memory_is_bounded_with_100_000_events(visit: Visit) -> None:
    with served(make_app(max_history_events=200_000, max_history_bytes=2**26)) as runtime:
        job = runtime.submit("count", 100_000)
        page = visit().open(_job(runtime, job))
        _until_shown(page, 100_001)
        count, first, last = _shown(page)
        assert (count, first, last) == (5_000, 95_002, 100_001)
        assert page.locator(".events .row").count() < 60
        assert _heap(page) < 40_000_000
        page.reload()  # Begins at the end, and pages back.
        _until_shown(page, 100_001)
        assert _shown(page)[1] >= 99_000
        page.get_by_role("button", name="Load older").click()
        page.locator(".events .count", has_text="2,000 shown").wait_for()
        count, first, last = _shown(page)
        assert (count, last) == (last - first + 1, 100_001)


def test_memory_is_bounded_with_10_000_jobs(visit: Visit) -> None:
    with served(make_app(max_requests_per_sec=100_000)) as runtime:
        runtime.submit_many("quick", range(10_050))
        page = visit().open(runtime.page)
        count = page.locator(".foot .count")
        page.locator(".foot .count", has_text="100 jobs, older").wait_for()
        while "keeps the newest" not in count.inner_text():
            before = count.inner_text()
            page.get_by_role("button", name="Load older").click()
            page.wait_for_function(
                "before => document.querySelector('.foot .count').textContent !== before", arg=before
            )
        assert count.inner_text().startswith("10,000 jobs")
        assert page.locator(".jobs .row").count() < 60
        assert _heap(page) < 40_000_000
        page.locator(".jobs .window").evaluate("list => list.scrollTop = list.scrollHeight")
        page.wait_for_timeout(100)
        assert page.locator(".jobs .row").count() < 60


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_have_both_colours(visit: Visit, tower: Served, width: int, scheme: str) -> None:
    job = tower.submit("research", 3, over=True, lease=LEASE)
    options: dict[str, Any] = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = visit(**options).open(tower.page)
    for url in (tower.page, _job(tower, job)):
        page.goto(url)
        page.locator(".row").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(
            "document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth"
        )
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    assert dark == (scheme == "dark")
