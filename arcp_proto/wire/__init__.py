"""The wire: JSON, envelopes, the shape of every message, and what peers of other makes send."""
