"""Repeated pairs, and pairs that also occur with chosen and rejected exchanged."""

from __future__ import annotations

import numpy as np

from selfplay.selection.arrays import Ints, run_starts

NONE = -1


def find_repeats(prompt_P: Ints, chosen_P: Ints, rejected_P: Ints) -> tuple[Ints, Ints]:
    """For each of P pairs the first earlier row with the same prompt, chosen and rejected, and the first row with the same
    prompt and the two responses exchanged; NONE where there is none. All are integer codes, one for equal contents, and chosen
    and rejected have them in common."""
    low_P, high_P = np.minimum(chosen_P, rejected_P), np.maximum(chosen_P, rejected_P)
    order = np.lexsort((chosen_P > rejected_P, high_P, low_P, prompt_P))  # stable: rows ascend among equals
    both = run_starts_of(prompt_P[order], low_P[order], high_P[order])
    same = run_starts_of(prompt_P[order], chosen_P[order], rejected_P[order])
    first_P = np.empty(len(order), dtype=np.int64)
    first_P[order] = np.repeat(order[same], np.diff(same, append=len(order)))
    # of each two runs of the same responses the first rows are each other's opposites
    reversed_P = np.full(len(order), NONE, dtype=np.int64)
    run_of_both = np.searchsorted(both, same, side="right") - 1
    twins = np.flatnonzero(np.diff(run_of_both) == 0)
    for one, other in ((twins, twins + 1), (twins + 1, twins)):
        sizes = np.diff(same, append=len(order))[one]
        rows = np.repeat(same[one], sizes) + np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        reversed_P[order[rows]] = np.repeat(order[same[other]], sizes)
    return np.where(first_P == np.arange(len(order)), NONE, first_P), reversed_P


def run_starts_of(*columns: Ints) -> Ints:
    """Positions at which a run of rows that are equal in every column begins."""
    starts = [run_starts(column) for column in columns]
    return np.unique(np.concatenate(starts))
