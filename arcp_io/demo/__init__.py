"""`arcp-io demo`, its agent, and the relay that drops its connection."""
