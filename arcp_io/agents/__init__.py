"""Agents: what runs them, and the job as they see it."""
