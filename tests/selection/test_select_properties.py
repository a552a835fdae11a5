"""What holds for every metric, whatever the table: row order, the reward's unit, counts, ties, groups."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.selection.metrics import METRICS
from selfplay.selection.reasons import PAIR_REASONS, TOO_LONG_FOR_TRAINING, DropReasons
from selfplay.selection.select import PairPool, Selection, select

COARSE = [0.0, 0.25, 0.5, 1.0, 2.0]
LOGPS = [-8.0, -4.0, -2.0, -1.0]
VALUES = {
    "reward_chosen": COARSE,
    "reward_rejected": COARSE,
    "num_tokens_chosen": [1, 2, 3],
    "num_tokens_rejected": [1, 2, 3],
    "policy_logp_chosen": LOGPS,
    "policy_logp_rejected": LOGPS,
    "reference_logp_chosen": LOGPS,
    "reference_logp_rejected": LOGPS,
    "policy_logp_chosen_alone": LOGPS,
    "seed_implicit_margin": [-1.0, *COARSE],
    "prompt_entropy": COARSE,
    "reward_fresh": COARSE,
    "prompt_reward_mean": COARSE,
    "prompt_reward_std": COARSE,
    "validation_loss": COARSE,
    "ask_llm_yes": COARSE[:4],
}
FAULTS = [math.nan, math.inf, -math.inf]


@st.composite
def pools(draw) -> PairPool:
    """Up to 25 pairs of coarse values, so that ties and flat columns abound; a few faults; perhaps groups and filters."""
    size = draw(st.integers(0, 25))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    flat = draw(st.sets(st.sampled_from(sorted(VALUES)), max_size=3))
    columns = {}
    for name, values in VALUES.items():
        column = generator.choice(values, size)
        if name in flat:
            column = np.full(size, values[-1])
        if column.dtype.kind == "f":
            column = np.where(generator.random(size) < 0.02, generator.choice(FAULTS, size), column)
        columns[name] = column
    columns["embedding"] = generator.integers(0, 2, (size, 2)).astype(np.float32)
    ids = [f"p{i}" for i in generator.permutation(1000)[:size]]
    dropped = [TOO_LONG_FOR_TRAINING if fate < 0.1 else None for fate in generator.random(size)]
    reasons = DropReasons.of(dropped) if draw(st.booleans()) else None
    groups = generator.choice([3, 7, 100], size) if draw(st.booleans()) else None
    return PairPool(pair_id=ids, columns=columns, drop_reason_P=reasons, group_P=groups)


def at(pool: PairPool, rows: np.ndarray) -> PairPool:
    return PairPool(
        pair_id=[pool.pair_id[row] for row in rows],
        columns={name: column[rows] for name, column in pool.columns.items()},
        drop_reason_P=None if pool.drop_reason_P is None else pool.drop_reason_P.at(rows),
        group_P=None if pool.group_P is None else pool.group_P[rows],
    )


def chosen(pool: PairPool, metric: str, keep: float, implicit_margin: str = "simpo") -> Selection:
    keep = 1.0 if METRICS[metric].keeps_all else keep
    beta = 0.1 if implicit_margin == "dpo" else None
    return select(
        pool, metric=metric, keep=keep, implicit_margin=implicit_margin, beta=beta, seed=5, allow_equal_reference=True
    )


every_metric = pytest.mark.parametrize("metric", METRICS)
keeps = st.one_of(st.integers(1, 30), st.floats(0, 1, exclude_min=True))
forms = st.sampled_from(["simpo", "dpo"])
few = settings(max_examples=20)


@every_metric
@few
@given(pool=pools(), keep=keeps, implicit_margin=forms)
def test_kept_and_dropped_are_all_and_the_best_k_are_kept(
    metric: str, pool: PairPool, keep: float, implicit_margin: str
) -> None:
    found = chosen(pool, metric, keep, implicit_margin)
    keep = found.summary.keep
    reasons = found.drop_reason_P.tolist()
    ranked = [row for row in range(len(pool)) if reasons[row] in (None, "not_selected")]
    size = round(keep * len(ranked)) if isinstance(keep, float) else min(keep, len(ranked))
    order = sorted(ranked, key=lambda row: (-found.metric_value_P[row], pool.pair_id[row]))
    assert np.flatnonzero(found.kept_P).tolist() == sorted(order[:size])
    assert found.rank_P[order].tolist() == list(range(1, len(ranked) + 1)) and (found.rank_P > 0).sum() == len(ranked)
    assert [reason is None for reason in reasons] == found.kept_P.tolist()
    assert found.summary.num_kept == size and found.summary.num_ranked == len(ranked)
    assert size + sum(found.summary.drop_reasons.values()) == found.summary.num_pairs == len(pool)
    assert set(found.summary.drop_reasons) <= PAIR_REASONS.keys()


@every_metric
@few
@given(pool=pools(), keep=keeps, implicit_margin=forms, seed=st.integers(0, 1000))
def test_row_order_does_not_matter(metric: str, pool: PairPool, keep: float, implicit_margin: str, seed: int) -> None:
    rows = np.random.default_rng(seed).permutation(len(pool))
    before, after = chosen(pool, metric, keep, implicit_margin), chosen(at(pool, rows), metric, keep, implicit_margin)
    assert after.rank_P.tolist() == before.rank_P[rows].tolist()
    assert after.drop_reason_P.tolist() == before.drop_reason_P.at(rows).tolist()
    assert np.array_equal(after.metric_value_P, before.metric_value_P[rows], equal_nan=True)
    inexact = {"length_gap_mean": None, "length_gap_kept_mean": None}
    assert dataclasses.replace(after.summary, **inexact) == dataclasses.replace(before.summary, **inexact)


# bees and the thresholds of rs_dpo and minimum_gap are in the reward's own unit
UNIT_FREE = [name for name in METRICS if name not in ("bees", "rs_dpo")]


@pytest.mark.parametrize("metric", UNIT_FREE)
@few
@given(pool=pools(), scale=st.sampled_from([0.25, 2.0, 64.0]), shift=st.sampled_from([-4.0, 0.0, 8.0]))
def test_affine_changes_of_the_reward_change_no_rank(metric: str, pool: PairPool, scale: float, shift: float) -> None:
    """Powers of two, so that the change itself is exact and ties stay ties."""
    changed = {
        name: scale * column + (0 if name == "prompt_reward_std" else shift) if "reward" in name else column
        for name, column in pool.columns.items()
    }
    before = chosen(pool, metric, 0.4)
    after = chosen(dataclasses.replace(pool, columns=changed), metric, 0.4)
    assert after.drop_reason_P.tolist() == before.drop_reason_P.tolist()
    assert after.rank_P.tolist() == before.rank_P.tolist()
    if metric in ("alignment_potential", "high_mean_low_variance"):
        assert after.metric_value_P == pytest.approx(before.metric_value_P, abs=1e-9, nan_ok=True)


@every_metric
@few
@given(pool=pools())
def test_with_groups_every_group_has_mean_0_and_spread_1_or_none(metric: str, pool: PairPool) -> None:
    groups = pool.group_P if pool.group_P is not None else np.arange(len(pool)) % 4
    found = chosen(dataclasses.replace(pool, group_P=groups), metric, 0.4)
    for group in set(groups.tolist()):
        values = found.metric_value_P[(groups == group) & np.isfinite(found.metric_value_P)]
        if not len(values):
            continue
        assert values.mean() == pytest.approx(0, abs=1e-9)
        if metric != "alignment_potential":
            assert np.ptp(values) == 0 or values.std() == pytest.approx(1)
        if len(values) == 1:
            assert values.tolist() == [0.0]


@few
@given(pool=pools(), keep=keeps, factor=st.sampled_from([0.5, 4.0]))
def test_groups_of_rewards_on_other_scales_are_on_a_par(pool: PairPool, keep: float, factor: float) -> None:
    groups = np.arange(len(pool)) % 2
    scale = np.where(groups == 0, factor, 1.0)
    rewards = {name: scale * pool.columns[name] for name in ("reward_chosen", "reward_rejected")}
    before = chosen(dataclasses.replace(pool, group_P=groups), "explicit_margin", keep)
    after = chosen(dataclasses.replace(pool, group_P=groups, columns=pool.columns | rewards), "explicit_margin", keep)
    assert after.rank_P.tolist() == before.rank_P.tolist()
