"""Leases (§9): patterns, their comparison, budgets and ceilings, independent of jobs and sessions."""
