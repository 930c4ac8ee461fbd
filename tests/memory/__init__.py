"""What a process takes when a bound of `Limits` is reached, beside what is documented (§14)."""
