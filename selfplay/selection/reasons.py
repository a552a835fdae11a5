"""Every reason this package can give for a response that is in no pair, or a pair that is not kept.

They are written to the `reason` and `drop_reason` columns, so they are part of the on-disk format. A reason that
scoring gave (a failed reward call, a response too long for the reward model) is passed through as it is and is not
listed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selfplay.selection.arrays import Bools, Ints

# A response is in no pair.
EMPTY = "empty"
TRUNCATED = "truncated"
REWARD_NOT_FINITE = "reward_not_finite"
PROMPT_HAS_TOO_FEW_RESPONSES = "prompt_has_too_few_responses"
IDENTICAL_RESPONSES = "identical_responses"
ZERO_MARGIN = "zero_margin"
MARGIN_NOT_FINITE = "margin_not_finite"
NOT_EXTREME = "not_extreme"
NOT_PICKED = "not_picked"
OVER_MAX_PER_PROMPT = "over_max_per_prompt"
# Filters of pair building: of responses in a run, of pairs that come ready made.
GAP_TOO_SMALL = "gap_too_small"
REWARD_CHOSEN_TOO_LOW = "reward_chosen_too_low"
REWARD_REJECTED_TOO_HIGH = "reward_rejected_too_high"
LENGTH_GAP_TOO_LARGE = "length_gap_too_large"
NEAR_IDENTICAL_RESPONSES = "near_identical_responses"
TOO_LONG_FOR_TRAINING = "too_long_for_training"

# A pair is not kept (EMPTY, REWARD_NOT_FINITE, ZERO_MARGIN, MARGIN_NOT_FINITE and IDENTICAL_RESPONSES too, where pairs come
# from outside a run).
METRIC_NOT_FINITE = "metric_not_finite"
EXCLUDED_BY_METRIC = "excluded_by_metric"
OVER_GROUP_QUOTA = "over_group_quota"
NOT_SELECTED = "not_selected"
# Of pairs that come ready made (`select`).
DUPLICATE = "duplicate"
REVERSED = "reversed"

RESPONSE_REASONS: dict[str, str] = {
    EMPTY: "the response has no text beyond its end token (white space is no text)",
    TRUNCATED: "the response was cut (finish_reason other than stop), so it must not be taught as an ending",
    REWARD_NOT_FINITE: "the reward is missing, NaN or infinite, and scoring gave no reason of its own",
    PROMPT_HAS_TOO_FEW_RESPONSES: "the only usable response of its prompt",
    IDENTICAL_RESPONSES: "the prompt's usable responses, or the two that would make the pair, have the same text",
    ZERO_MARGIN: "the prompt's usable responses, or the two that would make the pair, have the same reward",
    MARGIN_NOT_FINITE: "the difference of the two rewards that would make the pair is beyond the largest float",
    NOT_EXTREME: "usable, but other responses of the prompt were taken as its best and its worst",
    NOT_PICKED: "usable, but the builder took other responses of the prompt",
    OVER_MAX_PER_PROMPT: "its pairs were left out for those of larger margin: a prompt gives pairs.max_per_prompt at most",
    GAP_TOO_SMALL: "the rewards of the prompt, or of the two that would make the pair, differ by pairs.min_gap or less",
    REWARD_CHOSEN_TOO_LOW: "the chosen response of its pair is below pairs.min_reward_chosen",
    REWARD_REJECTED_TOO_HIGH: "the rejected response of its pair is above pairs.max_reward_rejected",
    LENGTH_GAP_TOO_LARGE: "the responses of its pair differ by more than pairs.max_length_gap tokens",
    NEAR_IDENTICAL_RESPONSES: "the responses of its pair are more similar than pairs.max_similarity",
}

PAIR_REASONS: dict[str, str] = {
    EMPTY: "chosen or rejected has no text",
    REWARD_NOT_FINITE: "the reward of chosen or rejected is missing, NaN or infinite",
    ZERO_MARGIN: "chosen and rejected have the same reward",
    MARGIN_NOT_FINITE: "the difference of the rewards of chosen and rejected is beyond the largest float",
    IDENTICAL_RESPONSES: "chosen and rejected have the same text",
    GAP_TOO_SMALL: "the explicit margin is min_gap or less",
    REWARD_CHOSEN_TOO_LOW: "the reward of chosen is below min_reward_chosen",
    REWARD_REJECTED_TOO_HIGH: "the reward of rejected is above max_reward_rejected",
    LENGTH_GAP_TOO_LARGE: "chosen and rejected differ by more than max_length_gap tokens",
    NEAR_IDENTICAL_RESPONSES: "chosen and rejected are more similar than max_similarity",
    TOO_LONG_FOR_TRAINING: "the prompt and one of its responses exceed the training length",
    METRIC_NOT_FINITE: "the metric has no finite value for the pair",
    EXCLUDED_BY_METRIC: "the metric's own rule leaves the pair out, whatever the cut",
    OVER_MAX_PER_PROMPT: "the metric puts max_per_prompt other pairs of the same prompt before it",
    OVER_GROUP_QUOTA: "ranked, but its group has given keep_per_group pairs already",
    NOT_SELECTED: "ranked, but below the cut",
    DUPLICATE: "an earlier pair has the same prompt, chosen and rejected",
    REVERSED: "another pair has the same prompt with chosen and rejected exchanged",
}


@dataclass(frozen=True, slots=True, eq=False)
class DropReasons:
    """One `str | None` a row: None where there is nothing to object to.

    Held as small integers (`code_P`: 0 for None, else 1 + position in `names`), so that ten million rows take 20 MB
    and no Python object each. Never changed in place.

    Example: DropReasons.of([None, "empty", None]).counts() == {"empty": 1}
    """

    code_P: NDArray[np.int16] | NDArray[np.int32]
    names: tuple[str, ...]

    @staticmethod
    def of(reasons: Sequence[str | None]) -> DropReasons:
        """From a reason (or None) a row."""
        seen: dict[str | None, int] = {None: 0}
        codes = [seen.setdefault(reason, len(seen)) for reason in reasons]
        names = tuple(name for name in seen if name is not None)
        return DropReasons(np.array(codes, dtype=_code_type(names)), names)

    @staticmethod
    def of_column(column: pa.ChunkedArray) -> DropReasons:
        """The reasons of a column of texts and nulls."""
        coded = column.combine_chunks().dictionary_encode()
        names = tuple(coded.dictionary.to_pylist())
        return DropReasons(coded.indices.fill_null(-1).to_numpy().astype(_code_type(names)) + 1, names)

    def to_arrow(self) -> pa.Array:
        """A column of texts and nulls."""
        codes = pa.array(self.code_P - 1, mask=self.code_P == 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(self.names, pa.string())).cast(pa.string())

    def __len__(self) -> int:
        return len(self.code_P)

    def __getitem__(self, row: int) -> str | None:
        code = int(self.code_P[row])
        return self.names[code - 1] if code else None

    def __iter__(self) -> Iterator[str | None]:
        named = (None, *self.names)
        return (named[code] for code in self.code_P.tolist())

    def tolist(self) -> list[str | None]:
        """One `str | None` a row."""
        return list(self)

    def counts(self) -> dict[str, int]:
        """Rows by reason, sorted by name; reasons that no row has are left out."""
        num = np.bincount(self.code_P, minlength=len(self.names) + 1)[1:].tolist()
        return {name: rows for name, rows in sorted(zip(self.names, num, strict=True)) if rows}

    def is_reason(self, name: str) -> Bools:
        """True in the rows that have this reason."""
        if name not in self.names:
            return np.zeros(len(self), dtype=np.bool_)
        return np.asarray(self.code_P == self.names.index(name) + 1, dtype=np.bool_)

    def at(self, rows: Ints | Bools) -> DropReasons:
        """The reasons of these rows (positions, or a mask), in that order."""
        return DropReasons(self.code_P[rows], self.names)


def _code_type(names: Sequence[str]) -> Any:
    # Scoring may give each failed reward call a reason of its own, so there is no bound on the names.
    return np.int16 if len(names) < np.iinfo(np.int16).max else np.int32


def no_reasons(num_rows: int) -> DropReasons:
    """`num_rows` times None."""
    return DropReasons(np.zeros(num_rows, dtype=np.int16), ())


def is_kept(reasons: DropReasons) -> Bools:
    """True where there is no reason yet."""
    return np.asarray(reasons.code_P == 0, dtype=np.bool_)


def with_reason(reasons: DropReasons, where_P: Bools, name: str) -> DropReasons:
    """A copy of `reasons` with `name` in the rows of `where_P` that have none: the first reason given stays."""
    names = reasons.names if name in reasons.names else (*reasons.names, name)
    code_P = reasons.code_P.astype(_code_type(names))
    code_P[where_P & (code_P == 0)] = names.index(name) + 1
    return DropReasons(code_P, names)
