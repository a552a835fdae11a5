"""Length control: the reward for each token that, taken off, leaves chosen and rejected responses equally long on average.

DICE (Chen et al., "Bootstrapping Language Models with DPO Implicit Rewards", ICLR 2025, arXiv 2406.09760) shapes its
implicit reward as r - alpha * length and chooses alpha such that the absolute mean difference in length between chosen and
rejected responses is smallest. Here any reward is shaped so, lengths are in tokens, and the search is over the pairs that the
builder makes of the shaped rewards. alpha may be negative: where the chosen responses are the shorter ones, length is
rewarded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from selfplay.core.outcomes import LengthFit

# A mean gap below this many tokens is zero enough.
NEAR_ZERO = 0.005
_BISECTIONS = 50


def fit_length_penalty(length_gap: Callable[[float], float | None], largest: float) -> LengthFit:
    """Search for the penalty whose mean length gap is nearest to zero.

    `length_gap(penalty)` builds the pairs and returns their mean gap, None where there are none. `largest`: from this
    penalty on responses are ordered by length alone, that is the largest difference of two rewards of one prompt (lengths
    differ by a token at least). The gap falls as the penalty grows, in steps, for best_worst, all and random_pair; for the
    other builders nearly so. Bisection keeps the best penalty it has seen, and the smaller one of two as good.
    """
    without = length_gap(0.0)
    tried: dict[float, float] = {}

    def gap_at(penalty: float) -> float:
        found = length_gap(penalty)
        # where no pair is left the penalty went too far
        tried[penalty] = math.inf if found is None else abs(found)
        return -direction if found is None else found

    if without is None or abs(without) <= NEAR_ZERO or not (math.isfinite(1.001 * largest) and largest > 0):
        return LengthFit(0.0, without, without, without is not None and abs(without) <= NEAR_ZERO)
    direction = math.copysign(1.0, without)
    tried[0.0] = abs(without)
    near, far = 0.0, direction * largest * 1.001
    if gap_at(far) * direction > 0:
        # not even the order by length turns the gap: filters stand against it. Look for a turn on the way there.
        far = next((p for k in range(1, 41) if gap_at(p := far * 0.5**k) * direction <= 0), 0.0)
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        if middle in (near, far) or min(tried.values()) <= NEAR_ZERO:
            break
        near, far = (middle, far) if gap_at(middle) * direction > 0 else (near, middle)
    penalty = min(tried, key=lambda one: (tried[one], abs(one)))
    return LengthFit(penalty, length_gap(penalty), without, tried[penalty] <= NEAR_ZERO)
