"""Sessions of a runtime (§6): handshake, event logs, observers, admission, quotas and retention."""
