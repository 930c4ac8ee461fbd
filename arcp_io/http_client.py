"""HTTP clients of httpx that check the lease of a job for every request and every redirect (§9.3).

The check is in the transport, so it covers requests, redirects and retries of an authentication alike, and
the covered URL is sent, with its own Host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from arcp_proto import Denied, ErrorCode, LocalProtocolError
from arcp_proto.leases import MAX_PATTERN_BYTES, Namespace, Unfit, canonical, read_url

try:
    import httpx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "job.http_client() needs httpx: pip install 'arcp-io[http]'", name=error.name
    ) from None

CONNECTING: Final = ("verify", "cert", "http1", "http2", "limits", "proxy", "trust_env")
"""Options of a client that belong to its transport."""
KEPT: Final = ("timeout", "trace")
"""Extensions of a request that are passed on; others change the target or the server's name."""


class GatedTransport(httpx.AsyncBaseTransport):
    """Sends allowed requests through another transport, and raises Denied for others."""

    def __init__(
        self, fetch_allowed: Callable[[str], Awaitable[str]], inner: httpx.AsyncBaseTransport
    ) -> None:
        self._fetch_allowed = fetch_allowed
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Check the URL of a request, and send it."""
        url = str(request.url)
        try:
            allowed = await self._fetch_allowed(url)
        except Denied as denied:
            raise _explained(denied, url) from None
        _aim(request, allowed)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class BlockingGatedTransport(httpx.BaseTransport):
    """The transport for plain functions; reading a body ends when their job is to stop."""

    def __init__(
        self, fetch_allowed: Callable[[str], str], tell_stop: Callable[[], None], inner: httpx.BaseTransport
    ) -> None:
        self._fetch_allowed = fetch_allowed
        self._tell_stop = tell_stop
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Check the URL of a request, and send it."""
        url = str(request.url)
        try:
            allowed = self._fetch_allowed(url)
        except Denied as denied:
            raise _explained(denied, url) from None
        _aim(request, allowed)
        response = self._inner.handle_request(request)
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Body(response.stream, self._tell_stop)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class _Body(httpx.SyncByteStream):
    """The body of a response; the next piece raises AgentStopped once the job is to stop."""

    def __init__(self, stream: httpx.SyncByteStream, tell_stop: Callable[[], None]) -> None:
        self._stream = stream
        self._tell_stop = tell_stop

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._tell_stop()
            yield piece

    def close(self) -> None:
        self._stream.close()


def make_client(fetch_allowed: Callable[[str], Awaitable[str]], options: dict[str, Any]) -> httpx.AsyncClient:
    """Return a client with the options of `httpx.AsyncClient`; raises TypeError for `mounts`."""
    inner, rest = _split(options, httpx.AsyncHTTPTransport)
    return httpx.AsyncClient(transport=GatedTransport(fetch_allowed, inner), **rest)


def make_blocking_client(
    fetch_allowed: Callable[[str], str], tell_stop: Callable[[], None], options: dict[str, Any]
) -> httpx.Client:
    """Return a client with the options of `httpx.Client`; raises TypeError for `mounts`."""
    inner, rest = _split(options, httpx.HTTPTransport)
    return httpx.Client(transport=BlockingGatedTransport(fetch_allowed, tell_stop, inner), **rest)


def _split(options: dict[str, Any], make: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Return the inner transport, and the options of the client itself."""
    if "mounts" in options:
        raise TypeError("job.http_client() does not take mounts, which would bypass the check of the lease")
    connecting = {name: value for name, value in options.items() if name in CONNECTING}
    rest = {name: value for name, value in options.items() if name not in CONNECTING}
    inner = rest.pop("transport", None)
    if inner is None:
        return make(**connecting), rest
    if connecting:
        raise TypeError(f"give {', '.join(connecting)} to the transport, not beside it")
    return inner, rest


def _aim(request: httpx.Request, allowed: str) -> None:
    """Send a request to the URL that the lease covers, and nowhere else."""
    url = httpx.URL(allowed)
    if str(url) != allowed:
        raise LocalProtocolError(f"httpx reads {allowed!r} as {str(url)!r}")
    request.url = url
    request.headers["Host"] = url.netloc.decode("ascii")
    request.extensions = {name: value for name, value in request.extensions.items() if name in KEPT}


def _explained(denied: Denied, url: str) -> Denied:
    """Return a refusal that names the pattern which would cover the URL, or why none does."""
    if denied.code is not ErrorCode.PERMISSION_DENIED:
        return denied
    try:
        form = read_url(url)._replace(query="")
    except Unfit as unfit:
        return Denied(denied.code, f"{denied.message}; no lease covers it: the URL {unfit}", denied.details)
    if canonical(Namespace.NET_FETCH, url) is None:
        return denied
    pattern = form.text
    if len(pattern) > MAX_PATTERN_BYTES:
        pattern = form._replace(path="/**").text
    message = f"{denied.message}, such as {Namespace.NET_FETCH}: [{pattern!r}]"
    return Denied(denied.code, message, {**(denied.details or {}), "pattern": pattern})
