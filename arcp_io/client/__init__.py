"""The client: connections, sessions, and jobs as their submitter or an observer sees them."""
