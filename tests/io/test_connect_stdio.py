"""A child process that ends before, or instead of, speaking ARCP."""

from __future__ import annotations

import sys

import anyio
import pytest

from arcp_io.client.connect import connect_stdio
from arcp_io.errors import ConnectionLost
from tests.io.apps import TOKEN
from tests.io.conftest import on_every_loop

pytestmark = pytest.mark.anyio

DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("argv", "how"),
    [
        (["false"], "false exited with code 1"),
        (["true"], "true exited with code 0"),
        ([sys.executable, "-c", DIES], f"{sys.executable} was killed by SIGKILL"),
    ],
    ids=["false", "true", "killed"],
)
async def test_a_child_that_ends_is_named_with_its_exit_code(argv: list[str], how: str) -> None:
    with anyio.fail_after(30), pytest.raises(ConnectionLost) as caught:
        async with connect_stdio(argv, TOKEN):
            pytest.fail("there is no session")
    assert str(caught.value).endswith(f"the connection was cut: {how}")


@on_every_loop
async def test_a_child_that_ends_while_its_pipes_are_opened() -> None:
    """Check an error of uvloop: a write to a pipe that the child has just closed raises."""
    for _ in range(20):
        with anyio.fail_after(30), pytest.raises(ConnectionLost, match="true exited with code 0"):
            async with connect_stdio(["true"], TOKEN):
                pytest.fail("there is no session")


async def test_a_child_that_dies_later() -> None:
    argv = [sys.executable, "-m", "tests.io.dying"]
    async with connect_stdio(argv, TOKEN) as session:
        with anyio.fail_after(30), pytest.raises(ConnectionLost, match="exited with code 7"):
            await (await session.submit("dies", 7)).result()
