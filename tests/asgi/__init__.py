"""The ASGI application of an App under the servers and within the frameworks that people have."""
