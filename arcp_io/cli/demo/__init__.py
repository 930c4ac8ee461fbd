"""`arcp-io demo`, its agent, and the relay that cuts its connection."""
