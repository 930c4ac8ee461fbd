"""arcp_io.app: the registration of agents, and the configuration of a Runtime."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from arcp_io.app import App
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.inventory import AgentInfo


@pytest.fixture
def app() -> App:
    return App("example", "0.1.0", tokens={"s3cret": "alice"})


async def agent(job: Any, input: Any) -> Any:
    return input


def plain(job: Any, input: Any) -> Any:
    return input


def test_a_registered_agent_is_found_by_name(app: App) -> None:
    assert app.agent("echo", version="1.0.0")(agent) is agent
    app.agent("plain")(plain)

    echo = app.find("echo", "1.0.0")
    assert (echo.function, echo.qualified_name, echo.is_async) == (agent, "echo@1.0.0", True)
    assert (app.find("plain", None).qualified_name, app.find("plain", None).is_async) == ("plain", False)
    with pytest.raises(KeyError):
        app.find("echo", None)


def test_an_app_makes_the_runtime_config() -> None:
    limits = Limits(max_total_running_jobs=3)
    app = App("example", "0.1.0", anonymous=True, heartbeat=7, limits=limits, quirks=False)
    app.agent("two", version="1")(agent)
    app.agent("two", version="2", default=True)(agent)
    app.agent("none")(agent)
    app.agent("one", version="1")(agent)

    config = app.config()

    assert (config.name, config.version, config.anonymous) == ("example", "0.1.0", True)
    assert (config.heartbeat_interval_sec, config.limits, config.quirks) == (7, limits, False)
    assert config.agents == (
        AgentInfo("two", ("1", "2"), "2"),
        AgentInfo("none", (), None),
        AgentInfo("one", ("1",), None),
    )


def test_an_app_configures_resume_window_observers_and_restartable_agents() -> None:
    observers = {"bob": {"*": "observe"}}
    app = App("example", "0.1.0", anonymous=True, resume_window=7, observers=observers)
    app.agent("again", version="1", restartable=True)(agent)
    app.agent("once")(agent)

    config = app.config()

    assert (config.resume_window_sec, config.observers, config.journal) == (7, observers, False)
    assert [info.restartable for info in config.agents] == [True, False]
    assert App("example", "0.1.0", anonymous=True).config().resume_window_sec == 600


def test_versions_of_an_agent_are_all_restartable_or_none(app: App) -> None:
    app.agent("two", version="1", restartable=True)(agent)
    app.agent("two", version="2", default=True)(agent)
    with pytest.raises(ValueError, match="two has restartable versions and others"):
        app.config()


def test_an_app_without_authentication_is_not_served() -> None:
    with pytest.raises(ValueError, match=r"tokens=.*auth=.*anonymous=True"):
        App("example", "0.1.0").config()


@pytest.mark.parametrize("options", [{"tokens": {}}, {"auth": str.upper}, {"anonymous": True}])
def test_each_kind_of_authentication_is_enough(options: dict[str, Any]) -> None:
    assert App("example", "0.1.0", **options).config().agents == ()


def test_tokens_together_with_a_verifier_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        App("example", "0.1.0", tokens={"a": "b"}, auth=str.upper)


def test_max_threads_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="max_threads"):
        App("example", "0.1.0", anonymous=True, max_threads=0)


@pytest.mark.parametrize("name", ["", "Echo", "-echo", "a b", "echo@1", "e/cho", "é", "x" * 300])
def test_a_bad_name_is_refused_at_once(app: App, name: str) -> None:
    with pytest.raises(ValueError):
        app.agent(name)(agent)
    assert app.config().agents == ()


@pytest.mark.parametrize("version", ["", "1 0", "1@0", "é"])
def test_a_bad_version_is_refused_at_once(app: App, version: str) -> None:
    with pytest.raises(ValueError):
        app.agent("echo", version=version)(agent)


def test_an_agent_registered_twice_is_refused(app: App) -> None:
    app.agent("echo", version="1")(agent)
    with pytest.raises(ValueError, match="echo@1 is registered already"):
        app.agent("echo", version="1")(plain)
    assert app.find("echo", "1").function is agent


@pytest.mark.parametrize(("first", "second"), [(None, "1"), ("1", None)])
def test_an_agent_has_versions_or_none(app: App, first: str | None, second: str | None) -> None:
    app.agent("echo", version=first)(agent)
    with pytest.raises(ValueError, match="give each a version"):
        app.agent("echo", version=second)(agent)


def test_two_default_versions_are_refused(app: App) -> None:
    app.agent("echo", version="1", default=True)(agent)
    with pytest.raises(ValueError, match="a default version already"):
        app.agent("echo", version="2", default=True)(agent)


def test_several_versions_need_a_default(app: App) -> None:
    app.agent("echo", version="1")(agent)
    app.agent("echo", version="2")(agent)
    with pytest.raises(ValueError, match="echo has the versions 1, 2: mark one"):
        app.config()


class Callable:
    async def __call__(self, job: Any, input: Any) -> None:
        pass

    def method(self, job: Any, input: Any, more: int = 0) -> None:
        pass


@pytest.mark.parametrize(
    ("function", "is_async"),
    [
        (Callable(), True),
        (Callable().method, False),
        (functools.partial(agent), True),
        (lambda job, input: None, False),
        (lambda *arguments: None, False),
    ],
)
def test_callables_of_a_job_and_an_input_are_agents(app: App, function: Any, is_async: bool) -> None:
    app.agent("echo")(function)
    assert app.find("echo", None).is_async is is_async


async def of_one(job: Any) -> None:
    pass


async def of_three(job: Any, input: Any, more: Any) -> None:
    pass


async def generates_later(job: Any, input: Any) -> Any:
    yield input


def generates(job: Any, input: Any) -> Any:
    yield input


@pytest.mark.parametrize("function", [of_one, of_three, generates, generates_later, None, "agent", 7])
def test_other_callables_are_refused_as_agents(app: App, function: Any) -> None:
    with pytest.raises(TypeError, match="echo: an agent"):
        app.agent("echo")(function)
    assert app.config().agents == ()


def test_an_unknown_isolation_is_refused(app: App) -> None:
    isolation: Any = "thread"
    with pytest.raises(ValueError, match='isolation is None or "process"'):
        app.agent("echo", isolation=isolation)(agent)


def test_the_repr_of_an_app_names_agents_and_no_token(app: App) -> None:
    assert repr(app) == "<App example 0.1.0: no agents>"
    app.agent("echo")(agent)
    assert repr(app) == "<App example 0.1.0: echo>"
