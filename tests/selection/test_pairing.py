"""Pair building: hand-made cases for every reason, and hypothesis against a slow reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.selection.pairing import best_worst
from selfplay.selection.reasons import RESPONSE_REASONS
from selfplay.selection.responses import response_pool

# (prompt id, response index, reward, text, finish reason, drop reason)
Row = tuple[str, int, float | None, str, str, str | None]


def pool_of(rows: list[Row]):
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(6)]
    names = ("prompt_ids", "response_index", "rewards", "texts", "finish_reasons", "drop_reasons")
    return response_pool(**dict(zip(names, columns, strict=True)))


def outcome(rows: list[Row]) -> tuple[list[tuple[int, int]], list[str | None]]:
    pairing = best_worst(pool_of(rows))
    pairs = list(zip(pairing.chosen_P.tolist(), pairing.rejected_P.tolist(), strict=True))
    return pairs, pairing.reason_R.tolist()


def row(
    index: int, reward: float | None, text: str, finish: str = "stop", drop: str | None = None, prompt: str = "p"
) -> Row:
    return (prompt, index, reward, text, finish, drop)


def test_highest_against_lowest_and_the_rest_not_extreme() -> None:
    pairs, reasons = outcome([row(0, 0.2, "a"), row(1, 0.9, "b"), row(2, 0.5, "c"), row(3, 0.1, "d")])
    assert pairs == [(1, 3)]
    assert reasons == ["not_extreme", None, "not_extreme", None]


def test_ties_go_to_the_lower_response_index_whatever_the_row_order() -> None:
    rows = [row(3, 0.0, "d"), row(2, 1.0, "c"), row(1, 0.0, "b"), row(0, 1.0, "a")]
    assert outcome(rows)[0] == [(3, 2)]
    assert outcome(rows[::-1])[0] == [(0, 1)]


def test_responses_at_fault_never_enter_and_the_first_fault_is_named() -> None:
    rows = [
        row(0, None, "", "length", "reward_failed: boom"),
        row(1, 5.0, " \n", "length"),
        row(2, 5.0, "cut off", "length"),
        row(3, None, "no reward"),
        row(4, float("inf"), "infinite"),
        row(5, 1.0, "good"),
        row(6, 0.0, "bad"),
        row(7, 9.0, "stopped from outside", "abort"),
    ]
    faults = ["reward_failed: boom", "empty", "truncated", "reward_not_finite", "reward_not_finite"]
    assert outcome(rows) == ([(5, 6)], [*faults, None, None, "truncated"])


def test_prompt_with_one_usable_response() -> None:
    assert outcome([row(0, 1.0, "a"), row(1, 0.0, "b", "length")]) == (
        [],
        ["prompt_has_too_few_responses", "truncated"],
    )


def test_same_text_everywhere_is_identical_even_if_rewards_tie() -> None:
    assert outcome([row(0, 1.0, "a"), row(1, 1.0, "a")]) == ([], ["identical_responses"] * 2)


def test_same_reward_everywhere_is_zero_margin() -> None:
    assert outcome([row(0, 1.0, "a"), row(1, 1.0, "b"), row(2, 1.0, "b")]) == ([], ["zero_margin"] * 3)


def test_best_and_worst_of_the_same_text_give_no_pair() -> None:
    rows = [row(0, 1.0, "a"), row(1, 0.5, "b"), row(2, 0.0, "a")]
    assert outcome(rows) == ([], ["identical_responses", "not_extreme", "identical_responses"])


def test_text_is_compared_exactly() -> None:
    assert outcome([row(0, 1.0, "a"), row(1, 0.0, "a ")])[0] == [(0, 1)]


def test_prompts_are_told_apart_by_id_even_with_equal_responses() -> None:
    rows = [row(i, r, t, prompt=p) for p in ("p", "q") for i, r, t in ((0, 1.0, "a"), (1, 0.0, "b"))]
    assert outcome(rows)[0] == [(0, 1), (2, 3)]


def test_nothing_in_nothing_out() -> None:
    assert outcome([]) == ([], [])
    assert outcome([row(0, None, "a")]) == ([], ["reward_not_finite"])


def test_malformed_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt 'p' has response_index 0 more than once"):
        pool_of([row(0, 1.0, "a"), row(0, 0.0, "b")])
    with pytest.raises(ValueError, match="differ in length"):
        response_pool(
            prompt_ids=["p"],
            response_index=[0, 1],
            rewards=[1.0],
            texts=["a"],
            finish_reasons=["stop"],
            drop_reasons=[None],
        )


def slow_best_worst(rows: list[Row]) -> tuple[set[tuple[int, int]], list[str | None]]:
    """Prompt by prompt, with Python's own min and max."""
    reasons: list[str | None] = []
    for _, _, reward, text, finish, drop in rows:
        fault = drop or (not text.strip() and "empty") or (finish != "stop" and "truncated")
        reasons.append(fault or (None if reward is not None and np.isfinite(reward) else "reward_not_finite"))
    pairs = set()
    for prompt in {r[0] for r in rows}:
        usable = sorted(
            (i for i in range(len(rows)) if rows[i][0] == prompt and reasons[i] is None), key=lambda i: rows[i][1]
        )
        if not usable:
            continue
        best, worst = max(usable, key=lambda i: rows[i][2]), min(usable, key=lambda i: rows[i][2])
        everyone: str | None = None
        if len(usable) == 1:
            everyone = "prompt_has_too_few_responses"
        elif len({rows[i][3] for i in usable}) == 1:
            everyone = "identical_responses"
        elif rows[best][2] == rows[worst][2]:
            everyone = "zero_margin"
        same = rows[best][3] == rows[worst][3]
        for i in usable:
            reasons[i] = everyone or (
                "not_extreme" if i not in (best, worst) else "identical_responses" if same else None
            )
        if everyone is None and not same:
            pairs.add((best, worst))
    return pairs, reasons


responses = st.tuples(
    st.sampled_from(["p", "q", "r"]),
    st.integers(0, 6),
    st.one_of(st.none(), st.sampled_from([0.0, -0.0, 0.5, 1.0, 1.5, float("nan"), float("inf")])),
    st.sampled_from(["a", "a", "b", "c", "", " "]),
    st.sampled_from(["stop", "stop", "stop", "length"]),
    st.sampled_from([None, None, None, "reward_failed"]),
)
tables = st.lists(responses, max_size=18, unique_by=lambda r: r[:2])


@given(tables)
def test_equals_the_slow_reference(rows: list[Row]) -> None:
    pairs, reasons = outcome(rows)
    assert len(pairs) == len(set(pairs))
    assert (set(pairs), reasons) == slow_best_worst(rows)


@given(tables)
def test_no_pair_from_two_prompts_and_one_reason_for_every_other_response(rows: list[Row]) -> None:
    pairs, reasons = outcome(rows)
    in_pairs = [i for pair in pairs for i in pair]
    assert len(in_pairs) == len(set(in_pairs))
    assert all(rows[chosen][0] == rows[rejected][0] for chosen, rejected in pairs)
    assert all(rows[chosen][3] != rows[rejected][3] for chosen, rejected in pairs)
    assert all(rows[chosen][2] > rows[rejected][2] for chosen, rejected in pairs)
    assert {i for i, reason in enumerate(reasons) if reason is None} == set(in_pairs)
    assert {reason for reason in reasons if reason} <= {*RESPONSE_REASONS, "reward_failed"}


@given(tables, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(rows: list[Row], randomness) -> None:
    order = list(range(len(rows)))
    randomness.shuffle(order)
    shuffled = [rows[i] for i in order]
    for before, after in zip(named(rows), named(shuffled), strict=True):
        assert before == after


def named(rows: list[Row]):
    """Pairs and reasons by response name instead of row number."""
    pairs, reasons = outcome(rows)
    names = [r[:2] for r in rows]
    return {(names[c], names[r]) for c, r in pairs}, dict(zip(names, reasons, strict=True))


@given(tables, st.sampled_from([0.25, 2.0, 8.0]), st.sampled_from([-4.0, 0.0, 4.0]))
def test_affine_changes_of_the_reward_change_no_pair(rows: list[Row], scale: float, shift: float) -> None:
    changed = [(p, i, None if r is None else scale * r + shift, *rest) for p, i, r, *rest in rows]
    assert outcome(rows) == outcome(changed)
