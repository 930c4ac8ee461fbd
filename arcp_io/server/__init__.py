"""Serving an App: listeners, authentication, the audit log, and `run`."""
