"""Agents: the host that runs them, and the job objects that they get."""
