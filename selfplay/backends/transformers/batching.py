"""Length-sorted batches under a token budget, shared by the reward model (score) and the log-prob model
(logprobs)."""

from __future__ import annotations

from collections.abc import Sequence

# Padding that a batch may have, as a part of its budget: 64 tokens of the 2,048 on a CPU, which is what a forward pass of a model
# of 0.5 or 9 million parameters costs beside its tokens. With more padding a second pass is cheaper.
_MAX_PADDING = 1 / 32


def token_batches(
    lengths: Sequence[int],
    batch_tokens: int,
    *,
    rows_share: Sequence[int] | None = None,
    batch_share: int = 0,
    most_padding: int | None = None,
) -> list[list[int]]:
    """Indices of `lengths` in batches whose padded size, rows x longest, is at most `batch_tokens` tokens, and of which little is
    padding: at most `most_padding` tokens (None: a 32nd of `batch_tokens`).

    Longest first: what does not fit in memory shows in the first batch, not in the last. An item longer than
    the budget is a batch of its own. `rows_share` and `batch_share`, where given, are a second budget of the
    same shape: rows x highest share. Ties keep the order of the input, so the batches depend on nothing but the
    arguments.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    allowed = _MAX_PADDING * batch_tokens if most_padding is None else most_padding
    batches: list[list[int]] = []
    longest = highest = padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        share = rows_share[index] if rows_share is not None else 0
        rows = len(batches[-1]) + 1 if batches else 1
        padding += longest - lengths[index]
        fits = rows * longest <= batch_tokens and padding <= allowed
        if batches and fits and rows * max(highest, share) <= batch_share:
            batches[-1].append(index)
            highest = max(highest, share)
        else:
            batches.append([index])
            longest, highest, padding = lengths[index], share, 0
    return batches
