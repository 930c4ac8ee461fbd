"""A small gateway with virtual keys, over real HTTP, that fails as it is told to.

It does what LiteLLM documents of /key/generate, /key/delete and /key/list, and lets models be used at
/v1/chat/completions, within the bounds of the key.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

MASTER: Final = "sk-master-7h15-15-53cr37"


@dataclass
class Key:
    """One virtual key of the gateway."""

    value: str
    alias: str
    models: list[str]
    max_budget: float | None
    duration: str | None
    spent: float = 0.0


@dataclass
class Gateway:
    """The state of the gateway. Each fault is used once, from the front of its list; None means no fault."""

    url: str = ""
    keys: dict[str, Key] = field(default_factory=dict)
    """The keys that exist, by value."""
    values: list[str] = field(default_factory=list)
    """The values of all keys, deleted ones included."""
    generate: list[str | None] = field(default_factory=list)
    """Faults of key creation: 500 (nothing made), lost (made, then 502), late (after `pause`), broke, text.

    Answers that are not JSON: text, bytes (not UTF-8), deep (nested too deeply to be read).
    """
    delete: list[str | None] = field(default_factory=list)
    """Faults of key deletion: 500, lie (answers as if deleted), late, lost (deleted, answered with 502)."""
    pause: float = 1.0
    requests: list[tuple[str, Any]] = field(default_factory=list)

    def aliases(self) -> list[str]:
        """Return the aliases of the keys that exist."""
        return [key.alias for key in self.keys.values()]


class _Handler(BaseHTTPRequestHandler):
    gateway: Gateway
    lock = threading.Lock()

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        fields = json.loads(self.rfile.read(size) or b"{}")
        match self.path:
            case "/key/generate" if self._is_master():
                self.gateway.requests.append((self.path, fields))
                self._generate(fields)
            case "/key/delete" if self._is_master():
                self.gateway.requests.append((self.path, fields))
                self._delete(fields)
            case "/v1/chat/completions":
                self._complete(fields)
            case _:
                self._answer(401, {"error": {"type": "auth_error"}})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path != "/key/list" or not self._is_master():
            self._answer(404, {})
            return
        alias = parse_qs(parts.query)["key_alias"][0]
        found = [{"key_alias": key.alias} for key in list(self.gateway.keys.values()) if key.alias == alias]
        self._answer(200, {"keys": found, "total_count": len(found)})

    def _generate(self, fields: dict[str, Any]) -> None:
        gateway, fault = self.gateway, self._fault(self.gateway.generate)
        if fault == "500":
            self._answer(500, {"error": {"message": "Internal Server Error"}})
            return
        if fault == "broke":
            self._answer(400, {"error": {"type": "budget_exceeded", "message": "Budget has been exceeded"}})
            return
        with self.lock:
            if fields["key_alias"] in gateway.aliases():
                self._answer(400, {"error": {"type": "bad_request_error"}})
                return
            value = f"sk-virtual-{len(gateway.values)}-{'s3cr3t' * 3}"
            gateway.values.append(value)
            gateway.keys[value] = Key(
                value,
                fields["key_alias"],
                fields.get("models", []),
                fields.get("max_budget"),
                fields.get("duration"),
            )
        if fault == "late":
            time.sleep(gateway.pause)
        if fault == "lost":
            self._answer(502, {"key": value})
        elif fault == "text":
            self._answer(200, f"made {value}")
        elif fault == "bytes":
            self._answer(200, b'{"key":"\xff"}')
        elif fault == "deep":
            self._answer(200, b"[" * 60_000)
        else:
            self._answer(200, {"key": value, "key_alias": fields["key_alias"], "expires": None})

    def _delete(self, fields: dict[str, Any]) -> None:
        gateway, fault = self.gateway, self._fault(self.gateway.delete)
        if fault == "500":
            self._answer(500, {"error": {"message": "Internal Server Error"}})
            return
        if fault == "late":
            time.sleep(gateway.pause)
        aliases = fields["key_aliases"]
        with self.lock:
            gone = [key.value for key in gateway.keys.values() if key.alias in aliases]
            if fault != "lie":
                for value in gone:
                    del gateway.keys[value]
        self._answer(502 if fault == "lost" else 200, {"deleted_keys": gone})

    def _complete(self, fields: dict[str, Any]) -> None:
        """Answer a use of a model, which costs a cent."""
        key = self.gateway.keys.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if key is None:
            self._answer(401, {"error": {"type": "auth_error"}})
        elif key.models and fields["model"] not in key.models:
            self._answer(403, {"error": {"type": "key_model_access_denied"}})
        elif key.max_budget is not None and key.spent >= key.max_budget:
            self._answer(400, {"error": {"type": "budget_exceeded"}})
        else:
            key.spent += 0.01
            self._answer(200, {"choices": [{"message": {"content": "hello"}}]})

    def _fault(self, faults: list[str | None]) -> str | None:
        return faults.pop(0) if faults else None

    def _is_master(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {MASTER}"

    def _answer(self, status: int, value: Any) -> None:
        if isinstance(value, bytes):
            data = value
        else:
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # The client has closed its connection.

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def gateway() -> Iterator[Gateway]:
    """Run a gateway on a free port of this machine."""
    state = Gateway()
    handler = type("Handler", (_Handler,), {"gateway": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
