"""A browser for all tests, and a context for each; without one the tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import pytest

from .agents import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

FLAGS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--enable-precise-memory-info",
)
KEY: Final = "arcp-io token"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield the browser; while it is there, no event loop can run in this thread."""
    path = shutil.which("chromium")
    if path is None or find_spec("playwright") is None:
        pytest.skip("needs chromium (apt-get install chromium) and pip install -e '.[browser]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield found
        found.close()


class Visitor:
    """A context of the browser: opens pages, and notes what they ask for and complain about."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.asked: list[str] = []
        self.complaints: list[str] = []

    def open(self, url: str, *, token: str | None = TOKEN) -> Page:
        """Open the dashboard with a token in the tab."""
        page = self.context.new_page()
        if token is not None:
            page.add_init_script(f"sessionStorage.setItem({KEY!r}, {token!r})")
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return page


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Yield what opens a context with options of playwright; all are closed at the end."""
    contexts: list[BrowserContext] = []

    def opened(**options: Any) -> Visitor:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        return Visitor(contexts[-1])

    yield opened
    for context in contexts:
        context.close()
