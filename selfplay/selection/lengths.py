"""Which pairs are too long for training.

They are dropped rather than cut: a cut response would be taught as an ending, and two responses that share a long
beginning may become identical once cut.
"""

from __future__ import annotations

import numpy as np

from selfplay.selection.arrays import Bools, Ints


def too_long_for_training(
    num_prompt_tokens_P: Ints, num_tokens_chosen_P: Ints, num_tokens_rejected_P: Ints, max_length: int
) -> Bools:
    """True where prompt and longer response have more than `max_length` tokens together (end token included)."""
    longest_P = num_prompt_tokens_P + np.maximum(num_tokens_chosen_P, num_tokens_rejected_P)
    return np.asarray(longest_P > max_length, dtype=np.bool_)
