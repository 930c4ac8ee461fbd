"""Commands of `arcp-io`, each in a process of its own; `pytest` without arguments leaves them out."""
