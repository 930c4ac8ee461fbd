"""The steps of a connection to a runtime, one by one: what works, what does not, and the remedy."""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.http11 import Response
from websockets.typing import Origin
from websockets.uri import parse_uri

from arcp_io.client.store import MemoryStore
from arcp_io.errors import ArcpError, Unauthenticated
from arcp_proto import ClientConfig

from .error_text import reason_of
from .exit_codes import Exit
from .job_request import Server
from .ping import round_trip_ms

if TYPE_CHECKING:
    from arcp_io.client.session import Session

PATIENCE: Final = 10.0
"""Seconds that one step may take."""
MOST_ADDRESSES: Final = 8
"""Addresses of one name that are tried."""
LEAST_DAYS: Final = 14
"""Days that a certificate should still be valid."""
MOST_SKEW: Final = 2.0
"""Seconds that clocks may differ; the time of the runtime is known to a second."""
ROUND_TRIPS: Final = 5
"""Requests of which the fastest and the slowest answer are told."""
HEAD_BYTES: Final = 64 * 1024
"""Bytes of an answer to the opening request, at most."""


class Finding(NamedTuple):
    """The result of one check: `state` is ok, note, failed or skipped; `advice` is the remedy, or empty."""

    check: str
    state: str
    detail: str
    advice: str = ""


class _Stop(Exception):
    """A check has failed, without which the later ones cannot be made."""


class _Seen(NamedTuple):
    """A session, as its first connection has shown it; the trips are in milliseconds, the fastest first."""

    session_id: str
    runtime: str
    features: frozenset[str]
    window_sec: int
    trips: Sequence[float]


class Checkup:
    """The checks of one runtime; `exit` is that of the first one that failed."""

    def __init__(
        self, server: Server, origin: str | None, tell: Callable[[Finding], Awaitable[None]]
    ) -> None:
        """Check a server, and pass each finding to `tell`; `origin` is that of a web page, or None."""
        self.exit = Exit.SUCCESS
        self._server = server
        self._origin = origin
        self._tell = tell
        parts = urlsplit(server.url)
        self._secure = parts.scheme == "wss"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._path = parts.path or "/"
        self._addresses: Sequence[str] = ()
        self._date = ""
        """The time of the runtime in its answer to the opening request."""
        self._seen: _Seen
        self._store = _Kept()

    async def run(self) -> None:
        """Make the checks in their order; those behind one that they need are skipped."""
        left = [name for name, _ in STEPS]
        try:
            for name, step in STEPS:
                left.remove(name)
                await step(self)
        except _Stop:
            for name in left:
                await self._tell(Finding(name, "skipped", "an earlier check failed"))

    # Checks of the network.

    async def _dns(self) -> None:
        if _is_address(self._host):
            self._addresses = [self._host]
            await self._ok("dns", f"{self._host} is an address")
            return
        begun = time.perf_counter()
        try:
            found = await self._in_time(anyio.getaddrinfo(self._host, self._port, proto=6))
        except OSError as error:
            await self._failed(
                "dns",
                f"{self._host} has no address: {error.strerror or error}",
                "check the name for a typo, and the DNS or the VPN of this machine",
            )
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        self._addresses = addresses[:MOST_ADDRESSES]
        await self._ok("dns", f"{self._host} is {', '.join(addresses)}, {_ms(begun)}")

    async def _tcp(self) -> None:
        works: list[str] = []
        faults: list[str] = []
        for address in self._addresses:
            begun = time.perf_counter()
            try:
                stream = await self._in_time(anyio.connect_tcp(address, self._port))
                await stream.aclose()
            except OSError as error:
                faults.append(f"{address} port {self._port}: {reason_of(error.__cause__ or error)}")
            else:
                works.append(f"{address} port {self._port}, {_ms(begun)}")
        if not works:
            await self._failed(
                "tcp",
                "; ".join(faults),
                "check that 'arcp-io serve' runs there on this port and on an address that this machine"
                " reaches (--host), and that no firewall is between",
            )
        elif faults:
            advice = "clients may try the other addresses first, and wait: remove them from the DNS"
            await self._note("tcp", f"{'; '.join(works)}; but {'; '.join(faults)}", advice)
        else:
            await self._ok("tcp", "; ".join(works))

    async def _tls(self) -> None:
        if not self._secure:
            await self._note(
                "tls", "not used: the address begins with ws://", "use wss:// beyond this machine"
            )
            return
        try:
            stream = await self._in_time(self._stream())
        except ssl.SSLCertVerificationError as error:
            await self._failed("tls", f"certificate verify failed: {error.verify_message}", _of_tls(error))
        except OSError as error:
            await self._failed(
                "tls", reason_of(error), "if the runtime does not use TLS, its address begins with ws://"
            )
        async with stream:
            version = stream.extra(TLSAttribute.tls_version, "TLS")
            certificate: Any = stream.extra(TLSAttribute.peer_certificate, None) or {}
        days = _days_left(certificate)
        told = f"{version}, certificate valid for {days} days" if days is not None else str(version)
        if days is not None and days < LEAST_DAYS:
            await self._note("tls", told, "renew the certificate, and restart the runtime or its proxy")
        else:
            await self._ok("tls", told)

    # Checks of the opening request.

    async def _websocket(self) -> None:
        begun = time.perf_counter()
        try:
            answer = await self._in_time(self._opened(None))
        except (OSError, WebSocketException) as error:
            await self._failed(
                "websocket",
                f"the answer to the opening request is not that of a WebSocket: {reason_of(error)}",
                "if the runtime uses TLS, its address begins with wss://; else another program listens there",
            )
        self._date = answer.headers.get("Date", "")
        if answer.status_code == 101:
            await self._ok("websocket", f"path {self._path}, Host {self._host}, {_ms(begun)}")
            return
        advice = BY_HTTP_STATUS.get(answer.status_code, "check the address, and each proxy on the way")
        place = answer.headers.get("Location", "")
        detail = f"HTTP {answer.status_code}{f' to {place}' if place else ''} for path {self._path}"
        await self._failed("websocket", detail, advice.format(host=self._host))

    async def _check_origin(self) -> None:
        if self._origin is None:
            await self._tell(Finding("origin", "skipped", "give --origin to check a web page"))
            return
        try:
            answer = await self._in_time(self._opened(self._origin))
        except (OSError, WebSocketException) as error:
            said = reason_of(error)
        else:
            said = f"HTTP {answer.status_code}"
            if answer.status_code == 101:
                await self._ok("origin", f"pages of {self._origin} may connect")
                return
        self._fail_with(Exit.ERROR)
        detail = f"{said} for pages of {self._origin}"
        advice = f"admit them: arcp-io serve --origin {self._origin}"
        await self._tell(Finding("origin", "failed", detail, advice))

    async def _clock(self) -> None:
        try:
            theirs = parsedate_to_datetime(self._date)
        except (ValueError, TypeError):
            await self._tell(Finding("clock", "skipped", "the answer has no time"))
            return
        skew = (theirs.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds() + 0.5
        if abs(skew) <= MOST_SKEW:
            await self._ok("clock", f"differs by {abs(skew):.0f} s or less")
            return
        where = "ahead of" if skew > 0 else "behind"
        await self._note(
            "clock",
            f"that of the runtime is {abs(skew):,.0f} s {where} this one",
            "times that you give, such as --expires, are off by that: run NTP on both machines",
        )

    # Checks of the session.

    async def _token(self) -> None:
        begun = time.perf_counter()
        try:
            await self._in_time(self._in_session(self._look))
        except Unauthenticated as error:
            if self._server.token is None:
                advice = "set ARCP_TOKEN, or give --token TOKEN or --token-file FILE"
            else:
                advice = f"the runtime does not accept the token of {self._server.token_from}: get a new one"
            await self._failed("token", f"{error.code} {error.message}", advice, Exit.UNAUTHENTICATED)
        except (ArcpError, OSError) as error:
            await self._failed("token", reason_of(error), "see the log of the runtime", Exit.ERROR)
        whose = "accepted" if self._server.token is not None else "none given, and none needed"
        await self._ok("token", f"{whose}, {_ms(begun)}")

    async def _look(self, session: Session) -> None:
        trips = [await round_trip_ms(session) for _ in range(ROUND_TRIPS)]
        runtime = f"{session.runtime.name} {session.runtime.version}, {len(session.agents)} agents"
        self._seen = _Seen(session.id, runtime, session.features, session.resume_window_sec, sorted(trips))

    async def _version(self) -> None:
        await self._ok("version", f"ARCP 1.1, {self._seen.runtime}")

    async def _check_features(self) -> None:
        known = ClientConfig(name="", version="").features
        missing = [name for name in known if name not in self._seen.features]
        if not missing:
            await self._ok("features", f"all {len(self._seen.features)}")
            return
        advice = "requests that need them are refused: the runtime is older, or does not offer them"
        await self._note("features", f"{len(self._seen.features)}, without {', '.join(missing)}", advice)

    async def _round_trip(self) -> None:
        least, most = self._seen.trips[0], self._seen.trips[-1]
        await self._ok("round trip", f"{least:.2f} to {most:.2f} ms, {len(self._seen.trips)} requests")

    async def _resume(self) -> None:
        advice = (
            "a proxy may send connections to processes that do not share their sessions: lead all to one, or"
            " see 'Many nodes' in the documentation"
        )
        try:
            again = await self._in_time(self._in_session(_close))
        except (ArcpError, OSError) as error:
            self._fail_with(Exit.ERROR)
            await self._tell(Finding("resume", "failed", reason_of(error), advice))
            return
        if again == self._seen.session_id:
            await self._ok("resume", f"a dropped session went on; it is kept for {self._seen.window_sec} s")
            return
        self._fail_with(Exit.ERROR)
        await self._tell(Finding("resume", "failed", "the runtime no longer knew the session", advice))

    # Helpers of the checks.

    async def _in_session(self, use: Callable[[Session], Awaitable[Any]]) -> Any:
        from arcp_io import connect

        server = self._server
        async with connect(
            server.url,
            server.token,
            store=self._store,
            allow_plain=server.allow_plain,
            reconnect=False,
            ssl_context=server.ssl_context(),
        ) as session:
            return await use(session)

    async def _stream(self) -> ByteStream:
        """Connect, over TLS if the address says so; raises OSError."""
        stream: ByteStream = await anyio.connect_tcp(self._host, self._port)
        if not self._secure:
            return stream
        context = self._server.ssl_context() or ssl.create_default_context()
        try:
            return await TLSStream.wrap(
                stream, hostname=self._host, ssl_context=context, standard_compatible=False
            )
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _opened(self, origin: str | None) -> Response:
        """Return the answer to an opening request; raises OSError and WebSocketException."""
        url = parse_uri(self._server.url)
        protocol = ClientProtocol(url, origin=None if origin is None else Origin(origin))
        async with await self._stream() as stream:
            protocol.send_request(protocol.connect())
            for data in protocol.data_to_send():
                await stream.send(data)
            size = 0
            while not (events := protocol.events_received()):
                if protocol.handshake_exc is not None:
                    raise protocol.handshake_exc
                try:
                    data = await stream.receive()
                except anyio.EndOfStream:
                    protocol.receive_eof()
                    continue
                size += len(data)
                if size > HEAD_BYTES:
                    raise OSError("it does not end")
                protocol.receive_data(data)
        [answer, *_] = events
        if not isinstance(answer, Response):
            raise OSError("it is not an answer to the request")
        if answer.status_code == 101 and protocol.handshake_exc is not None:
            raise protocol.handshake_exc
        return answer

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        """Return the result of a step; raises OSError when it takes too long or the connection ends."""
        try:
            with anyio.fail_after(PATIENCE):
                return await work
        except TimeoutError:
            raise OSError(f"no answer in {PATIENCE:.0f} s") from None
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise OSError("the connection was closed") from None

    def _fail_with(self, code: Exit) -> None:
        self.exit = self.exit or code

    async def _ok(self, check: str, detail: str) -> None:
        await self._tell(Finding(check, "ok", detail))

    async def _note(self, check: str, detail: str, advice: str) -> None:
        await self._tell(Finding(check, "note", detail, advice))

    async def _failed(self, check: str, detail: str, advice: str, code: Exit = Exit.CONNECTION) -> None:
        self._fail_with(code)
        await self._tell(Finding(check, "failed", detail, advice))
        raise _Stop


STEPS: Final = (
    ("dns", Checkup._dns),
    ("tcp", Checkup._tcp),
    ("tls", Checkup._tls),
    ("websocket", Checkup._websocket),
    ("origin", Checkup._check_origin),
    ("clock", Checkup._clock),
    ("token", Checkup._token),
    ("version", Checkup._version),
    ("features", Checkup._check_features),
    ("round trip", Checkup._round_trip),
    ("resume", Checkup._resume),
)
"""The checks in their order."""

_PROXY: Final = "a proxy answers for the runtime, which does not run, or drains: see its log, and PATH/health"

BY_HTTP_STATUS: Final[Mapping[int, str]] = {
    **dict.fromkeys((301, 302, 307, 308), "use the address that the answer names, with ws:// or wss://"),
    200: "an HTTP server answers at this path without a WebSocket: check the path, and that a proxy passes"
    " the headers Upgrade and Connection on",
    400: "the runtime refuses the path or its query",
    401: "a proxy on the way asks for a login of its own",
    403: "no runtime is mounted at this path (most use /arcp below the mount), or the runtime or a proxy does"
    " not admit this Host: arcp-io serve --allow-host {host}, or asgi(hosts=...)",
    404: "no runtime serves this path; most runtimes use /arcp",
    426: "a proxy does not pass the headers Upgrade and Connection on",
    429: "there were too many requests: wait a minute",
    **dict.fromkeys((502, 503, 504), _PROXY),
}
"""Status of the answer to the opening request -> the remedy."""


class _Kept(MemoryStore):
    """A store that keeps a session without unfinished jobs, too."""

    def clear(self) -> None:
        """Keep the session."""


async def _close(session: Session) -> str:
    """End the session, and return its id."""
    await session.close()
    return session.id


def _of_tls(error: ssl.SSLCertVerificationError) -> str:
    """Return the remedy for a certificate that was not accepted."""
    said = error.verify_message.lower()
    if "hostname" in said or "ip address" in said:
        return "use a name of the certificate in the address, or get one for this name"
    if "expired" in said or "not yet valid" in said:
        return "renew the certificate, or correct the clock of this machine"
    return (
        "if the runtime has a certificate of an authority of your own, give its certificate with --cafile"
        " FILE, or set SSL_CERT_FILE"
    )


def _days_left(certificate: Mapping[str, Any]) -> int | None:
    ends = certificate.get("notAfter")
    return None if ends is None else int((ssl.cert_time_to_seconds(ends) - time.time()) // 86400)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _ms(begun: float) -> str:
    return f"{(time.perf_counter() - begun) * 1000:.1f} ms"
