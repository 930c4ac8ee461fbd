"""Many nodes over one PostgreSQL database: which node owns which shard, and where its records are stored."""
