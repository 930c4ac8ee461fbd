"""How fast the runtime and its client are, beside the peer of PyPI and a floor: see `__main__`."""
