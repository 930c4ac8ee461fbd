"""The version of this distribution, once: pyproject.toml reads it here."""

VERSION = "0.2.0"
