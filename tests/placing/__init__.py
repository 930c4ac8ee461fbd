"""Agents that engines place on other machines."""
