"""The provisioner of virtual keys against a gateway that does what is documented, and one that fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from arcp_io.litellm import LiteLLMProvisioner
from arcp_io.provisioning import IssueContext, ProvisioningError
from tests.io.gateway import MASTER, Gateway, gateway

pytestmark = pytest.mark.anyio


@pytest.fixture
def upstream() -> Iterator[Gateway]:
    with gateway() as state:
        yield state


def provisioner(upstream: Gateway, **options: Any) -> LiteLLMProvisioner:
    options.setdefault("models", ("fast/small", "fast/large", "slow/large"))
    return LiteLLMProvisioner(upstream.url, MASTER, endpoint=f"{upstream.url}/v1", **options)


def context(alias: str = "cred_1", *, models: tuple[str, ...] = ("fast/*",), **fields: Any) -> IssueContext:
    values: dict[str, Any] = {
        "job_id": "job_1",
        "principal": "alice",
        "agent": "echo",
        "version": None,
        "lease": {"model.use": models},
        "budget": {},
        "expires_at": None,
        "any_model": False,
        "rotation": False,
    }
    return IssueContext(alias, **{**values, **fields})


async def test_a_key_is_bounded_by_the_lease(upstream: Gateway) -> None:
    end = datetime.now(UTC) + timedelta(seconds=100)
    budget = {"USD": Decimal("5.250000001"), "EUR": Decimal(3)}
    [issued] = await provisioner(upstream).issue(context(budget=budget, expires_at=end))
    [(_, asked)] = upstream.requests
    assert asked["key_alias"] == "cred_1"
    assert asked["max_budget"] == 5.250000001
    assert asked["models"] == ["fast/small", "fast/large"]
    assert asked["duration"] in ("99s", "98s")
    [key] = upstream.keys.values()
    assert issued.value.reveal() == key.value
    assert issued.endpoint == f"{upstream.url}/v1"
    assert issued.constraints == {
        "cost.budget": ["USD:5.250000001"],
        "model.use": ["fast/small", "fast/large"],
        "expires_at": f"{end:%Y-%m-%dT%H:%M:%SZ}",
    }


async def test_a_lease_without_bounds_asks_for_a_key_without_bounds(upstream: Gateway) -> None:
    [issued] = await provisioner(upstream, lifetime=60).issue(context(any_model=True, lease={}))
    [(_, asked)] = upstream.requests
    assert "models" not in asked
    assert "max_budget" not in asked
    assert asked["duration"] == "60s"
    assert issued.constraints is None


@pytest.mark.parametrize("models", [(), ("other/*",)])
async def test_without_a_model_there_is_no_key(upstream: Gateway, models: tuple[str, ...]) -> None:
    assert await provisioner(upstream).issue(context(models=models)) == []
    assert upstream.requests == []


@pytest.mark.parametrize(
    "name", ["all-proxy-models", "all-team-models", "no-default-models", "ALL-Proxy-models "]
)
async def test_a_name_that_means_every_model_is_refused(upstream: Gateway, name: str) -> None:
    with pytest.raises(ProvisioningError, match="several models"):
        await provisioner(upstream).issue(context(models=("fast/small", name)))
    assert upstream.requests == []
    with pytest.raises(ValueError, match="several models"):
        provisioner(upstream, models=("fast/small", name))


@pytest.mark.parametrize("name", ["", "*", "openai/*"])
def test_a_model_of_the_gateway_has_one_name(name: str) -> None:
    with pytest.raises(ValueError, match="several models"):
        LiteLLMProvisioner("https://host", MASTER, models=("fast/small", name))


async def test_only_names_of_the_host_are_handed_on(upstream: Gateway) -> None:
    models = ("beta-access-group", "fast/small", "slow/*", "fast/unknown")
    [issued] = await provisioner(upstream).issue(context(models=models))
    [(_, asked)] = upstream.requests
    assert asked["models"] == ["fast/small", "slow/large"]
    assert issued.constraints == {"model.use": ["fast/small", "slow/large"]}
    assert await provisioner(upstream).issue(context("cred_2", models=("beta-access-group",))) == []
    assert await provisioner(upstream, models=()).issue(context("cred_3", models=("fast/small",))) == []
    assert len(upstream.requests) == 1


async def test_an_exhausted_budget_gets_no_key(upstream: Gateway) -> None:
    with pytest.raises(ProvisioningError) as failed:
        await provisioner(upstream).issue(context(budget={"USD": Decimal(0)}))
    assert failed.value.budget_exhausted
    assert upstream.requests == []


async def test_the_gateway_says_that_the_money_is_gone(upstream: Gateway) -> None:
    upstream.generate = ["broke"]
    with pytest.raises(ProvisioningError) as failed:
        await provisioner(upstream).issue(context())
    assert failed.value.budget_exhausted


@pytest.mark.parametrize("fault", ["500", "lost", "late", "text", "bytes", "deep"])
async def test_a_failure_is_told_without_a_secret(upstream: Gateway, fault: str) -> None:
    upstream.generate = [fault]
    with pytest.raises(ProvisioningError) as failed:
        await provisioner(upstream, timeout=0.2).issue(context())
    told = repr(failed.value) + failed.value.message
    assert MASTER not in told
    assert not any(value in told for value in upstream.values)


async def test_a_key_is_revoked_by_its_alias(upstream: Gateway) -> None:
    keys = provisioner(upstream)
    await keys.issue(context())
    await keys.issue(context("cred_2"))
    await keys.revoke("cred_1")
    assert upstream.aliases() == ["cred_2"]
    await keys.revoke("cred_1")
    await keys.revoke("never")


@pytest.mark.parametrize("fault", ["500", "lie"])
async def test_a_key_that_is_still_there_is_not_revoked(upstream: Gateway, fault: str) -> None:
    keys = provisioner(upstream)
    await keys.issue(context())
    upstream.delete = [fault]
    with pytest.raises(ProvisioningError):
        await keys.revoke("cred_1")
    await keys.revoke("cred_1")
    assert upstream.keys == {}


async def test_a_key_that_the_gateway_does_not_know_counts_as_revoked(upstream: Gateway) -> None:
    keys = provisioner(upstream)
    await keys.issue(context())
    upstream.delete = ["lost"]
    await keys.revoke("cred_1")


async def test_a_gateway_that_is_not_there_or_knows_another_master_key() -> None:
    with gateway() as state:
        wrong = LiteLLMProvisioner(state.url, "sk-wrong")
        with pytest.raises(ProvisioningError, match="HTTP 401"):
            await wrong.issue(context(any_model=True))
        with pytest.raises(ProvisioningError, match="HTTP 404"):
            await wrong.revoke("cred_1")
    with pytest.raises(ProvisioningError, match="does not answer"):
        await LiteLLMProvisioner(state.url, MASTER).issue(context(any_model=True))


async def test_to_a_gateway_of_https_nothing_goes_in_clear_text() -> None:
    """Check that the first bytes to the gateway belong to TLS, and do not contain the key."""
    came: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            came.append(accepted.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=answer, args=(listener,))
        answering.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ProvisioningError):
            await LiteLLMProvisioner(url, MASTER).issue(context(any_model=True))
        answering.join()
    [first] = came
    assert first[:1] == b"\x16"  # A record of TLS that holds a handshake.
    assert MASTER.encode() not in first


def test_a_url_that_is_not_a_gateway_is_refused() -> None:
    for url in ("ftp://x", "http://", "https://a:b@host", "https://host?x=1", "http://gateway.example"):
        with pytest.raises(ValueError):
            LiteLLMProvisioner(url, MASTER)
    with pytest.raises(ValueError):
        LiteLLMProvisioner("https://host", MASTER, lifetime=0)
    assert MASTER not in repr(LiteLLMProvisioner("https://host", MASTER))
