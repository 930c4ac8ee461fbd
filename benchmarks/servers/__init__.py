"""One server process an implementation: `python -m benchmarks.servers.NAME OPTIONS`.

It prints its port on a line, and serves until it is killed. Options are a JSON object, see `options`.
"""
