"""Tools of MCP servers behind the lease of a job: `JobContext.mcp`. Needs the extra `mcp`."""
