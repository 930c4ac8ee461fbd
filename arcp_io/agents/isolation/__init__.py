"""Agents that run in separate processes."""
