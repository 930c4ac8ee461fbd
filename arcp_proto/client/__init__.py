"""The client side: one session over many connections, and the jobs that it follows."""
