"""Pair building as a whole: every reason by hand, and hypothesis against the slow reference."""

import dataclasses
import itertools
import math
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.selection.pairing import PairRules, build_pairs
from selfplay.selection.reasons import RESPONSE_REASONS
from selfplay.selection.responses import response_pool
from tests.helpers.slow_pairing import BUILDERS, Row, all_rules, build, outcome, pairs_of, rows_of, slow_build, tables


def test_highest_against_lowest_and_the_rest_not_extreme() -> None:
    assert outcome(rows_of([0.2, 0.9, 0.5, 0.1])) == ([(1, 3)], ["not_extreme", None, "not_extreme", None])


def test_ties_go_to_the_lower_response_index_whatever_the_row_order() -> None:
    rows = rows_of([1.0, 0.0, 1.0, 0.0])
    assert outcome(rows)[0] == [(0, 1)]
    assert outcome(rows[::-1])[0] == [(3, 2)]


def test_responses_at_fault_never_enter_and_the_first_fault_is_named() -> None:
    rows = [
        Row(index=0, reward=None, text="", finish="length", drop="reward_failed: boom"),
        Row(index=1, reward=5.0, text=" \n", finish="length"),
        Row(index=2, reward=None, text="cut off", finish="length", tokens=99),
        Row(index=3, reward=None, text="no reward", tokens=99),
        Row(index=4, reward=float("inf"), text="infinite"),
        Row(index=5, reward=9.0, text="stopped from outside", finish="abort"),
        Row(index=6, reward=1.0, text="good"),
        Row(index=7, reward=0.0, text="bad"),
    ]
    faults = ["reward_failed: boom", "empty", "truncated", "reward_not_finite", "reward_not_finite", "truncated"]
    assert outcome(rows) == ([(6, 7)], [*faults, None, None])
    assert outcome(rows, allow_truncated=True)[0] == [(5, 7)]


def test_what_is_wrong_with_a_whole_prompt() -> None:
    few = [Row(index=0, reward=1.0), Row(index=1, reward=0.0, finish="length")]
    assert outcome(few) == ([], ["prompt_has_too_few_responses", "truncated"])
    for builder in BUILDERS:
        assert outcome(rows_of([1.0, 1.0, 0.0], ["a", "a", "a"]), build=builder) == ([], ["identical_responses"] * 3)
        assert outcome(rows_of([1.0, 1.0, 1.0], ["a", "b", "b"]), build=builder) == ([], ["zero_margin"] * 3)
        assert outcome(rows_of([0.0, 1.0, 2.0]), build=builder, min_gap=2.0) == ([], ["gap_too_small"] * 3)


def test_best_and_worst_of_the_same_text_give_no_pair() -> None:
    rows = rows_of([1.0, 0.5, 0.0], ["a", "b", "a"])
    assert outcome(rows) == ([], ["identical_responses", "not_extreme", "identical_responses"])
    # where every pair is built, the two are in others
    assert outcome(rows, build="all") == ([(0, 1), (1, 2)], [None, None, None])


def test_text_is_compared_exactly() -> None:
    assert outcome(rows_of([1.0, 0.0], ["a", "a "]))[0] == [(0, 1)]


def test_prompts_are_told_apart_by_id_even_with_equal_responses() -> None:
    rows = [dataclasses.replace(row, prompt=prompt) for prompt in "pq" for row in rows_of([1.0, 0.0])]
    assert outcome(rows)[0] == [(0, 1), (2, 3)]


@pytest.mark.parametrize("builder", BUILDERS)
def test_nothing_in_nothing_out(builder: str) -> None:
    assert outcome([], build=builder, length_penalty="auto") == ([], [])
    assert outcome([Row(reward=None)], build=builder) == ([], ["reward_not_finite"])


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"min_reward_chosen": 2.5}, "reward_chosen_too_low"),
        ({"max_reward_rejected": -0.5}, "reward_rejected_too_high"),
        ({"max_length_gap": 3}, "length_gap_too_large"),
        ({"max_similarity": 0.5}, "near_identical_responses"),
    ],
)
def test_filters_take_the_pair_and_name_its_responses(rules: dict, reason: str) -> None:
    rows = rows_of([2.0, 1.0, 0.0], ["the same words all over", "b", "the same words all over!"], [9, 4, 5])
    assert outcome(rows, **rules) == ([], [reason, "not_extreme", reason])


def test_of_several_reasons_the_pair_that_came_furthest_gives_its_own() -> None:
    rows = rows_of([3.0, 3.0, 2.0, 0.0], tokens=[3, 3, 9, 3])
    # 0 and 1 tie with each other, differ too much in length from 2, and are within the cap against 3 once
    pairs, reasons = outcome(rows, build="all", max_length_gap=2, max_per_prompt=1)
    assert pairs == [(0, 3)]
    assert reasons == [None, "over_max_per_prompt", "length_gap_too_large", None]


def test_the_cap_keeps_the_largest_margins_and_then_the_lowest_indices() -> None:
    rows = rows_of([2.0, 2.0, 0.0, 0.0, 1.5])
    assert outcome(rows, build="all", max_per_prompt=3)[0] == [(0, 2), (0, 3), (1, 2)]
    assert outcome(rows, build="all", max_per_prompt=2)[0] == [(0, 2), (0, 3)]
    pairs, reasons = outcome(rows, build="all", max_per_prompt=1)
    assert pairs == [(0, 2)]
    over = "over_max_per_prompt"
    assert reasons == [None, over, None, over, over]


def test_pairs_carry_the_reward_they_were_built_by_and_their_prompts_spread() -> None:
    pairing = build(rows_of([4.0, 1.0, 1.0, None], tokens=[10, 2, 5, 1]), length_penalty=0.5)
    # penalised: -1, 0, -1.5
    assert pairs_of(pairing) == [(1, 2)]
    assert (pairing.reward_chosen_P.tolist(), pairing.reward_rejected_P.tolist()) == ([0.0], [-1.5])
    values = np.array([-1.0, 0.0, -1.5])
    assert pairing.prompt_reward_mean_P.tolist() == pytest.approx([values.mean()])
    assert pairing.prompt_reward_std_P.tolist() == pytest.approx([values.std()])
    assert (pairing.length_penalty, pairing.fit) == (0.5, None)


def test_malformed_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt 'p' has response_index 0 more than once"):
        outcome([Row(text="a"), Row(text="b")])
    columns = {"prompt_ids": ["p", "p"], "response_index": [0, 1], "rewards": [1.0, 0.0], "texts": ["a", "b"]}
    with pytest.raises(ValueError, match="differ in length"):
        response_pool(**{**columns, "rewards": [1.0]})
    pool = response_pool(**columns)
    assert pairs_of(build_pairs(pool, PairRules(), 0)) == [(0, 1)]
    for rules in (PairRules(length_penalty=0.1), PairRules(length_penalty="auto"), PairRules(max_length_gap=1)):
        with pytest.raises(ValueError, match="need num_tokens of the responses"):
            build_pairs(pool, rules, 0)


@settings(max_examples=250)
@given(tables, all_rules(), st.integers(0, 3))
def test_equals_the_slow_reference(rows: list[Row], rules: dict, seed: int) -> None:
    pairs, reasons = outcome(rows, seed, **rules)
    wanted, wanted_reasons = slow_build(rows, PairRules(**rules), seed)
    assert len(pairs) == len(set(pairs))
    assert (set(pairs), reasons) == (wanted, wanted_reasons)


@settings(max_examples=100)
@given(tables, all_rules())
def test_what_holds_of_every_pairing(rows: list[Row], rules: dict) -> None:
    pairing = build(rows, **rules)
    pairs, reasons = pairs_of(pairing), pairing.reason_R.tolist()
    assert all(rows[chosen].prompt == rows[rejected].prompt for chosen, rejected in pairs)
    assert all(rows[chosen].text != rows[rejected].text for chosen, rejected in pairs)
    assert (pairing.reward_chosen_P > pairing.reward_rejected_P).all()
    assert (pairing.reward_chosen_P - pairing.reward_rejected_P > rules["min_gap"]).all()
    assert {i for i, reason in enumerate(reasons) if reason is None} == set(itertools.chain(*pairs))
    assert {reason for reason in reasons if reason} <= {*RESPONSE_REASONS, "reward_failed"}
    most = Counter(rows[chosen].prompt for chosen, _ in pairs)
    assert max(most.values(), default=0) <= (rules["max_per_prompt"] or (45 if rules["build"] == "all" else 1))


@given(tables, all_rules(), st.integers(0, 2), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(rows: list[Row], rules: dict, seed: int, randomness) -> None:
    shuffled = rows[:]
    randomness.shuffle(shuffled)
    assert named(rows, seed, rules) == named(shuffled, seed, rules)


def named(rows: list[Row], seed: int, rules: dict):
    """Pairs and reasons by response instead of row number."""
    pairs, reasons = outcome(rows, seed, **rules)
    names = [(row.prompt, row.index) for row in rows]
    return {(names[c], names[r]) for c, r in pairs}, dict(zip(names, reasons, strict=True))


@given(tables, st.sampled_from(BUILDERS), st.sampled_from([0.25, 2.0, 8.0]), st.sampled_from([-4.0, 0.0, 4.0]))
def test_affine_changes_of_the_reward_change_no_pair(rows: list[Row], builder: str, scale: float, shift: float) -> None:
    changed = [
        dataclasses.replace(row, reward=None if row.reward is None else scale * row.reward + shift) for row in rows
    ]
    assert outcome(rows, build=builder) == outcome(changed, build=builder)


def test_one_prompt_does_not_change_anothers_pair() -> None:
    rows = [Row(prompt=p, index=i, reward=float(i), text=f"{p}{i}") for p in "pqr" for i in range(4)]
    for builder in BUILDERS:
        together = named(rows, 7, {"build": builder})[0]
        apart = [named([row for row in rows if row.prompt == p], 7, {"build": builder})[0] for p in "pqr"]
        assert together == set().union(*apart)


LARGEST = sys.float_info.max


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("builder", BUILDERS)
def test_a_pair_whose_margin_is_beyond_the_largest_float_is_not_built(builder: str) -> None:
    pairing = build(rows_of([LARGEST, -LARGEST, LARGEST / 2, -LARGEST / 2, 0.0, 1.0]), build=builder)
    assert np.isfinite(pairing.reward_chosen_P - pairing.reward_rejected_P).all()
    assert np.isfinite(pairing.prompt_reward_mean_P).all() and np.isfinite(pairing.prompt_reward_std_P).all()
    assert (pairing.chosen_P != pairing.rejected_P).all()


def test_the_responses_of_such_a_pair_have_the_reason() -> None:
    beyond = "margin_not_finite"
    assert outcome(rows_of([LARGEST, -LARGEST, 0.0])) == ([], [beyond, beyond, "not_extreme"])
    assert outcome(rows_of([LARGEST, -LARGEST]), min_gap=1.0) == ([], [beyond, beyond])
    pairs, reasons = outcome(rows_of([LARGEST, -LARGEST, 0.0]), build="all")
    assert pairs == [(0, 2), (2, 1)] and reasons == [None] * 3


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("penalty", ["auto", 1e308])
def test_a_penalty_that_leaves_no_finite_reward_builds_no_pair_of_it(penalty: float | str) -> None:
    rows = rows_of([LARGEST / 2, 0.0, -LARGEST / 2, 1.0], tokens=[9, 1, 4, 2])
    pairing = build(rows, build="all", length_penalty=penalty)
    assert math.isfinite(pairing.length_penalty)
    assert np.isfinite(pairing.reward_chosen_P - pairing.reward_rejected_P).all()


def test_a_prompt_of_huge_rewards_takes_no_digit_of_anothers_spread() -> None:
    rows = [Row("p", 0, LARGEST), Row("p", 1, 0.0, "other"), Row("q", 0, 1e-3), Row("q", 1, 3e-3, "other")]
    assert build(rows).prompt_reward_std_P[1] == build(rows[2:]).prompt_reward_std_P[0]
