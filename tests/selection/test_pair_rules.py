"""Rules that do nothing for a number of responses are refused with the reason."""

from typing import Any

import pytest

from selfplay.selection.pair_rules import PairRules, pairs_per_prompt


@pytest.mark.parametrize(
    ("rules", "num_responses", "message"),
    [
        ({"build": "best_median"}, 2, "takes 3 or more responses a prompt"),
        ({"build": "sweet_spot"}, 5, "takes 6 or more responses a prompt"),
        ({}, 1, "a pair takes two"),
        ({"build": "all", "max_per_prompt": 10}, 5, "5 responses give 10 pairs at most"),
    ],
)
def test_too_few_responses(rules: dict[str, Any], num_responses: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairRules(**rules).check_num_responses(num_responses)


def test_enough_responses_and_the_pairs_they_give() -> None:
    for rules, num_responses, pairs in (
        ({}, 2, 1), ({"build": "best_median"}, 3, 1), ({"build": "sweet_spot"}, 6, 1), ({"build": "all"}, 5, 10),
        ({"build": "all", "max_per_prompt": 9}, 5, 9), ({"build": "minimum_gap"}, 64, 1),
    ):  # fmt: skip
        found = PairRules(**rules)
        found.check_num_responses(num_responses)
        assert pairs_per_prompt(found, num_responses) == pairs
