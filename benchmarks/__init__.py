"""The speed of arcp-io beside a peer, which is an ARCP package of PyPI, and a floor: see `__main__`."""
