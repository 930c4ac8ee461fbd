"""An issuer of JSON Web Tokens on loopback: it signs tokens, and serves its public keys over HTTPS."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NAME: Final = "https://issuer.example"
AUDIENCE: Final = "agents"


class Issuer:
    """Signs tokens with its newest key, or with a named one."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        """How often the keys were asked for."""
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        """Answers that are given once each, in place of the keys."""
        self.held = threading.Event()
        """Set unless the server keeps those that ask waiting."""
        self.held.set()
        self.private: dict[str, tuple[str, Any]] = {}
        self.document: dict[str, Any] = {"keys": []}
        self.rotate("first")

    def rotate(self, kid: str, algorithm: str = "ES256", *, keep: bool = False) -> None:
        """Sign with a new key from now on; the earlier ones are published no longer, unless they are kept."""
        if algorithm == "ES256":
            key: Any = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        elif algorithm == "EdDSA":
            key = ed25519.Ed25519PrivateKey.generate()
            public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        keys = self.document["keys"] if keep else []
        self.document = {"keys": [*keys, {**public, "kid": kid, "use": "sig"}]}
        self.private[kid] = algorithm, key

    def sign(self, kid: str | None = None, *, lifetime: float = 600, **claims: Any) -> str:
        """Return a token of alice; a claim that is None is left out."""
        kid = kid or list(self.private)[-1]
        algorithm, key = self.private[kid]
        whole = {"iss": NAME, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + lifetime, **claims}
        whole = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(whole, key, algorithm, headers={"kid": kid})


@contextmanager
def issuing(context: ssl.SSLContext) -> Iterator[Issuer]:
    """Serve the keys of an issuer over HTTPS until the block is left."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def do_GET(self) -> None:
            issuer.asked += 1
            issuer.held.wait(30)
            whole: tuple[int, bytes, dict[str, str]] = 200, json.dumps(issuer.document).encode(), {}
            status, body, headers = issuer.answers.pop(0) if issuer.answers else whole
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Write nothing."""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Write nothing about a client that has gone."""

    with Server(("127.0.0.1", 0), Handler) as server:
        issuer.url = f"https://localhost:{server.server_address[1]}/keys"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            issuer.held.set()
            server.shutdown()
            thread.join()
