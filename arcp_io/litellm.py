"""Virtual keys of a LiteLLM proxy, or of a gateway with the same API, as credentials of jobs (§9.8.3).

A key is made with POST /key/generate and deleted with POST /key/delete, by its alias; GET /key/list confirms
that it is gone.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from arcp_io.agents.threads import call_in_thread
from arcp_io.drivers.sockets import is_loopback
from arcp_proto import Secret
from arcp_proto.leases import COST_BUDGET, MODEL_USE, Grants

from .provisioning import IssueContext, IssuedCredential, ProvisioningError, credential

RESPONSE_BYTES: Final = 1024 * 1024
GONE: Final = (200, 404)
"""HTTP statuses of a deletion after which the key is gone: it was deleted, or did not exist."""
EVERY_MODEL: Final = ("all-proxy-models", "all-team-models", "no-default-models")
"""Names in the `models` of a key that LiteLLM does not read as the name of one model."""
EXCEEDED: Final = "budget_exceeded"
"""The type of the error for an exhausted budget."""


class LiteLLMProvisioner:
    """Issues one virtual key for each job: for the models, the money and the time of its lease.

    Without `model.use` in the lease no key is issued, unless the host allows any model. A key is for the
    names in `models`, as the gateway knows them, that the lease covers, and for no others; if there are none,
    no key is issued. Money in other currencies than `currency` is not bounded by the key. For a lease without
    an end the key ends after `lifetime` seconds.
    """

    namespaces: Final = (MODEL_USE,)
    """The namespaces of leases that need a key: models only."""

    def __init__(
        self,
        url: str,
        master_key: str,
        *,
        endpoint: str | None = None,
        profile: str = "openai",
        models: Sequence[str] = (),
        currency: str = "USD",
        lifetime: int = 24 * 3600,
        timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
        allow_plain: bool = False,
    ) -> None:
        """Issue keys of a gateway.

        `url` is its management address, `endpoint` where keys are used, by default the same. Raises
        ValueError for an invalid URL, for http:// beyond this machine without `allow_plain`, and for a name
        in `models` that the gateway reads as several models.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError("the URL of a gateway is http(s)://host[:port][/path]")
        if parts.scheme == "http" and not allow_plain and not is_loopback(parts.hostname):
            raise ValueError(
                f"keys would cross the network to {parts.hostname} in clear text:"
                " use https://, or allow_plain=True"
            )
        for name in models:
            if not name or "*" in name or is_every_model(name):
                raise ValueError(
                    f"models has {name!r}, which a gateway reads as several models: name each model"
                )
        if lifetime < 1:
            raise ValueError("lifetime is at least 1 second")
        self._tls = parts.scheme == "https"
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path.rstrip("/")
        self._master_key = Secret(master_key)
        self._endpoint = endpoint or url
        self._profile = profile
        self._models = tuple(models)
        self._currency = currency
        self._lifetime = lifetime
        self._timeout = timeout
        self._ssl_context = ssl_context

    def __repr__(self) -> str:
        return f"<LiteLLMProvisioner {self._host}>"

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        """Return a new key.

        Raises ProvisioningError when the gateway makes none, and for a lease with a name that the gateway
        reads as several models.
        """
        models = self._allowed(context)
        if models is not None and not models:
            return []
        fields: dict[str, Any] = {
            "key_alias": context.alias,
            "duration": f"{self._seconds(context.expires_at)}s",
            "metadata": {"arcp_job_id": context.job_id, "arcp_principal": context.principal},
        }
        constraints: dict[str, Any] = {}
        left = context.budget.get(self._currency)
        if left is not None:
            if left <= 0:
                raise ProvisioningError("nothing is left of the budget", budget_exhausted=True)
            fields["max_budget"] = msgspec.Raw(f"{left:f}".encode())
            constraints[COST_BUDGET] = [f"{self._currency}:{left:f}"]
        if models is not None:
            fields["models"] = constraints[MODEL_USE] = models
        if context.expires_at is not None:
            constraints["expires_at"] = f"{context.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        status, answer = await self._ask("POST", "/key/generate", fields)
        key = answer.get("key") if isinstance(answer, dict) else None
        if status != 200 or not isinstance(key, str) or not key:
            exceeded = _error_type(answer) == EXCEEDED
            what = "has no money left for it" if exceeded else f"has made no key (HTTP {status})"
            raise ProvisioningError(f"the gateway {what}", budget_exhausted=exceeded)
        return [credential(key, self._endpoint, profile=self._profile, constraints=constraints or None)]

    async def revoke(self, name: str) -> None:
        """Delete a key by its alias, and verify that it is gone; raises ProvisioningError if not."""
        status, _ = await self._ask("POST", "/key/delete", {"key_aliases": [name]})
        query = urlencode({"key_alias": name, "return_full_object": "true"})
        listed, answer = await self._ask("GET", f"/key/list?{query}", None)
        keys = answer.get("keys") if isinstance(answer, dict) else None
        if listed != 200 or not isinstance(keys, list):
            raise ProvisioningError(f"the gateway does not say whether the key is gone (HTTP {listed})")
        left = [key for key in keys if not isinstance(key, dict) or key.get("key_alias") == name]
        if left:
            kept = (
                "says that it has deleted the key, and has not"
                if status in GONE
                else "has not deleted the key"
            )
            raise ProvisioningError(f"the gateway {kept} (HTTP {status})")

    def _allowed(self, context: IssueContext) -> list[str] | None:
        """Return the names that a key is for; None stands for every model. Raises ProvisioningError."""
        if context.any_model:
            return None
        patterns = context.lease.get(MODEL_USE, ())
        for pattern in patterns:
            if is_every_model(pattern):
                message = f"model.use names {pattern!r}, which the gateway takes for several models"
                raise ProvisioningError(f"{message}: name the models", final=True)
        grants = Grants.of({MODEL_USE: patterns})
        return [name for name in dict.fromkeys(self._models) if grants.allows(MODEL_USE, name)]

    def _seconds(self, expires_at: datetime | None) -> int:
        if expires_at is None:
            return self._lifetime
        left = (expires_at - datetime.now(UTC)).total_seconds()
        return max(1, min(int(left), self._lifetime))

    async def _ask(self, method: str, path: str, fields: Mapping[str, Any] | None) -> tuple[int, Any]:
        """Return the status and the JSON value of an answer, None if it is not JSON.

        Raises ProvisioningError when the gateway does not answer.
        """
        body = None if fields is None else msgspec.json.encode(fields)
        call = partial(self._call, method, self._path + path, body)
        try:
            return await call_in_thread(call, name="arcp-io gateway")
        except (OSError, http.client.HTTPException) as error:
            raise ProvisioningError(f"the gateway does not answer ({type(error).__name__})") from None

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        if self._tls:
            context = self._ssl_context or ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        headers = {"Authorization": f"Bearer {self._master_key.reveal()}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read(RESPONSE_BYTES)
        finally:
            connection.close()
        try:
            return answer.status, msgspec.json.decode(data)
        except (ValueError, RecursionError):  # Each error of msgspec is a ValueError, in every release.
            return answer.status, None


def is_every_model(name: str) -> bool:
    """Return whether LiteLLM reads a name as several models, in any case and with any surrounding spaces."""
    return name.strip().lower() in EVERY_MODEL


def _error_type(answer: Any) -> str | None:
    match answer:
        case {"error": {"type": str(kind)}} | {"detail": {"error": {"type": str(kind)}}}:
            return kind
    return None
