"""One client process for each implementation: `python -m benchmarks.clients.NAME SETTINGS`.

The process carries out a task, and prints its measurements as a JSON object: `seconds` and `cpu` of the task.
"""
