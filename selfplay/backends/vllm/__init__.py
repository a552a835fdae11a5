"""Sampling with vLLM: engine arguments, weight changes in a live engine, the canary."""
