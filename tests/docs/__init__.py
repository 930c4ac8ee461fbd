"""The pages for readers, README.md and docs/: their programs, commands, links, and what is generated."""
