"""The gateway of a node: takes connections of clients, and brings each to the owner of its shard.

A connection begins in the lobby. Its first message says to which shard it belongs: by the principal of its
token, which is verified here once, or by the label of its resume token. If this node serves the shard, the
connection moves to the server of the shard, which gets every message again. Otherwise its bytes are relayed
to the node that owns the shard; the client waits meanwhile, for PLACING_SEC at most.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.drivers.descriptors import descriptors, room_of
from arcp_io.drivers.door import since_boot
from arcp_io.drivers.loop import Connected, Listening
from arcp_io.drivers.sockets import is_loopback, is_private
from arcp_io.drivers.transport import ByteStream, StreamTransport
from arcp_io.drivers.websocket import ServerCodec, TappedCodec
from arcp_io.drivers.ws_admission import Admission
from arcp_io.server.auth import TemporarilyUnavailable, Verified, holds_token, verify
from arcp_io.server.server import Server, most_controls
from arcp_proto import (
    SECOND,
    Authenticate,
    CloseCode,
    Connection,
    Framing,
    LocalProtocolError,
    TokenScope,
)
from arcp_proto.wire import look

from .dials import Dials
from .guests import tenant_asked
from .lobby import Lobby
from .ownership import Route
from .placing import is_anonymous, may_be_known, names_its_shard, shard_of, shard_of_label
from .relay_dial import NotTaken, dial_owner
from .relay_handshake import Answer
from .relay_header import MAX_PEER, RelayHeader, RelayRefused
from .splice import Splice, Splices

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.drivers.loop import Loop
    from arcp_io.drivers.node_tls import NodeTls
    from arcp_io.server.audit_log import Auditor
    from arcp_io.server.entrance import Entrance

    from .beating import Beating
    from .ownership import Ownership
    from .shards import Shards

logger = logging.getLogger("arcp_io")

PLACING_SEC: Final = 10.0
"""Seconds for which the owner of the shard of a client is looked for."""
RESTORING_SEC: Final = 5.0
"""Seconds of these for which a client stays in the lobby while its shard is restored here."""
REVOKING_SEC: Final = 2.0
"""Seconds that the owner of a relayed connection has to end it when its bearer token was revoked."""
PAUSE_SEC: Final = 0.05
"""Seconds between an owner that does not take a connection and the next reading of the store."""
NOT_FOUND: Final = "no node serves the session at the moment"
"""The reason that a client is told after PLACING_SEC."""


class Client:
    """A connection in the lobby."""

    def __init__(self, codec: TappedCodec, *, secure: bool, peer: str) -> None:
        self.codec = codec
        self.secure = secure
        self.peer = peer
        self.transport: StreamTransport
        self.looked = False
        """Whether the first message was looked at."""
        self.placed = False
        """Whether the client is being brought to its shard, so that the lobby gets nothing more of it."""
        self.throttled = False
        """Whether its token was not verified, because too many have failed where it comes from."""
        self.tenant: str | None = None
        """The tenant of the session, if the gateway knows it: its principal's, or one that a guest visits."""
        self.guest = False
        """Whether the client is a guest of that tenant."""
        self.refused = ""
        """Why the owner of its shard did not take it when it was asked last, which is in the log."""


class Gateway:
    """The connections of clients of a node, until they are where they belong."""

    def __init__(
        self,
        app: App,
        loop: Loop,
        auditor: Auditor,
        shards: Shards,
        ownership: Ownership,
        beating: Beating,
        *,
        count: int,
        key: bytes,
        tls: NodeTls | None,
    ) -> None:
        """Serve an App; `count` is the number of shards, `key` that of this node, `tls` that of all nodes."""
        self.lobby = Lobby(app, loop, auditor, self._authenticate)
        self.lobby.pump.takes = self._takes
        self.lobby.on_ended = self._ended
        self.splices = Splices(loop)
        self.host, self.port, self.url = "", 0, ""
        self.secure = False
        self._app = app
        self._loop = loop
        self._shards = shards
        self._ownership = ownership
        self._beating = beating
        self._count = count
        self._key = key
        self._tls = tls
        self._room = room_of(descriptors())
        self._clients: dict[Connection, Client] = {}
        self._listening: list[Listening] = []
        self._closing = False
        self._dials = Dials(since_boot)
        beating.on_reading = self._read

    @property
    def connections(self) -> int:
        """How many descriptors the connections of clients and other nodes take."""
        served = sum(server.runtime.connection_count for server in self._shards.servers)
        return self.lobby.runtime.connection_count + served + 2 * len(self.splices)

    @property
    def trouble(self) -> str:
        """Why a load balancer should send no clients here; empty if it should."""
        if self._closing:
            return "the node is shutting down"
        if self._beating.trouble:
            return self._beating.trouble
        unreachable = self._dials.unreachable(self._beating.beats)
        return f"{len(unreachable)} live nodes that own shards are out of reach" if unreachable else ""

    async def listen(self, entrance: Entrance, admission: Admission) -> None:
        """Accept WebSockets where `entrance` says; raises OSError, and ValueError as `Entrance.open`."""
        listeners, context = await entrance.open(), entrance.ssl_context
        private = all(map(is_private, listeners))
        self.secure = context is not None or (self._app.secure_loopback and private)
        accepted = partial(self._accepted, admission)
        self.host, self.port, self.url = entrance.address(listeners)
        for listener in listeners:
            self._listening.append(await self._loop.listen(listener, context, accepted))

    def stop_listening(self) -> None:
        """Accept no more connections of clients."""
        self._closing = True
        for listening in self._listening:
            listening.close()

    # Connections of clients.

    def _accepted(self, admission: Admission, stream: ByteStream, peer: str) -> StreamTransport:
        lobby = self.lobby
        connection = lobby.runtime.connect(
            Framing.MESSAGES, secure=self.secure, peer=peer, now=lobby.pump.now()
        )
        codec = TappedCodec(admission, limit=connection.message_limit)
        codec.most_controls = self._most_controls(connection)
        client = self._clients[connection] = Client(codec, secure=self.secure, peer=peer)
        client.transport = StreamTransport(lobby.pump, connection, codec, stream, movable=True)
        if self._closing:
            client.transport.close(CloseCode.SERVICE_RESTART, "the node is shutting down", abort=True)
        elif self.connections > self._room:
            lobby.refusals.full(self._room)
            client.transport.close(CloseCode.TRY_AGAIN_LATER, "there are too many connections", abort=True)
        lobby.pump.run()
        return client.transport

    def _most_controls(self, connection: Connection) -> Callable[[], int]:
        return partial(most_controls, connection, self._app.limits.max_early_control_frames)

    def _ended(self, connection: Connection) -> None:
        self._clients.pop(connection, None)

    def _takes(self, connection: Connection, message: bytes) -> bool:
        """Return whether the lobby gets a message of a client: not if the first one names the shard."""
        client = self._clients.get(connection)
        if client is None or client.placed:
            return client is None
        if client.looked:
            return True
        client.looked = True
        first = look(message, limit=self._app.limits.max_early_message_bytes)
        client.throttled = may_be_known(first) and self.lobby.throttles(client.peer)
        if client.throttled or names_its_shard(first):
            shard = shard_of_label(first.label, self._count)
            if shard is None:
                return True
            self._begin(client, shard, None)
            return False
        if self._app.anonymous and is_anonymous(first):
            asked = tenant_asked(client.codec.target or "")
            if asked is not None:  # A client without a name has no rights; the runtime tells it.
                client.tenant, client.guest = asked, True
            self._begin(client, None if asked is None else shard_of(asked, self._count), None)
            return False
        return True

    # Tokens.

    def end_revoked(self) -> None:
        """End the connections of bearer tokens that the verifier does not hold any longer.

        The runtimes of this node tell their clients. Relayed connections are ended by their owners, and cut
        here later if an owner still holds the token.
        """
        for server in self._shards.servers:
            server.tokens.end_revoked()
        self._loop.start(self._cut_revoked, "arcp-io revoked tokens")

    async def _cut_revoked(self) -> None:
        await anyio.sleep(REVOKING_SEC)
        try:
            self.splices.revoke(partial(holds_token, self._app.verifier))
        except Exception:
            logger.exception("the verifier failed (App.verifier)")

    def _held(self, verified: Verified | None) -> Verified | None:
        """Return what is known of a bearer token, or None if it was revoked: its server asks then."""
        try:
            still = verified is not None and holds_token(self._app.verifier, verified.token_id)
        except Exception:
            logger.exception("the verifier failed (App.verifier)")
            return None
        return verified if still else None

    def _authenticate(self, request: Authenticate) -> None:
        self._loop.start(partial(self._verify, request), "arcp-io authentication")

    async def _verify(self, request: Authenticate) -> None:
        """Bring the client of a valid token to its shard, and answer the lobby for any other token."""
        verified, expires, own, failed = None, None, "", False
        try:
            if self._app.verifier is not None and request.principal is None:
                verified = await verify(self._app.verifier, request.token)
            if verified is not None:
                expires = verified.expires_ns
                own = self._app.tenant_of(verified.principal)
        except TemporarilyUnavailable as error:
            failed = True
            logger.info("a token could not be verified: %s", error)
        except (Exception, SystemExit, KeyboardInterrupt):
            failed = True
            logger.exception("the verifier failed (App.verifier, App.tenant)")
        client = self._clients.get(request.connection)
        if failed or verified is None:
            self.lobby.answer(request, None, expires, failed)
        elif client is not None:
            client.placed = True
            asked = tenant_asked(client.codec.target or "")
            client.tenant = own if asked is None else asked
            client.guest = client.tenant != own
            await self._place(client, shard_of(client.tenant, self._count), verified)

    # Bringing clients to their shards.

    def _begin(self, client: Client, shard: int | None, verified: Verified | None) -> None:
        client.placed = True
        self._loop.start(partial(self._place, client, shard, verified), "arcp-io gateway")

    async def _place(self, client: Client, shard: int | None, verified: Verified | None) -> None:
        """Bring a client to a shard, or without one to any, or close its connection."""
        if shard is None:
            shard = self._any_shard()
        with anyio.move_on_after(PLACING_SEC):
            if await self._move(client, shard, verified):
                return
            splice = self._release(client)
            if splice is None:
                return
            try:
                await self._relay(client, splice, shard, verified)
            finally:
                if not splice.epoch:
                    splice.refuse(_closing(CloseCode.SERVICE_RESTART, NOT_FOUND))

    def _any_shard(self) -> int:
        """Return a shard for a session without a principal: one of our own, if there is one."""
        own = [shard for shard in range(self._count) if self._shards.server(shard) is not None]
        return random.choice(own or range(self._count))

    async def _move(self, client: Client, shard: int, verified: Verified | None) -> bool:
        """Move a connection to the server of its shard in this process; return whether that is done."""
        server = None
        with anyio.move_on_after(RESTORING_SEC):
            await self._loop.checkpoint()  # The transport is not moved within its own report.
            server = await self._shards.restored(shard)
        if client.transport.gone:
            return True
        if server is None:
            return False
        if client.throttled:
            server.tokens.throttle(client.peer)
        connection = server.connect(
            Framing.MESSAGES,
            secure=client.secure,
            peer=client.peer,
            verified=self._held(verified),
            tenant=client.tenant,
            guest=client.guest,
        )
        client.codec.untap()
        client.codec.most_controls = self._most_controls(connection)
        try:
            client.transport.move(server.pump, connection)
        except LocalProtocolError:  # The lobby is closing it.
            server.pump.lost(connection, "the client is gone")
        server.pump.run()
        return True

    def _release(self, client: Client) -> Splice | None:
        """Take the stream of a client out of the lobby; None if it is gone, or has sent too much."""
        try:
            first = client.codec.untap()
            if first is None:
                client.transport.close(CloseCode.MESSAGE_TOO_BIG, "too much before the welcome", abort=False)
                return None
            stream, writing = client.transport.release()
        except LocalProtocolError:
            return None
        return self.splices.begin(stream, first, writing=writing)

    async def _relay(self, client: Client, splice: Splice, shard: int, verified: Verified | None) -> None:
        """Dial the owner of a shard until one takes the connection, or the client is gone."""
        while not splice.over:
            epoch = self._shards.epoch(shard)
            if epoch is None:
                route = self._ownership.route(shard)
            else:  # It was claimed since the client came, perhaps after the last reading.
                await self._shards.restored(shard)
                route = Route(self._ownership.node, self._ownership.address, self._key, epoch)
            if route is not None and await self._dial(client, splice, shard, route, verified):
                return
            self._ownership.wanted(shard)
            await anyio.sleep(PAUSE_SEC)
            await self._beating.next_reading()

    async def _dial(
        self, client: Client, splice: Splice, shard: int, route: Route, verified: Verified | None
    ) -> bool:
        host, port = split_address(route.address)
        verified = self._held(verified)
        header = RelayHeader(
            shard,
            route.epoch,
            None if verified is None else verified.principal,
            None if verified is None else verified.expires_ns,
            client.secure and (self._tls is not None or is_loopback(host)),
            client.peer[:MAX_PEER],
            client.throttled,
            client.tenant if client.guest else None,
            None if verified is None else verified.scope,
            "" if verified is None else verified.token_id,
        )
        context = None if self._tls is None else self._tls.client
        try:
            owner = await dial_owner(self._loop, (host, port), context, header, route.key)
        except (OSError, RelayRefused, ValueError) as error:
            if client.refused != str(error):
                logger.info("the owner of shard %d at %s takes no client: %s", shard, route.address, error)
            client.refused = str(error)
            if isinstance(error, NotTaken):
                self._dials.reached(route.node)
            else:
                self._dials.failed(route.node, self._beating.beats.get(route.node, 0))
            return False
        self._dials.reached(route.node)
        splice.token_id = header.token_id
        owner.join(splice)
        if verified is not None and self._held(verified) is None:  # It was revoked meanwhile.
            splice.abort()
        return True

    def _read(self) -> None:
        """Cut the connections to owners that are not owners any longer, and forget failed dials."""
        self._dials.read(self._beating.beats)
        routes = ((shard, self._ownership.route(shard)) for shard in range(self._count))
        self.splices.cut({shard: route.epoch for shard, route in routes if route is not None})

    # Connections that other nodes relay to us.

    def admit(self, header: RelayHeader) -> Connected | Answer:
        """Decide about a connection that another gateway relays."""
        if not self._shards.owns(header.shard, header.epoch):
            return Answer.NOT_OWNER
        server = self._shards.server(header.shard)
        if server is None:
            self._shards.want(header.shard)
            return Answer.TRY_AGAIN
        if self._beating.held or self.connections > self._room:
            return Answer.TRY_AGAIN
        tenant = header.guest
        if tenant is not None and shard_of(tenant, self._count) != header.shard:
            return Answer.BAD_HEADER
        try:
            if tenant is None and header.principal is not None:
                tenant = self._app.tenant_of(header.principal)
        except Exception:
            logger.exception("the function of App(tenant=...) failed")
            return Answer.TRY_AGAIN
        return partial(self._take, server, header, tenant)

    def _take(
        self, server: Server, header: RelayHeader, tenant: str | None, stream: ByteStream
    ) -> StreamTransport:
        verified = None
        if header.principal is not None:
            expires = None if header.expires is None else header.expires / SECOND
            scope = header.scope or TokenScope()
            verified = Verified(header.principal, expires, scope.agents, scope.ceilings, header.token_id)
        if header.throttled:
            server.tokens.throttle(header.peer)
        connection = server.connect(
            Framing.MESSAGES,
            secure=header.secure,
            peer=header.peer,
            verified=verified,
            tenant=tenant,
            guest=header.guest is not None,
        )
        codec = ServerCodec.opened(limit=connection.message_limit)
        codec.most_controls = self._most_controls(connection)
        transport = StreamTransport(server.pump, connection, codec, stream)
        if self._shards.server(header.shard) is not server:
            transport.close(CloseCode.SERVICE_RESTART, NOT_FOUND, abort=True)
        server.pump.run()
        return transport


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _closing(code: int, reason: str) -> bytes:
    """Return the close frame for a client whose connection no server carries."""
    codec = ServerCodec.opened(limit=0)
    codec.close(code, reason)
    return codec.data_to_send()
