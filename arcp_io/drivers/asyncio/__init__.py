"""The native half for asyncio, and for uvloop."""
