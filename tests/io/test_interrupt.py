"""Ctrl-C of a program on trio, which raises KeyboardInterrupt wherever the program is."""

from __future__ import annotations

import pytest

from arcp_io import App, connect, serve_memory

app = App(name="interrupted", version="1", tokens={"s3cret": "alice"})


@pytest.mark.only_on("trio")
@pytest.mark.anyio
async def test_ctrl_c_in_the_middle_of_an_input_reaches_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the state machine of a client, so that the calls which end it fail."""

    def press_ctrl_c(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
            monkeypatch.setattr("arcp_proto.client.client.Client._about", press_ctrl_c)
            await session.describe("job_1")
            pytest.fail("no Ctrl-C")


@pytest.mark.only_on("trio")
@pytest.mark.anyio
async def test_an_error_of_a_program_behind_ctrl_c_stays_its_own() -> None:
    with pytest.raises(LookupError):
        async with serve_memory(app) as memory, connect(memory, token="s3cret"):
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise LookupError from None
