"""The small world of `selfplay quickstart`: tasks, prompts, tiny models made on the spot. May import run, inputs
and below; only `models` imports torch."""
