"""The machinery of a run: driver, loop, plan, fork, stages. May import execution, inputs, store, config, selection,
core."""
