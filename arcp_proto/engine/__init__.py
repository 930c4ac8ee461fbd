"""The engine of both roles: connections, timers, the outbox, and the output that accumulates."""
