"""The wire: JSON, envelopes, the shape of every message, and the deviations of other implementations."""
