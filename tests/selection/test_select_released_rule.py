"""Our selection against the released code's ranking rule, as an independent script (`released_rule.py`) works it out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from selfplay.selection.reasons import IDENTICAL_RESPONSES, no_reasons, with_reason
from selfplay.selection.select import PairPool, Selection, select
from tests.helpers import released_rule as script_module
from tests.helpers.released_rule import KEEP, released_rule, z

NUM_PAIRS = 10_000
SEEDS = range(20)


def random_table(seed: int) -> dict[str, np.ndarray]:
    """Rewards, summed log-probs and token counts (chosen, rejected) of 10,000 pairs: continuous or coarse (ties), with
    duplicated rows, zero margins, identical responses and, in some tables, columns without variance."""
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
    # a noisy reward gives one text two rewards: such a pair has a margin, and must not shape the z-scores
    identical = generator.random(NUM_PAIRS) < 0.03
    if seed % 5 != 2:
        rewards[identical, 0] += 3 * rewards.std()
    return {"reward": rewards, "logp": logps, "num_tokens": tokens, "identical": identical}


def columns_of(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    numbers = {"reward": "reward", "num_tokens": "num_tokens", "policy_logp": "logp"}
    return {
        f"{name}_{side}": table[key][:, i]
        for name, key in numbers.items()
        for i, side in enumerate(("chosen", "rejected"))
    }


def ours(table: dict[str, np.ndarray], weight: float) -> Selection:
    pool = PairPool(
        pair_id=[f"{(i * 7919) % NUM_PAIRS:05d}" for i in range(NUM_PAIRS)],
        columns=columns_of(table),
        drop_reason_P=with_reason(no_reasons(NUM_PAIRS), table["identical"], IDENTICAL_RESPONSES),
    )
    return select(pool, metric="alignment_potential", keep=KEEP, weight=weight)


@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_keeps_what_the_released_rule_keeps(seed: int, weight: float) -> None:
    table = random_table(seed)
    found, (theirs, values) = ours(table, weight), released_rule(table, weight)
    entered = np.flatnonzero(np.isfinite(values))
    kept = np.flatnonzero(found.kept_P)
    assert 0 < len(entered) < NUM_PAIRS
    reasons = found.summary.drop_reasons
    assert reasons["zero_margin"] > 0 and reasons["identical_responses"] == table["identical"].sum()
    assert found.summary.num_ranked == len(entered)
    assert found.metric_value_P[entered] == pytest.approx(values[entered], abs=1e-9)
    assert len(kept) == len(theirs) == round(KEEP * len(entered))
    # The same values are kept, as multisets, ties at the cut included (by their numbers, so that nothing is ours) ...
    assert np.sort(values[kept]).tolist() == np.sort(values[theirs]).tolist()
    # ... and away from ties at the cut the same pairs.
    cut = values[theirs].min()
    above = set(np.flatnonzero(values > cut).tolist())
    assert above == set(theirs.tolist()) & above == set(kept.tolist()) & above
    if (values == cut).sum() == (values[theirs] == cut).sum():
        assert set(kept.tolist()) == set(theirs.tolist())

    # Ranking by R - b_eff |L| is the same ranking.
    if found.summary.effective_beta is not None:
        explicit = table["reward"][:, 0] - table["reward"][:, 1]
        potential = explicit - found.summary.effective_beta * np.abs(found.implicit_margin_P)
        by_rank = potential[np.argsort(found.rank_P)[np.sort(found.rank_P) > 0]]
        assert (np.diff(by_rank) <= 1e-9 * np.abs(by_rank).max()).all()


def test_the_script_by_itself_keeps_the_same(tmp_path: Path) -> None:
    """In a process of its own, in which selfplay is never imported."""
    table = random_table(0)
    np.savez(tmp_path / "table.npz", **table)
    script = Path(str(script_module.__file__))
    command = [sys.executable, str(script), str(tmp_path / "table.npz"), "2.5"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [int(row) for row in printed.split()] == np.flatnonzero(ours(table, 2.5).kept_P).tolist()


def test_the_tables_hold_what_they_promise() -> None:
    """Ties at the cut, duplicates and flat columns do occur among the twenty."""
    tied, flat_explicit, flat_implicit = 0, 0, 0
    for seed in SEEDS:
        table = random_table(seed)
        kept, values = released_rule(table, 1.0)
        entered = np.isfinite(values)
        explicit = (table["reward"][:, 0] - table["reward"][:, 1])[entered]
        mean_logp = (table["logp"] / table["num_tokens"])[entered]
        size = np.abs(mean_logp[:, 0] - mean_logp[:, 1])
        assert len(np.unique(np.column_stack([explicit, size]), axis=0)) < len(explicit)
        tied += (values == values[kept].min()).sum() > (values[kept] == values[kept].min()).sum()
        flat_explicit += np.ptp(explicit) == 0
        flat_implicit += np.ptp(size) == 0
    assert tied >= 3 and flat_explicit >= 1 and flat_implicit >= 1


@pytest.mark.parametrize("seed", [0, 1, 4, 8, 12])
def test_with_zero_margins_kept_it_is_the_released_rule_on_them_too(seed: int) -> None:
    table = random_table(seed)
    pool = PairPool(pair_id=[f"{row:05d}" for row in range(NUM_PAIRS)], columns=columns_of(table))
    found = select(pool, metric="alignment_potential", keep=KEEP, keep_zero_margins=True)
    explicit = table["reward"][:, 0] - table["reward"][:, 1]
    mean_logp = table["logp"] / table["num_tokens"]
    values = z(explicit) - z(np.abs(mean_logp[:, 0] - mean_logp[:, 1]))
    assert (explicit == 0).sum() > 100
    assert found.summary.num_ranked == NUM_PAIRS
    assert found.metric_value_P == pytest.approx(values, abs=1e-9)
    best = np.argsort(-values, kind="stable")[: round(KEEP * NUM_PAIRS)]
    assert np.sort(values[found.kept_P]).tolist() == pytest.approx(np.sort(values[best]).tolist(), abs=1e-9)
    assert found.summary.keep_zero_margins is True
