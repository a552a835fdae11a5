"""How work reaches workers: shards, quarantine, progress, signals. May import store, config and core."""
