"""Resolves and pins what a run is given: prompts, models, user code. May import store, config, selection, core."""
