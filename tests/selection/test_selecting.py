"""The whole selection of a round: what it keeps, what it records, what it refuses."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.errors import ConfigError
from selfplay.selection.metrics import METRICS, Metric
from selfplay.selection.reasons import PAIR_REASONS, TOO_LONG_FOR_TRAINING, give_reason, no_reasons
from selfplay.selection.selecting import PairPool, Selection, select

COLUMNS = [field.name for field in dataclasses.fields(PairPool)]


def random_pool(num_pairs: int, seed: int = 0) -> PairPool:
    generator = np.random.default_rng(seed)
    return PairPool(
        pair_id=[f"p{i:05d}" for i in range(num_pairs)],
        reward_chosen_P=generator.normal(1, 1, num_pairs),
        reward_rejected_P=generator.normal(0, 1, num_pairs),
        num_tokens_chosen_P=generator.integers(1, 50, num_pairs),
        num_tokens_rejected_P=generator.integers(1, 50, num_pairs),
        policy_logp_chosen_P=-generator.exponential(30, num_pairs),
        policy_logp_rejected_P=-generator.exponential(30, num_pairs),
        reference_logp_chosen_P=-generator.exponential(30, num_pairs),
        reference_logp_rejected_P=-generator.exponential(30, num_pairs),
    )


def rows_of(pool: PairPool, order: list[int]) -> PairPool:
    """The pool's rows in another order."""
    values = {name: getattr(pool, name) for name in COLUMNS}
    taken = {
        name: [v[i] for i in order] if name == "pair_id" else v[order] for name, v in values.items() if v is not None
    }
    return PairPool(**taken)


def ids_kept(pool: PairPool, selection: Selection) -> set[str]:
    return {pool.pair_id[row] for row in np.flatnonzero(selection.kept_P)}


@pytest.mark.parametrize("metric", METRICS)
def test_margins_and_potential_are_filled_whatever_metric_ranks(metric: str) -> None:
    pool = random_pool(50)
    reference = select(pool, metric="alignment_potential", keep=0.4)
    selection = select(pool, metric=metric, keep=1.0 if METRICS[metric].keeps_all else 0.4)
    assert selection.explicit_margin_P.tolist() == (pool.reward_chosen_P - pool.reward_rejected_P).tolist()
    assert selection.implicit_margin_P.tolist() == reference.implicit_margin_P.tolist()
    assert selection.alignment_potential_P.tolist() == reference.alignment_potential_P.tolist()
    assert selection.summary.num_kept == (50 if METRICS[metric].keeps_all else 20)
    assert sorted(selection.rank_P.tolist()) == list(range(1, 51))
    assert (np.diff(selection.metric_value_P[np.argsort(selection.rank_P)]) <= 0).all()


def test_zero_margin_filtered_and_non_finite_pairs_are_out_before_the_z_scores() -> None:
    pool = random_pool(40)
    reward, logp = pool.reward_chosen_P.copy(), pool.policy_logp_chosen_P.copy()
    reward[0], logp[1], reward[3] = pool.reward_rejected_P[0], math.nan, 1e6
    too_long = give_reason(no_reasons(40), np.arange(40) == 3, TOO_LONG_FOR_TRAINING)
    pool = dataclasses.replace(pool, reward_chosen_P=reward, policy_logp_chosen_P=logp, drop_reason_P=too_long)
    selection = select(pool, metric="alignment_potential", keep=0.5, weight=2.5)

    assert [selection.drop_reason_P[i] for i in (0, 1, 3)] == [
        "zero_margin",
        "metric_not_finite",
        "too_long_for_training",
    ]
    assert selection.rank_P[[0, 1, 3]].tolist() == [0, 0, 0]
    assert selection.summary.num_ranked == selection.summary.num_standardized == 37
    assert selection.summary.num_kept == round(0.5 * 37)
    good = rows_of(pool, [i for i in range(40) if i not in (0, 1, 3)])
    alone = select(good, metric="alignment_potential", keep=0.5, weight=2.5)
    assert ids_kept(pool, selection) == ids_kept(good, alone)
    assert selection.summary.effective_beta == alone.summary.effective_beta
    # A pair that an earlier filter dropped still shows its numbers.
    assert np.isfinite(selection.alignment_potential_P[3])


def test_a_metric_that_needs_no_logps_works_without_them_and_others_say_what_they_need() -> None:
    pool = dataclasses.replace(random_pool(10), policy_logp_chosen_P=None, policy_logp_rejected_P=None)
    selection = select(pool, metric="explicit_margin", keep=3)
    assert selection.implicit_margin_P is None and selection.alignment_potential_P is None
    assert selection.summary.num_kept == 3 and selection.summary.effective_beta is None
    with pytest.raises(ConfigError, match="needs alignment_potential, which these pairs do not have"):
        select(pool, metric="alignment_potential", keep=3)


def test_dpo_form_needs_a_reference_that_differs() -> None:
    pool = random_pool(20)
    selection = select(pool, metric="alignment_potential", keep=0.4, form="dpo", beta=0.1)
    expected = 0.1 * (
        (pool.policy_logp_chosen_P - pool.reference_logp_chosen_P)
        - (pool.policy_logp_rejected_P - pool.reference_logp_rejected_P)
    )
    assert selection.implicit_margin_P == pytest.approx(expected)

    without = dataclasses.replace(pool, reference_logp_chosen_P=None, reference_logp_rejected_P=None)
    with pytest.raises(ConfigError, match="needs reference log-probs"):
        select(without, metric="random", keep=0.4, form="dpo", beta=0.1)

    equal = dataclasses.replace(
        pool,
        reference_logp_chosen_P=pool.policy_logp_chosen_P,
        reference_logp_rejected_P=pool.policy_logp_rejected_P,
    )
    with pytest.raises(ConfigError, match="every implicit margin is 0"):
        select(equal, metric="alignment_potential", keep=0.4, form="dpo", beta=0.1)
    # A metric that does not read the implicit margin goes on; so does a caller who knows, and both are on record.
    assert select(equal, metric="explicit_margin", keep=0.4, form="dpo", beta=0.1).summary.implicit_margin_all_zero
    allowed = select(equal, metric="alignment_potential", keep=0.4, form="dpo", beta=0.1, allow_equal_reference=True)
    assert allowed.summary.implicit_margin_all_zero
    assert ids_kept(equal, allowed) == ids_kept(equal, select(equal, metric="explicit_margin", keep=0.4))


def test_settings_that_do_nothing_or_cannot_work_are_refused() -> None:
    pool = random_pool(5)
    with pytest.raises(ConfigError, match=r"keeps every pair, but keep is 0\.4"):
        select(pool, metric="full", keep=0.4)
    with pytest.raises(ConfigError, match="keeps every pair, but keep is 1"):
        select(pool, metric="full", keep=1)
    with pytest.raises(ConfigError, match=r"form 'simpo' with beta 0\.1"):
        select(pool, metric="random", keep=0.4, beta=0.1)
    with pytest.raises(ConfigError, match="form 'dpo' with beta None"):
        select(pool, metric="random", keep=0.4, form="dpo")
    with pytest.raises(ConfigError, match="no metric 'explicit'"):
        select(pool, metric="explicit", keep=0.4)
    with pytest.raises(ValueError, match="differ in length"):
        dataclasses.replace(pool, reward_chosen_P=np.zeros(4))


def test_raw_form_and_a_persons_own_metric() -> None:
    pool = random_pool(30)
    raw = select(pool, metric="alignment_potential", keep=0.4, weight=2.0, standardize=False)
    assert raw.metric_value_P.tolist() == (np.abs(raw.explicit_margin_P) - 2 * np.abs(raw.implicit_margin_P)).tolist()
    assert raw.summary.effective_beta == 2.0

    own = Metric(
        "shortest", lambda num_tokens_chosen: -num_tokens_chosen, "-num_tokens_chosen", "short is kept", "here"
    )
    kept = select(pool, metric=own, keep=1)
    assert pool.num_tokens_chosen_P[kept.kept_P].tolist() == [pool.num_tokens_chosen_P.min()]


def test_summary_is_plain_json_and_complete() -> None:
    pool = random_pool(100)
    selection = select(pool, metric="alignment_potential", keep=0.4, weight=2.5, seed=3)
    summary = json.loads(json.dumps(dataclasses.asdict(selection.summary), allow_nan=False))
    explicit, size = selection.explicit_margin_P, np.abs(selection.implicit_margin_P)
    gap = pool.num_tokens_chosen_P - pool.num_tokens_rejected_P
    assert summary == {
        "metric": "alignment_potential",
        "keep": 0.4,
        "seed": 3,
        "form": "simpo",
        "weight": 2.5,
        "beta": None,
        "standardize": True,
        "num_pairs": 100,
        "num_ranked": 100,
        "num_kept": 40,
        "drop_reasons": {"not_selected": 60},
        "cut_value": sorted(selection.metric_value_P)[60],
        "num_standardized": 100,
        "explicit_margin_mean": pytest.approx(explicit.mean()),
        "explicit_margin_std": pytest.approx(explicit.std()),
        "implicit_margin_abs_mean": pytest.approx(size.mean()),
        "implicit_margin_abs_std": pytest.approx(size.std()),
        "effective_beta": pytest.approx(2.5 * explicit.std() / size.std()),
        "implicit_margin_all_zero": False,
        "length_gap_mean": pytest.approx(gap.mean()),
        "length_gap_kept_mean": pytest.approx(gap[selection.kept_P].mean()),
    }


def test_no_pairs_at_all() -> None:
    selection = select(random_pool(0), metric="alignment_potential", keep=0.4)
    assert selection.kept_P.tolist() == [] and selection.summary.cut_value is None
    json.dumps(dataclasses.asdict(selection.summary), allow_nan=False)


value = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, math.nan])
logp = st.sampled_from([-8.0, -4.0, -2.0, -1.0, math.nan])
tokens = st.integers(0, 4)
reason = st.sampled_from([None, None, None, TOO_LONG_FOR_TRAINING])
tables = st.lists(st.tuples(value, value, tokens, tokens, logp, logp, reason), max_size=25)
metrics = st.sampled_from([name for name in METRICS if name != "full"])
keeps = st.one_of(st.integers(1, 30), st.floats(0, 1, exclude_min=True))


def pool_of(table) -> PairPool:
    columns = [np.array([row[i] for row in table], dtype=float) for i in range(6)]
    reasons = np.array([row[6] for row in table], dtype=object)
    ids = [f"p{(7 * i) % 29:02d}" for i in range(len(table))]
    chosen, rejected, length_chosen, length_rejected, logp_chosen, logp_rejected = columns
    return PairPool(
        pair_id=ids,
        reward_chosen_P=chosen,
        reward_rejected_P=rejected,
        num_tokens_chosen_P=length_chosen.astype(np.int64),
        num_tokens_rejected_P=length_rejected.astype(np.int64),
        policy_logp_chosen_P=logp_chosen,
        policy_logp_rejected_P=logp_rejected,
        drop_reason_P=reasons,
    )


@given(tables, metrics, keeps)
def test_kept_and_dropped_are_all_and_k_is_respected(table, metric: str, keep: float) -> None:
    pool = pool_of(table)
    selection = select(pool, metric=metric, keep=keep)
    summary = selection.summary
    ranked = selection.rank_P > 0
    assert summary.num_kept == (round(keep * ranked.sum()) if isinstance(keep, float) else min(keep, ranked.sum()))
    assert summary.num_kept + sum(summary.drop_reasons.values()) == summary.num_pairs == len(table)
    assert [given is None for given in selection.drop_reason_P] == selection.kept_P.tolist()
    assert set(summary.drop_reasons) <= set(PAIR_REASONS)
    assert sorted(selection.rank_P[ranked].tolist()) == list(range(1, ranked.sum() + 1))
    order = sorted(np.flatnonzero(ranked), key=lambda i: (-selection.metric_value_P[i], pool.pair_id[i]))
    assert selection.rank_P[order].tolist() == list(range(1, len(order) + 1))
    assert np.flatnonzero(selection.kept_P).tolist() == sorted(order[: summary.num_kept])


@given(tables, metrics, keeps, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(table, metric: str, keep: float, randomness) -> None:
    pool = pool_of(table)
    order = list(range(len(table)))
    randomness.shuffle(order)
    before = select(pool, metric=metric, keep=keep, weight=2.5)
    after = select(rows_of(pool, order), metric=metric, keep=keep, weight=2.5)
    assert after.rank_P.tolist() == before.rank_P[order].tolist()
    assert after.drop_reason_P.tolist() == before.drop_reason_P[order].tolist()
    # Sums over what was kept may differ in the last bit; the pool's statistics may not.
    inexact = {"length_gap_mean": None, "length_gap_kept_mean": None}
    assert dataclasses.replace(after.summary, **inexact) == dataclasses.replace(before.summary, **inexact)


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.5, 40.0]), st.sampled_from([-5.0, 0.0, 3.0]))
def test_affine_changes_of_the_reward_keep_the_same_pairs(seed: int, scale: float, shift: float) -> None:
    pool = random_pool(60, seed)
    changed = dataclasses.replace(
        pool,
        reward_chosen_P=scale * pool.reward_chosen_P + shift,
        reward_rejected_P=scale * pool.reward_rejected_P + shift,
    )
    before = select(pool, metric="alignment_potential", keep=0.4)
    after = select(changed, metric="alignment_potential", keep=0.4)
    assert before.rank_P.tolist() == after.rank_P.tolist()
    assert after.summary.effective_beta == pytest.approx(scale * before.summary.effective_beta)


def test_drop_reasons_are_counted() -> None:
    pool = random_pool(10)
    reasons = give_reason(no_reasons(10), np.arange(10) < 3, TOO_LONG_FOR_TRAINING)
    selection = select(dataclasses.replace(pool, drop_reason_P=reasons), metric="random", keep=2)
    assert selection.summary.drop_reasons == {"not_selected": 5, "too_long_for_training": 3}
    assert Counter(selection.drop_reason_P.tolist()) == {"not_selected": 5, "too_long_for_training": 3, None: 2}
    assert reasons.tolist().count(None) == 7  # the caller's array is left as it was
