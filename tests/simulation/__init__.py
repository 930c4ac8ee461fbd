"""Deterministic simulation: a runtime, its clients, agents, network, disk, clocks, and one seed for all."""
