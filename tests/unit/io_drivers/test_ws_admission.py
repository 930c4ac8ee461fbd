"""Admission: the requests that a listener accepts, by path, Host and Origin."""

from __future__ import annotations

import pytest

from arcp_io.drivers.websocket import ServerCodec
from arcp_io.drivers.ws_admission import Admission


def request(path: str = "/arcp", host: str = "localhost:7777", extra: str = "") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    ).encode("latin-1")


def status(admission: Admission, head: bytes) -> int | None:
    """Return the status of the answer to a request, and check that each status but 101 ends the stream."""
    server = ServerCodec(admission, limit=100)
    server.receive(head)
    assert server.finished is (server.status != 101)
    assert server.data_to_send().startswith(f"HTTP/1.1 {server.status} ".encode())
    return server.status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "localhost:",
        "127.0.0.1:7777",
        "[::1]",
        "[::1]:7777",
        "[0:0:0:0:0:0:0:1]:80",
    ],
)
def test_loopback_hosts_by_default(host: str) -> None:
    assert status(Admission(), request(host=host)) == 101


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.com",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "example.com:localhost",
        "[::2]:7777",
        "[::1]x",
        "[::1",
        "localhost:port",
        "user@localhost",
        "localhost, example.com",
        "\xe9",
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    assert status(Admission(), request(host=host)) == 403


def test_one_host_only() -> None:
    assert status(Admission(), request(extra="Host: localhost\r\n")) == 403
    assert status(Admission(), request().replace(b"Host: localhost:7777\r\n", b"")) == 403


def test_listed_hosts_replace_the_default() -> None:
    admission = Admission(hosts=("Example.com:8443", "fe80::1", "10.0.0.1"))
    expected = {
        "example.com:8443": 101,
        "example.com": 403,
        "example.com:80": 403,
        "[FE80::1]:9": 101,
        "10.0.0.1:9": 101,
        "localhost": 403,
    }
    assert {host: status(admission, request(host=host)) for host in expected} == expected


def test_origins_are_refused_unless_listed() -> None:
    listed = Admission(origins=("https://app.example",))
    here, elsewhere = "Origin: https://app.example\r\n", "Origin: https://app.example.com\r\n"
    assert status(Admission(), request(extra=here)) == 403
    assert status(listed, request(extra=here)) == 101
    assert status(listed, request(extra=elsewhere)) == 403
    assert status(listed, request(extra="Origin: null\r\n")) == 403
    assert status(listed, request(extra=here + here)) == 400
    assert status(listed, request()) == 101


@pytest.mark.parametrize("path", ["/", "/arcp/", "/arcpx", "/ARCP", "/x?/arcp", "/%61rcp"])
def test_other_paths_are_not_found(path: str) -> None:
    assert status(Admission(), request(path)) == 404


def test_path_is_configurable() -> None:
    assert status(Admission(path="/agents"), request("/agents?")) == 101
    assert status(Admission(path="/agents"), request("/arcp")) == 404


def test_a_foreign_host_gets_the_same_answer_for_every_path() -> None:
    assert status(Admission(), request("/nowhere", host="evil.example")) == 403


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["arcp"], "arcp"),
        (["arcp.v1"], "arcp.v1"),
        (["chat, arcp.v1.1, arcp"], "arcp.v1.1"),
        (["chat", "arcp"], "arcp"),
        (["chat"], None),
        (["arcpx", "ARCP", "x.arcp", "arcp-v1"], None),
        ([], None),
    ],
)
def test_the_first_offered_subprotocol_of_ours_is_answered(offered: list[str], chosen: str | None) -> None:
    server = ServerCodec(Admission(), limit=100)
    server.receive(request(extra="".join(f"Sec-WebSocket-Protocol: {names}\r\n" for names in offered)))
    assert server.status == 101
    head = server.data_to_send().decode()
    answered = [line for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Protocol:")]
    assert answered == ([] if chosen is None else [f"Sec-WebSocket-Protocol: {chosen}"])
