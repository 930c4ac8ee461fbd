"""Load balancers before nodes: HAProxy and nginx, with the configurations of the documentation."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import trustme

from tests.docs.pages import SNIPPETS
from tests.hanging import PATIENCE

PROGRAMS: Final = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}
"""The programs, and the names of their configurations."""
SYSTEM: Final = os.pathsep.join(("/usr/sbin", "/usr/local/sbin"))
"""Directories of programs that are not in the path of every user."""
NODES: Final = ("10.0.0.5:7777", "10.0.0.6:7777")
"""The nodes of the configurations."""


class Certificates(NamedTuple):
    """The files of an authority, of a certificate that it has signed, and of both parts in one."""

    authority: Path
    chain: Path
    key: Path
    both: Path

    def context(self) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority."""
        return ssl.create_default_context(cafile=str(self.authority))


def missing(program: str) -> str:
    """Return why a load balancer cannot be started; empty if it can."""
    return "" if _found(program) else f"{program} is not installed"


def certificates(directory: Path) -> Certificates:
    """Make certificates for 127.0.0.1 and the name of the nodes in the configurations."""
    files = Certificates(*(directory / name for name in ("ca.pem", "chain.pem", "key.pem", "both.pem")))
    authority = trustme.CA()
    signed = authority.issue_cert("127.0.0.1", "node.agents.example")
    authority.cert_pem.write_to_path(files.authority)
    signed.cert_chain_pems[0].write_to_path(files.chain)
    signed.private_key_pem.write_to_path(files.key)
    signed.private_key_and_cert_chain_pem.write_to_path(files.both)
    return files


def free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def balancer(program: str, files: Certificates, ports: list[int], directory: Path) -> Iterator[str]:
    """Run a load balancer before nodes on these ports of this machine; yield its URL for clients."""
    port = free_port()
    path = directory / PROGRAMS[program]
    path.write_text(_configuration(program, files, ports, port, directory))
    with running(program, path, port, directory):
        yield f"wss://127.0.0.1:{port}/arcp"


@contextmanager
def plain_haproxy(ports: list[int]) -> Iterator[int]:
    """Run HAProxy before nodes on these ports of this machine, without TLS; yield its port for clients."""
    changes = {node: f"127.0.0.1:{one}" for node, one in zip(NODES, ports, strict=True)}
    with changed_haproxy(changes) as (port, _):
        yield port


@contextmanager
def changed_haproxy(changes: Mapping[str, str]) -> Iterator[tuple[int, Path]]:
    """Run HAProxy without TLS, and with changes of its configuration.

    Yield its port for clients, and the socket that takes commands.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path, commands = directory / PROGRAMS["haproxy"], directory / "commands"
        plain = {
            "bind :443 ssl crt /etc/haproxy/agents.pem alpn http/1.1": f"bind 127.0.0.1:{port}",
            "hdr Host node.agents.example": "hdr Host 127.0.0.1",
            " ssl verify required ca-file /etc/haproxy/nodes.pem verifyhost node.agents.example": "",
            "defaults\n": f"global\n    stats socket {commands} level admin\ndefaults\n",
        }
        path.write_text(with_changes((SNIPPETS / PROGRAMS["haproxy"]).read_text(), {**plain, **changes}))
        with running("haproxy", path, port, directory):
            yield port, commands


@contextmanager
def running(program: str, path: Path, port: int, directory: Path) -> Iterator[None]:
    """Run a program with a configuration until the end of the block; it listens when the block begins."""
    words = {
        "haproxy": ["-f", str(path), "-db"],
        "nginx": ["-c", str(path), "-p", str(directory), "-e", "stderr", "-g", _nginx(directory)],
    }
    log = directory / f"{program}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([str(_found(program)), *words[program]], stdout=out, stderr=out)
    try:
        _await_port(port, process, log)
        yield
    finally:
        process.terminate()
        process.wait()


def connections_to(port: int) -> int:
    """Return how many connections to a port of this machine are established, by the kernel's table."""
    wanted, found = f":{port:04X}", 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_ = line.split()
        found += remote.endswith(wanted) and state == "01"
    return found


def _found(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=SYSTEM)


def _configuration(program: str, files: Certificates, ports: list[int], port: int, directory: Path) -> str:
    """Return the configuration of the documentation, with the addresses and files of a test."""
    text = (SNIPPETS / PROGRAMS[program]).read_text()
    changes = {node: f"127.0.0.1:{one}" for node, one in zip(NODES, ports, strict=True)}
    if program == "haproxy":
        changes |= {
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/agents.pem": str(files.both),
            "/etc/haproxy/nodes.pem": str(files.authority),
        }
    else:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"    {kind}_temp_path {directory}/{kind};\n" for kind in kinds)
        changes |= {
            "listen 443": f"listen 127.0.0.1:{port}",
            "/etc/nginx/agents.pem": str(files.chain),
            "/etc/nginx/agents.key": str(files.key),
            "/etc/nginx/nodes.pem": str(files.authority),
            "http {\n": f"http {{\n    access_log off;\n{places}",
        }
    return with_changes(text, changes)


def with_changes(text: str, changes: Mapping[str, str]) -> str:
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


def _nginx(directory: Path) -> str:
    return f"daemon off; worker_processes 1; pid {directory}/nginx.pid;"


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError(f"the load balancer does not listen:\n{log.read_text()}")
