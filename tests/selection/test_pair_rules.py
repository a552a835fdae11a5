"""Rules that cannot be or do nothing are refused, with words that say why."""

from typing import Any

import pytest

from selfplay.selection.pair_rules import PairRules, pairs_per_prompt


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"build": "best"}, "`build` is 'best'; there are best_worst, all"),
        ({"max_per_prompt": 2}, "goes with build: all; best_worst gives at most one pair"),
        ({"build": "all", "max_per_prompt": 0}, "a number from 1 on"),
        ({"min_gap": -1.0}, "`min_gap` is -1.0"),
        ({"min_gap": float("nan")}, "`min_gap` is nan"),
        ({"max_similarity": 0.0}, "above 0 and up to 1"),
        ({"max_similarity": 1.5}, "above 0 and up to 1"),
        ({"max_length_gap": -1}, "from 0 on"),
        ({"min_reward_chosen": float("inf")}, "`min_reward_chosen` is inf"),
        ({"max_reward_rejected": float("nan")}, "`max_reward_rejected` is nan"),
        ({"length_penalty": float("nan")}, "`length_penalty` is nan"),
    ],
)
def test_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairRules(**rules)


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
