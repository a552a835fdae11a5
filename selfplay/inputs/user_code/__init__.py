"""Reward functions, metrics and judges that a user wrote: loading, digests, calls."""
