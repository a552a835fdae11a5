"""The run directory: layout, durable writes, commits, lock. The only room that writes run files; may import core."""
