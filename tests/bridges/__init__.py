"""Bridges to other packages, each with the real package, offline."""
