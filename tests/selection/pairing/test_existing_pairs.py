"""Filters of pairs that somebody else built: each reason by hand, their order, and what is refused."""

from typing import Any

import numpy as np
import pytest

from selfplay.core.errors import ConfigError
from selfplay.selection.pairing import PairRules, pair_filters
from selfplay.selection.reasons import PAIR_REASONS


def floats(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.float64)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int64)


def reasons(num_pairs: int, rules: dict[str, Any] | None = None, **columns: Any) -> list[str | None]:
    found = pair_filters(PairRules(**(rules or {})), num_pairs, **columns).tolist()
    assert {name for name in found if name} <= {*PAIR_REASONS}
    return found


def test_what_is_not_given_is_not_looked_at() -> None:
    assert reasons(3) == [None, None, None]
    assert reasons(0) == []
    assert reasons(1, reward_chosen_P=floats(1.0)) == [None]
    assert reasons(1, reward_chosen_P=floats(float("nan"))) == ["reward_not_finite"]


def test_rewards() -> None:
    nan, inf = float("nan"), float("inf")
    chosen, rejected = floats(1, 1, nan, inf, 2, 0, 5), floats(1, 0, 0, 0, nan, 1, 4)
    bad = "reward_not_finite"
    columns = {"reward_chosen_P": chosen, "reward_rejected_P": rejected}
    # the wrong way round is no fault in itself
    assert reasons(7, **columns) == ["zero_margin", None, bad, bad, bad, None, None]
    found = reasons(7, {"min_gap": 0.5, "min_reward_chosen": 2.0, "max_reward_rejected": 3.0}, **columns)
    assert found == [
        "zero_margin", "reward_chosen_too_low", bad, bad, bad, "gap_too_small", "reward_rejected_too_high",
    ]  # fmt: skip


def test_texts() -> None:
    chosen = ["same", "", "a", "the same words again", "quite another thing"]
    rejected = ["same", "a", " \n", "the same words again!", "nothing alike"]
    assert reasons(5, chosen=chosen, rejected=rejected) == ["identical_responses", "empty", "empty", None, None]
    found = reasons(5, {"max_similarity": 0.7}, chosen=chosen, rejected=rejected)
    assert found == ["identical_responses", "empty", "empty", "near_identical_responses", None]


def test_lengths() -> None:
    columns = {"num_tokens_chosen_P": ints(3, 9, 4, 6), "num_tokens_rejected_P": ints(9, 3, 4, 6)}
    assert reasons(4, {"max_length_gap": 5}, **columns) == ["length_gap_too_large"] * 2 + [None] * 2


def test_the_first_reason_is_the_one() -> None:
    columns: dict[str, Any] = {
        "chosen": ["a", "b", "b"], "rejected": ["", "b", "c"], "reward_chosen_P": floats(float("nan"), 1, 1),
        "reward_rejected_P": floats(0, 1, 1), "num_tokens_chosen_P": ints(99, 99, 99),
        "num_tokens_rejected_P": ints(1, 1, 1),
    }  # fmt: skip
    assert reasons(3, {"max_length_gap": 3}, **columns) == ["empty", "identical_responses", "zero_margin"]


@pytest.mark.parametrize(
    "rules",
    [{"build": "random_pair"}, {"build": "all", "max_per_prompt": 3}, {"length_penalty": "auto"},
     {"length_penalty": 0.1}, {"allow_truncated": True}],
)  # fmt: skip
def test_rules_of_building_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the pairs exist already") as error:
        reasons(1, rules)
    assert "several responses a prompt" in error.value.hint


@pytest.mark.parametrize(
    ("rules", "columns", "message"),
    [
        ({"min_gap": 1.0}, {}, "need the rewards"),
        ({"min_reward_chosen": 1.0}, {"reward_chosen_P": floats(1)}, "need the rewards"),
        ({"max_length_gap": 1}, {}, "needs the numbers of tokens"),
        ({"max_similarity": 0.5}, {}, "needs the texts"),
    ],
)  # fmt: skip
def test_a_rule_without_its_columns_is_refused(rules: dict[str, Any], columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reasons(1, rules, **columns)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("rules", [{}, {"min_gap": 1.0}])
def test_a_margin_beyond_the_largest_float(rules: dict[str, Any]) -> None:
    found = reasons(3, rules, reward_chosen_P=floats(1e308, -1e308, 1e308), reward_rejected_P=floats(-1e308, 1e308, 0))
    assert found == ["margin_not_finite", "margin_not_finite", None]
