"""A runtime in memory for the tests of agents: no sockets, time that is driven by hand, cuts and delays.

async with open_runtime(app) as runtime, runtime.connect("s3cret") as session:
    job = await session.submit("echo", {"x": 1})
    await runtime.advance(60)
    assert await job.result() == {"echo": {"x": 1}}

`open_blocking_runtime` is the same without `await`. The plugin of pytest, `arcp_io.testing.plugin`, has the
fixtures; pytest is not needed otherwise. Each name is imported when it is first used.
"""

from __future__ import annotations

from arcp_io.exports import importer

TYPE_CHECKING = False  # Type checkers read it as true; importing `typing` would take most of the time.
if TYPE_CHECKING:
    from .blocking import BlockingRuntime, open_blocking_runtime
    from .clock import ManualClock
    from .ending import Ending
    from .positions import check_positions
    from .runtime import MemoryRuntime, open_runtime

__all__ = [
    "BlockingRuntime",
    "Ending",
    "ManualClock",
    "MemoryRuntime",
    "check_positions",
    "open_blocking_runtime",
    "open_runtime",
]

_MODULE_OF = {
    "BlockingRuntime": "blocking",
    "Ending": "ending",
    "ManualClock": "clock",
    "MemoryRuntime": "runtime",
    "check_positions": "positions",
    "open_blocking_runtime": "blocking",
    "open_runtime": "runtime",
}
"""Public name -> the module that defines it."""


__getattr__ = importer(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return __all__
