"""Leases (§9): patterns, their comparison, budgets and ceilings. Nothing here knows jobs or sessions."""
