"""Drivers: the pump between a machine and an event loop, transports, and the native halves of both loops."""
