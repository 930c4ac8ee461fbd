"""One server process for each implementation: `python -m benchmarks.servers.NAME OPTIONS`.

The process prints its port on a line, and serves until it is killed. OPTIONS is a JSON object, see `options`.
"""
