"""Provisioned credentials (§9.8): issuing and revocation."""
