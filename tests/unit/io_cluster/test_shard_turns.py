"""Turns: one shard after the other, first those that a client waits for."""

from __future__ import annotations

import anyio
import pytest

from arcp_io.cluster.shard_turns import Turns

pytestmark = pytest.mark.anyio


async def test_a_wanted_shard_has_the_next_turn() -> None:
    turns, order = Turns(anyio.Event), list[int]()

    async def take(shard: int) -> None:
        async with turns.turn(shard):
            order.append(shard)
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks, turns.turn(9):
        for shard in range(4):
            tasks.start_soon(take, shard)
            await anyio.sleep(0.001)
        turns.want(2)
        turns.want(7)  # A shard that does not wait takes no turn.
    assert (order[0], sorted(order)) == (2, [0, 1, 2, 3])


async def test_a_shard_that_gives_up_its_turn_leaves_it_to_the_next_one() -> None:
    turns, order = Turns(anyio.Event), list[int]()

    async def take(shard: int) -> None:
        with anyio.move_on_after(0.01 if shard == 1 else 10):
            async with turns.turn(shard):
                order.append(shard)

    async with anyio.create_task_group() as tasks, turns.turn(0):
        for shard in (1, 2):
            tasks.start_soon(take, shard)
            await anyio.sleep(0.001)
        await anyio.sleep(0.02)
    async with turns.turn(3):
        assert order == [2]
