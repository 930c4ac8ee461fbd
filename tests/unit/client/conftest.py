"""A runtime that has welcomed a client, which resumes its session after the loss of its connection."""

from __future__ import annotations

import pytest

from arcp_proto.client.config import ClientConfig
from tests.unit.scripted_runtime import ScriptedRuntime


@pytest.fixture
def runtime() -> ScriptedRuntime:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    return runtime
