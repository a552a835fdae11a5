"""Evaluation statistics: intervals over prompts, paired comparisons, diversity (stage *evaluate*, `compare`).

The prompt is the unit throughout: several responses of one prompt are first reduced to one number, because they are
not independent of each other. Intervals are percentile bootstrap over prompts (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selfplay.core import magnitudes

Floats = NDArray[np.float64]
# A column of texts: Python's, or a chunked array of Arrow (which has no types).
Texts: TypeAlias = Sequence[str] | Any

_DRAWS_AT_ONCE = 4_000_000
"""Bounds the memory of the bootstrap: about 64 MB, whatever the number of prompts."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over prompts with its bootstrap interval. Example: Estimate(0.61, 0.58, 0.64, num_prompts=256)"""

    mean: float
    ci_low: float
    ci_high: float
    num_prompts: int


ByPrompt = Mapping[str, Floats]
"""Finite values of the responses of each prompt; a prompt that has none is left out."""


def by_prompt(prompt_ids: Texts, values: Sequence[float | None] | Floats) -> dict[str, Floats]:
    """The finite values of each prompt, sorted: the last bit of a sum does not depend on the order of rows. Raises ValueError
    for columns of different lengths."""
    column = prompt_ids if isinstance(prompt_ids, pa.ChunkedArray) else pa.chunked_array([prompt_ids], pa.string())
    coded, values_R = column.combine_chunks().dictionary_encode(), np.asarray(values, dtype=np.float64)
    if len(coded) != len(values_R):
        raise ValueError(f"{len(coded)} prompt ids and {len(values_R)} values")
    rows = np.flatnonzero(np.isfinite(values_R))
    code_F = coded.indices.to_numpy()[rows]
    rows = rows[np.lexsort((values_R[rows], code_F))]
    ends = np.cumsum(np.bincount(code_F, minlength=len(coded.dictionary)))
    found = np.split(values_R[rows], ends[:-1])
    return {name.as_py(): own for name, own in zip(coded.dictionary, found, strict=False) if len(own)}


def prompt_means(prompt_ids: Texts, values: Sequence[float | None] | Floats) -> dict[str, float]:
    """Mean value of each prompt's responses, of those that are finite; a prompt that has none is left out."""
    return {prompt_id: magnitudes.mean(found) for prompt_id, found in by_prompt(prompt_ids, values).items()}


def bootstrap_mean(values_Q: Floats, *, seed: int, num_resamples: int = 10_000, level: float = 0.95) -> Estimate | None:
    """Mean of one finite value a prompt (shape Q) with a percentile bootstrap interval; None if there is no prompt."""
    if not len(values_Q):
        return None
    if not np.isfinite(values_Q).all():
        raise ValueError("bootstrap_mean takes finite values; reduce responses with prompt_means first")
    values_Q, unit = magnitudes.in_units(values_Q)
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(values_Q))
    parts = []
    for first in range(0, num_resamples, rows):
        draws = generator.integers(
            len(values_Q), size=(min(rows, num_resamples - first), len(values_Q)), dtype=np.int32
        )
        parts.append(values_Q[draws].mean(axis=1))
    low, high = np.quantile(np.concatenate(parts), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(unit * float(values_Q.mean()), unit * float(low), unit * float(high), len(values_Q))


def mean_over_prompts(values: ByPrompt, *, seed: int) -> Estimate | None:
    """Mean over prompts of the mean over each prompt's responses, with its interval."""
    return _bootstrap({prompt_id: magnitudes.mean(found) for prompt_id, found in values.items()}, seed)


def paired_difference(ours: ByPrompt, others: ByPrompt, *, seed: int) -> Estimate | None:
    """Mean over the prompts that both have of (mean value - mean other value), with its interval; None where a difference is
    beyond the largest float."""
    both = ours.keys() & others.keys()
    differences = {prompt: magnitudes.mean(ours[prompt]) - magnitudes.mean(others[prompt]) for prompt in both}
    return _bootstrap(differences, seed) if np.isfinite([*differences.values()]).all() else None


def paired_win_rate(ours: ByPrompt, others: ByPrompt, *, seed: int) -> Estimate | None:
    """Share of comparisons won, a tie counting half, with its interval; 0.5 against oneself.

    On a prompt with several responses every response is compared with every response of the other side, and the
    prompt counts once. Only prompts that both sides have count.
    """
    rates = {}
    for prompt in ours.keys() & others.keys():
        # comparisons, not differences: those of large numbers overflow, those of tiny ones vanish
        won = np.greater.outer(ours[prompt], others[prompt])
        lost = np.less.outer(ours[prompt], others[prompt])
        rates[prompt] = float(np.mean(won.astype(np.float64) - lost) / 2 + 0.5)
    return _bootstrap(rates, seed)


def distinct_n(sequences: Iterable[Sequence[Hashable]], n: int) -> float | None:
    """Distinct n-grams over all n-grams of the sequences (token ids or words) together; None if there is none.

    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016. It falls
    with the amount of text, so compare like with like.
    """
    seen: set[tuple[Hashable, ...]] = set()
    total = 0
    for sequence in sequences:
        grams = list(zip(*(sequence[shift:] for shift in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else None


def _bootstrap(values: Mapping[str, float], seed: int) -> Estimate | None:
    """Values in order of prompt id: the same seed then gives the same interval whatever the order of rows."""
    return bootstrap_mean(np.array([values[prompt_id] for prompt_id in sorted(values)], dtype=np.float64), seed=seed)
