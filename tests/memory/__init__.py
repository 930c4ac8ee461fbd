"""The memory of a process when a bound of `Limits` is reached, beside what is documented (§14)."""
