"""The fitted penalty: against a search over every breakpoint, and where no penalty balances."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.core.outcomes import LengthFit
from selfplay.selection.pairing.length_penalty import NEAR_ZERO, fit_length_penalty
from tests.helpers.slow_pairing import BUILDERS, Row, build, pairs_of, rows_of


def gap(rows: list[Row], **rules) -> float | None:
    lengths = [rows[chosen].tokens - rows[rejected].tokens for chosen, rejected in pairs_of(build(rows, **rules))]
    return sum(lengths) / len(lengths) if lengths else None


def pool(seed: int, num_prompts: int, slope: float, num_responses: int = 5) -> list[Row]:
    """Rewards that rise by `slope` for each token, and noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for prompt, index in itertools.product(range(num_prompts), range(num_responses)):
        tokens = int(generator.integers(5, 200))
        reward = slope * tokens + generator.normal()
        rows.append(Row(prompt=f"p{prompt}", index=index, reward=reward, text=f"{prompt} {index}", tokens=tokens))
    return rows


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("slope", [0.02, -0.01])
def test_the_gap_goes_and_the_slope_is_found(builder: str, slope: float) -> None:
    rows = pool(0, 400, slope, num_responses=8)
    pairing = build(rows, build=builder, length_penalty="auto")
    assert pairing.fit is not None
    # a length that pays is penalised, one that costs is rewarded; the two nearest are as long anyway
    if builder != "minimum_gap":
        assert pairing.fit.penalty == pytest.approx(slope, rel=0.25)
        assert abs(pairing.fit.length_gap_without or 0) > 3
    assert abs(pairing.fit.length_gap or 0) < 0.5
    assert pairing.length_penalty == pairing.fit.penalty
    # what is said of the fit is true of the pairs, and the penalty as a number gives the same ones
    assert gap(rows, build=builder, length_penalty=pairing.fit.penalty) == pytest.approx(pairing.fit.length_gap)
    assert gap(rows, build=builder) == pytest.approx(pairing.fit.length_gap_without)
    tokens = np.array([row.tokens for row in rows])
    rewards = np.array([row.reward for row in rows])
    assert pairing.reward_chosen_P.tolist() == (rewards - pairing.length_penalty * tokens)[pairing.chosen_P].tolist()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("pq"), st.integers(-6, 6), st.integers(1, 9)), max_size=10),
    st.sampled_from(["best_worst", "all", "random_pair"]),
)
def test_no_other_penalty_is_better(responses: list[tuple[str, int, int]], builder: str) -> None:
    rows = [
        Row(prompt=prompt, index=i, reward=float(reward), text=f"text {i}", tokens=tokens)
        for i, (prompt, reward, tokens) in enumerate(responses)
    ]
    pairing = build(rows, build=builder, length_penalty="auto")
    assert pairing.fit is not None
    breakpoints = {
        (one.reward - two.reward) / (one.tokens - two.tokens)
        for one, two in itertools.permutations(rows, 2)
        if one.prompt == two.prompt and one.tokens != two.tokens
    }
    edges = sorted({-100.0, 100.0, 0.0, *breakpoints})
    tried = [0.0, *((low + high) / 2 for low, high in itertools.pairwise(edges))]
    gaps = [abs(found) for penalty in tried if (found := gap(rows, build=builder, length_penalty=penalty)) is not None]
    if pairing.fit.length_gap is None:
        # without a penalty there is no pair, so there is nothing to balance
        assert gap(rows, build=builder) is None
    else:
        assert abs(pairing.fit.length_gap) <= min(gaps) + NEAR_ZERO + 1e-9
        assert pairing.fit.balanced is (abs(pairing.fit.length_gap) <= NEAR_ZERO)


def test_filters_are_part_of_the_fit() -> None:
    rows = pool(1, 400, 0.02)
    for rules in ({"max_length_gap": 60}, {"min_gap": 0.5}, {"build": "all", "max_per_prompt": 2}):
        fit = build(rows, length_penalty="auto", **rules).fit
        assert fit is not None
        assert abs(fit.length_gap_without or 0) > 5
        assert abs(fit.length_gap or 0) < 0.5


def test_one_pair_that_cannot_be_balanced_is_said() -> None:
    fit = build(rows_of([1.0, 0.0], tokens=[9, 4]), length_penalty="auto").fit
    assert fit == LengthFit(0.0, 5.0, 5.0, balanced=False)


def test_nothing_to_do() -> None:
    assert build(rows_of([1.0, 0.0], tokens=[4, 4]), length_penalty="auto").fit == LengthFit(
        0.0, 0.0, 0.0, balanced=True
    )
    assert build(rows_of([1.0, 1.0]), length_penalty="auto").fit == LengthFit(0.0, None, None, balanced=False)


def test_search_over_made_up_gaps() -> None:
    # a step that jumps over zero: the nearer side
    assert fit_length_penalty(lambda p: 3.0 if p < 0.7 else -1.0, 2.0).length_gap == -1.0
    assert fit_length_penalty(lambda p: 1.0 if p < 0.7 else -3.0, 2.0) == LengthFit(0.0, 1.0, 1.0, balanced=False)
    # a plateau of zero far narrower than what is searched
    fit = fit_length_penalty(lambda p: 3.0 if p < 1e-4 else (-3.0 if p > 1.1e-4 else 0.0), 1e4)
    assert fit.balanced
    assert 1e-4 <= fit.penalty <= 1.1e-4
    # the pairs vanish when the penalty goes too far
    fit = fit_length_penalty(lambda p: None if p > 0.5 else 1.0 - 10 * p, 2.0)
    assert fit.penalty == pytest.approx(0.1, abs=1e-3)
    # no turn at the end, but on the way there
    fit = fit_length_penalty(lambda p: 5.0 if p > 1.5 or p < 0.3 else -0.5, 2.0)
    assert (fit.length_gap, fit.balanced) == (-0.5, False)
    # no turn anywhere
    assert fit_length_penalty(lambda p: 5.0 + abs(p), 2.0) == LengthFit(0.0, 5.0, 5.0, balanced=False)
    assert fit_length_penalty(lambda p: -5.0 - abs(p), 2.0).penalty == 0.0
