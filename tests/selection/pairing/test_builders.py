"""Each builder on hand-made prompts, and that what is random is random in the right way."""

import numpy as np
import pytest

from selfplay.selection.pairing.builders import all_pairs
from selfplay.selection.pairing.prompt_groups import group_by_prompt
from selfplay.selection.responses import response_pool
from tests.helpers.slow_pairing import BUILDERS, Row, build, outcome, pairs_of, rows_of


def pair(rewards: list[float], builder: str, **rules) -> tuple[int, int]:
    (found,) = outcome(rows_of(rewards), build=builder, **rules)[0]
    return found


def test_median_is_the_middle_or_the_lower_of_two() -> None:
    assert pair([5.0, 1.0, 3.0], "best_median") == (0, 2)
    assert pair([1.0, 2.0, 3.0, 4.0], "best_median") == (3, 1)
    # equal rewards stand in falling order of their indices: 4, 3, 1, 0 and then the best
    assert pair([2.0, 2.0, 9.0, 2.0, 2.0], "best_median") == (2, 1)
    # the median is as good as the best: a tie, and not the best against itself
    assert outcome(rows_of([1.0, 1.0, 0.0]), build="best_median") == ([], ["zero_margin", "zero_margin", "not_picked"])


def test_sweet_spot_is_near_two_std_below_the_mean() -> None:
    # mean 0, population std 1 but for the outlier, which best_worst would take
    rewards = [1.0, -1.0] * 20 + [-2.5, -8.0]
    values = np.array(rewards)
    assert abs(values.mean() - 2 * values.std() + 2.5) < abs(values.mean() - 2 * values.std() + 8.0)
    assert pair(rewards, "sweet_spot") == (0, 40)
    assert pair(rewards, "best_worst") == (0, 41)


def test_sweet_spot_of_five_is_the_worst() -> None:
    # why the configuration refuses it there: no value is more than sqrt(n - 1) = 2 std below the mean
    generator = np.random.default_rng(0)
    for _ in range(50):
        rewards = generator.standard_t(1.5, size=5).tolist()
        assert pair(rewards, "sweet_spot") == pair(rewards, "best_worst")


def test_sweet_spot_where_the_worst_is_far_below_everything() -> None:
    # mean - 2 std lies nearer to the best than to the outlier: the best itself is never its own rejected response
    rewards = [1.0] * 30 + [-1000.0]
    assert outcome(rows_of(rewards), build="sweet_spot")[0] == []
    assert set(outcome(rows_of(rewards), build="sweet_spot")[1][:2]) == {"zero_margin"}


def test_minimum_gap_is_the_nearest_two_above_the_threshold() -> None:
    rewards = [0.0, 1.0, 1.25, 3.25, 3.0, 6.0]
    assert pair(rewards, "minimum_gap") == (2, 1)
    assert pair(rewards, "minimum_gap", min_gap=0.25) == (1, 0)
    assert pair(rewards, "minimum_gap", min_gap=1.0) == (2, 0)
    assert outcome(rows_of(rewards), build="minimum_gap", min_gap=6.0) == ([], ["gap_too_small"] * 6)


def test_minimum_gap_of_equal_gaps_takes_the_lowest_chosen_index() -> None:
    assert pair([2.0, 1.0, 0.0], "minimum_gap") == (0, 1)
    assert pair([0.0, 1.0, 2.0], "minimum_gap") == (1, 0)
    assert pair([1.0, 0.0, 1.0, 0.0], "minimum_gap") == (0, 1)


def test_all_gives_every_two_with_the_better_chosen() -> None:
    pairs, reasons = outcome(rows_of([1.0, 3.0, 2.0, 2.0]), build="all")
    assert pairs == [(1, 0), (1, 2), (1, 3), (2, 0), (3, 0)]
    assert reasons == [None] * 4


@pytest.mark.parametrize("part", [1, 7, 1000])
def test_all_comes_in_parts_of_whole_prompts(part: int) -> None:
    sizes = [2, 5, 3, 5, 4]
    rows = [(f"p{prompt}", index) for prompt, size in enumerate(sizes) for index in range(size)]
    pool = response_pool(
        prompt_ids=[prompt for prompt, _ in rows],
        response_index=[index for _, index in rows],
        rewards=[float(i) for i in range(len(rows))],
        texts=[str(i) for i in range(len(rows))],
    )
    groups = group_by_prompt(pool, np.ones(len(rows), dtype=np.bool_))
    parts = list(all_pairs(groups, part))
    assert len(parts) == {1: 5, 7: 5, 1000: 4}[part]
    found = [set(groups.group_N[chosen].tolist()) for chosen, _ in parts]
    assert sorted(group for of_part in found for group in of_part) == [0, 1, 2, 3, 4]
    assert sum(len(chosen) for chosen, _ in parts) == sum(size * (size - 1) // 2 for size in sizes)
    assert all((chosen > rejected).all() for chosen, rejected in parts)


def many(num_prompts: int, num_responses: int) -> list[Row]:
    return [
        Row(prompt=f"prompt {prompt}", index=index, reward=float(index), text=f"{prompt} {index}")
        for prompt in range(num_prompts)
        for index in range(num_responses)
    ]


@pytest.mark.parametrize(
    ("builder", "outcomes"),
    [("best_random", [(3, 0), (3, 1), (3, 2)]), ("random_pair", [(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2)])],
)
def test_random_responses_are_each_as_likely(builder: str, outcomes: list[tuple[int, int]]) -> None:
    rows = many(3000, 4)
    found = [(rows[chosen].index, rows[rejected].index) for chosen, rejected in pairs_of(build(rows, build=builder))]
    counts = [found.count(outcome) for outcome in outcomes]
    assert sum(counts) == 3000
    expected = 3000 / len(outcomes)
    # chi-squared with at most 5 degrees of freedom: 25 is beyond 0.9998
    assert sum((count - expected) ** 2 / expected for count in counts) < 25


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_seed_decides_what_is_random_and_nothing_else(builder: str) -> None:
    rows = many(40, 6)
    first, again, other = (pairs_of(build(rows, seed, build=builder)) for seed in (1, 1, 2))
    assert first == again
    assert (first != other) is (builder in ("random_pair", "best_random"))
