"""Jobs of a runtime (§7, §8, §10): submission, events, authority, delegation and completion."""
