"""The small world of `selfplay quickstart`: tasks, prompts, tiny models made on the spot."""
