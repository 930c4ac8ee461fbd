"""Durable state: records, how they are applied, snapshots and recovery."""
