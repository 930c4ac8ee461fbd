"""The native half for trio."""
