# any_loop.py: a runtime on nothing but selectors; an envelope is a line over TCP
import secrets
import selectors
import socket
import time
from contextlib import suppress

from arcp_proto import AgentInfo, Authenticate, Connection, Framing, Runtime, RuntimeConfig, Secret, StartJob

ALICE = Secret("s3cret").digest()
CONFIG = RuntimeConfig(name="any-loop", version="0.1.0", agents=(AgentInfo("echo"),))
now = time.monotonic_ns


def serve(listener: socket.socket) -> None:
    """Serve until the listener is closed."""
    runtime = Runtime(CONFIG, seed=secrets.token_bytes(32), now=now(), unix=time.time_ns())
    selector = selectors.DefaultSelector()
    sockets: dict[Connection, socket.socket] = {}
    selector.register(listener, selectors.EVENT_READ)

    def carry_out(output):
        for connection, envelope in output.envelopes():
            with suppress(OSError):  # A lost peer is found by reading. (A driver does not block here.)
                sockets[connection].sendall(envelope)
        for request in output.requests:
            if isinstance(request, Authenticate):
                principal = "alice" if request.token.matches(ALICE) else None
                carry_out(runtime.authenticated(request.request, principal, now=now()))
            elif isinstance(request, StartJob):  # This agent waits for nothing; others run beside the loop.
                runtime.agents.emit(request.job_id, "log", {"level": "info", "message": "hello"}, now=now())
                runtime.agents.finish(request.job_id, {"echo": request.input}, now=now())
                carry_out(runtime.take())
        for closing in output.closing:
            lose(closing.connection)

    def lose(connection):
        selector.unregister(sockets[connection])
        sockets.pop(connection).close()
        carry_out(connection.lost(now=now()))

    while listener.fileno() >= 0:
        deadline = runtime.deadline()
        for key, _ in selector.select(deadline and max(deadline.at - now(), 0) / 1e9):
            if key.fileobj is listener:
                connection = runtime.connect(Framing.LINES, now=now())
                sockets[connection] = listener.accept()[0]
                selector.register(sockets[connection], selectors.EVENT_READ, connection)
                continue
            data = b""
            with suppress(OSError):
                data = sockets[key.data].recv(65536)
            if data:
                carry_out(key.data.receive(data, now=now()))
            else:
                lose(key.data)
        carry_out(runtime.handle_timer(now=now()))
    for connection in list(sockets):
        lose(connection)
    selector.close()


if __name__ == "__main__":
    serve(socket.create_server(("127.0.0.1", 7777)))
