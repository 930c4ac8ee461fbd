"""One client process an implementation: `python -m benchmarks.clients.NAME SETTINGS`.

It carries out a task, and prints what it has measured as a JSON object: `seconds` and `cpu` of all of it.
"""
