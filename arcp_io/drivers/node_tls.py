"""TLS between nodes: both sides verify the certificate of the other one."""

from __future__ import annotations

import ssl
from typing import NamedTuple

from arcp_io.drivers.sockets import is_loopback


class NodeTls(NamedTuple):
    """The contexts of a node for connections of other nodes, and for its own connections to them."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def load_node_tls(certfile: str, keyfile: str | None, cafile: str) -> NodeTls:
    """Return the contexts of a node from its certificate, its key and the authority of all nodes.

    Certificates name the address that the other nodes dial. No authority of the system is trusted. Raises
    OSError for a file that cannot be read, and ValueError for one without a certificate or key.
    """
    for path in filter(None, (certfile, keyfile, cafile)):
        with open(path, "rb"):  # OpenSSL does not say which file it cannot open.
            pass
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(certfile, keyfile)
        except ssl.SSLError as error:
            named = certfile if keyfile is None else f"{certfile} and {keyfile}"
            raise ValueError(f"{named} do not hold a certificate and its key: {error}") from None
        try:
            context.load_verify_locations(cafile)
        except ssl.SSLError as error:
            raise ValueError(f"{cafile} does not hold certificates of an authority: {error}") from None
    return NodeTls(server, client)


def check_plain_nodes(host: str, tls: NodeTls | None, *, allow_plain: bool) -> None:
    """Raise ValueError if the bytes of clients would cross the network to or from a node in clear text."""
    if tls is None and not allow_plain and not is_loopback(host):
        raise ValueError(
            f"tokens would cross the network between {host} and other nodes in clear text: give a certificate"
            " with its key and the authority of all nodes, or allow plain nodes"
        )
