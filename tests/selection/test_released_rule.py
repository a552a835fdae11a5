"""Our selection against the released code's ranking rule, written anew here from its description.

Rank by z(R) - w z(|L|), L the difference of mean log-probs, z by numpy's population mean and standard deviation
over the whole candidate pool; keep the top 40 % by argsort. Pairs of zero margin are removed first, as ours does.
"""

import numpy as np
import pytest

from selfplay.selection.selecting import PairPool, select

NUM_PAIRS = 10_000
KEEP = 0.4


def released_rule(rewards_PN, mean_logps_PN, weight: float):
    """Rows kept and the value of every row. Columns of the inputs: chosen, rejected."""

    def z(values):
        std = np.std(values)
        # The description leaves the flat column open; anything constant leaves the ranking to the other column.
        return (values - np.mean(values)) / std if np.ptp(values) > 0 else np.zeros_like(values)

    explicit = rewards_PN[:, 0] - rewards_PN[:, 1]
    implicit = np.abs(mean_logps_PN[:, 0] - mean_logps_PN[:, 1])
    values = z(explicit) - weight * z(implicit)
    order = np.argsort(values)[::-1]
    return order[: round(KEEP * len(values))], values


def random_table(seed: int):
    """Rewards, summed log-probs and token counts (chosen, rejected) of 10,000 pairs: continuous or coarse (ties), with
    duplicated rows, zero margins and, in some tables, columns without variance."""
    generator = np.random.default_rng(seed)
    rewards = np.sort(generator.normal(0, 10.0 ** generator.integers(-2, 3), (NUM_PAIRS, 2)))[:, ::-1]
    tokens = generator.integers(1, 400, (NUM_PAIRS, 2))
    logps = -generator.gamma(2.0, 0.4, (NUM_PAIRS, 2)) * tokens
    if seed % 4 == 1:  # coarse: many ties in each column, and of whole rows
        rewards, tokens, logps = np.round(rewards / rewards.std() * 2), tokens // 100 + 1, np.round(logps / 100)
    if seed % 5 == 2:  # no variance in the explicit margin, or in the implicit one
        rewards = np.column_stack([rewards[:, 1] + 0.25, rewards[:, 1]]) if seed % 2 else rewards
        rewards = np.round(rewards * 64) / 64
        logps = logps if seed % 2 else np.column_stack([-1.5 * tokens[:, 0], -1.25 * tokens[:, 1]])
    twice = generator.integers(NUM_PAIRS, size=NUM_PAIRS // 5)
    copies = generator.permutation(NUM_PAIRS)[: len(twice)]
    for column in (rewards, tokens, logps):
        column[copies] = column[twice]
    rewards[generator.random(NUM_PAIRS) < 0.05, 0] = 0.0
    rewards[rewards[:, 0] == 0.0, 1] = 0.0
    return rewards, tokens, logps


@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize("seed", range(20))
def test_keeps_what_the_released_rule_keeps(seed: int, weight: float) -> None:
    rewards, tokens, logps = random_table(seed)
    pool = PairPool(
        pair_id=[f"{(i * 7919) % NUM_PAIRS:05d}" for i in range(NUM_PAIRS)],
        reward_chosen_P=rewards[:, 0],
        reward_rejected_P=rewards[:, 1],
        num_tokens_chosen_P=tokens[:, 0],
        num_tokens_rejected_P=tokens[:, 1],
        policy_logp_chosen_P=logps[:, 0],
        policy_logp_rejected_P=logps[:, 1],
    )
    ours = select(pool, metric="alignment_potential", keep=KEEP, weight=weight)

    entered = np.flatnonzero(rewards[:, 0] != rewards[:, 1])
    assert 0 < len(entered) < NUM_PAIRS
    rows, values = released_rule(rewards[entered], (logps / tokens)[entered], weight)
    theirs, our_values = entered[rows], ours.metric_value_P[ours.kept_P]
    values_by_row = np.full(NUM_PAIRS, -np.inf)
    values_by_row[entered] = values

    assert ours.metric_value_P[entered] == pytest.approx(values, abs=1e-9)
    assert len(our_values) == len(theirs) == round(KEEP * len(entered))
    # The same values are kept, as multisets, ties at the cut included (by their numbers, so that nothing is ours) ...
    assert np.sort(values_by_row[ours.kept_P]).tolist() == np.sort(values_by_row[theirs]).tolist()
    # ... and away from ties at the cut the same pairs.
    cut = values_by_row[theirs].min()
    above = set(np.flatnonzero(values_by_row > cut).tolist())
    assert above == set(theirs.tolist()) & above == set(np.flatnonzero(ours.kept_P).tolist()) & above
    if (values_by_row == cut).sum() == (values_by_row[theirs] == cut).sum():
        assert set(np.flatnonzero(ours.kept_P).tolist()) == set(theirs.tolist())

    # Ranking by R - b_eff |L| is the same ranking.
    if ours.summary.effective_beta is not None:
        potential = rewards[:, 0] - rewards[:, 1] - ours.summary.effective_beta * np.abs(ours.implicit_margin_P)
        by_rank = potential[np.argsort(ours.rank_P)[np.sort(ours.rank_P) > 0]]
        assert (np.diff(by_rank) <= 1e-9 * np.abs(by_rank).max()).all()


def test_the_tables_hold_what_they_promise() -> None:
    """Ties at the cut, duplicates and flat columns do occur among the twenty."""
    tied, flat_explicit, flat_implicit = 0, 0, 0
    for seed in range(20):
        rewards, tokens, logps = random_table(seed)
        entered = rewards[:, 0] != rewards[:, 1]
        explicit = (rewards[:, 0] - rewards[:, 1])[entered]
        size = np.abs(logps[:, 0] / tokens[:, 0] - logps[:, 1] / tokens[:, 1])[entered]
        assert len(np.unique(np.column_stack([explicit, size]), axis=0)) < len(explicit)
        rows, values = released_rule(rewards[entered], (logps / tokens)[entered], 1.0)
        tied += (values == values[rows].min()).sum() > (values[rows] == values[rows].min()).sum()
        flat_explicit += np.ptp(explicit) == 0
        flat_implicit += np.ptp(size) == 0
    assert tied >= 3 and flat_explicit >= 1 and flat_implicit >= 1
