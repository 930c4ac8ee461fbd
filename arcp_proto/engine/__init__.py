"""What both roles share: connections, timers, the outbox, and the output that accumulates."""
