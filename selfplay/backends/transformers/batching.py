"""Length-sorted batches under a token budget, shared by the reward model (score) and the log-prob model
(logprobs)."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(
    lengths: Sequence[int], batch_tokens: int, *, rows_share: Sequence[int] | None = None, batch_share: int = 0
) -> list[list[int]]:
    """Indices of `lengths` in batches whose padded size, rows x longest, is at most `batch_tokens` tokens.

    Longest first: what does not fit in memory shows in the first batch, not in the last. An item longer than
    the budget is a batch of its own. `rows_share` and `batch_share`, where given, are a second budget of the
    same shape: rows x highest share. Ties keep the order of the input, so the batches depend on nothing but the
    arguments.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    batches: list[list[int]] = []
    longest = highest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        share = rows_share[index] if rows_share is not None else 0
        rows = len(batches[-1]) + 1 if batches else 1
        if batches and rows * longest <= batch_tokens and rows * max(highest, share) <= batch_share:
            batches[-1].append(index)
            highest = max(highest, share)
        else:
            batches.append([index])
            longest, highest = lengths[index], share
    return batches
