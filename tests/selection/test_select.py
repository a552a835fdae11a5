"""The whole selection of a round: what it keeps, what it records, what it refuses."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.core.errors import ConfigError
from selfplay.selection.metrics import METRICS, Metric, columns_needed
from selfplay.selection.metrics.inputs import POLICY_LOGPS
from selfplay.selection.reasons import PAIR_REASONS, TOO_LONG_FOR_TRAINING, DropReasons, no_reasons, with_reason
from selfplay.selection.select import PairPool, Selection, select


def random_pool(num_pairs: int, seed: int = 0) -> PairPool:
    generator = np.random.default_rng(seed)
    return PairPool(
        pair_id=[f"p{i:05d}" for i in range(num_pairs)],
        columns={
            "reward_chosen": generator.normal(1, 1, num_pairs),
            "reward_rejected": generator.normal(0, 1, num_pairs),
            "num_tokens_chosen": generator.integers(1, 50, num_pairs),
            "num_tokens_rejected": generator.integers(1, 50, num_pairs),
            "policy_logp_chosen": -generator.exponential(30, num_pairs),
            "policy_logp_rejected": -generator.exponential(30, num_pairs),
            "reference_logp_chosen": -generator.exponential(30, num_pairs),
            "reference_logp_rejected": -generator.exponential(30, num_pairs),
            "seed_implicit_margin": generator.normal(0, 1, num_pairs),
            "prompt_entropy": generator.exponential(30, num_pairs),
            "reward_fresh": generator.normal(0, 1, num_pairs),
            "prompt_reward_mean": generator.normal(0, 1, num_pairs),
            "prompt_reward_std": generator.exponential(1, num_pairs),
            "validation_loss": generator.exponential(1, num_pairs),
            "policy_logp_chosen_alone": -generator.exponential(40, num_pairs),
            "ask_llm_yes": generator.random(num_pairs),
            "embedding": generator.normal(size=(num_pairs, 4)).astype(np.float32),
        },
    )


def rows_of(pool: PairPool, order: list[int]) -> PairPool:
    """The pool's rows in another order."""
    rows = np.array(order, dtype=np.int64)
    return PairPool(
        pair_id=[pool.pair_id[i] for i in order],
        columns={name: column[rows] for name, column in pool.columns.items()},
        drop_reason_P=None if pool.drop_reason_P is None else pool.drop_reason_P.at(rows),
        group_P=None if pool.group_P is None else pool.group_P[rows],
    )


def with_columns(pool: PairPool, **columns) -> PairPool:
    """The pool with some columns replaced; None takes one away."""
    changed = {name: column for name, column in {**pool.columns, **columns}.items() if column is not None}
    return dataclasses.replace(pool, columns=changed)


def ids_kept(pool: PairPool, selection: Selection) -> set[str]:
    return {pool.pair_id[row] for row in np.flatnonzero(selection.kept_P)}


@pytest.mark.parametrize("metric", METRICS)
def test_margins_and_potential_are_filled_whatever_metric_ranks(metric: str) -> None:
    pool = random_pool(50)
    reference = select(pool, metric="alignment_potential", keep=0.4)
    selection = select(pool, metric=metric, keep=1.0 if METRICS[metric].keeps_all else 0.4)
    assert selection.explicit_margin_P.tolist() == reference.explicit_margin_P.tolist()
    assert selection.implicit_margin_P.tolist() == reference.implicit_margin_P.tolist()
    assert selection.alignment_potential_P.tolist() == reference.alignment_potential_P.tolist()
    out = selection.drop_reason_P.counts().get("excluded_by_metric", 0)
    assert (out > 0) == (metric in {"fdpo", "rs_dpo", "minimum_gap", "ifd"})
    assert selection.summary.num_kept == (50 if METRICS[metric].keeps_all else round(0.4 * (50 - out)))
    assert sorted(selection.rank_P.tolist()) == [0] * out + list(range(1, 51 - out))
    by_rank = selection.metric_value_P[np.argsort(selection.rank_P)][out:]
    assert (np.diff(by_rank) <= 0).all()


def test_zero_margin_filtered_and_non_finite_pairs_are_out_before_the_z_scores() -> None:
    pool = random_pool(40)
    reward, logp = pool.columns["reward_chosen"].copy(), pool.columns["policy_logp_chosen"].copy()
    reward[0], logp[1], reward[3] = pool.columns["reward_rejected"][0], math.nan, 1e6
    too_long = with_reason(no_reasons(40), np.arange(40) == 3, TOO_LONG_FOR_TRAINING)
    pool = dataclasses.replace(
        with_columns(pool, reward_chosen=reward, policy_logp_chosen=logp), drop_reason_P=too_long
    )
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
    pool = with_columns(random_pool(10), policy_logp_chosen=None, policy_logp_rejected=None)
    selection = select(pool, metric="explicit_margin", keep=3)
    assert selection.implicit_margin_P is None and selection.alignment_potential_P is None
    assert selection.summary.num_kept == 3 and selection.summary.effective_beta is None
    with pytest.raises(ConfigError, match="needs alignment_potential, which these pairs do not have"):
        select(pool, metric="alignment_potential", keep=3)


def test_dpo_form_needs_a_reference_that_differs() -> None:
    pool = random_pool(20)
    selection = select(pool, metric="alignment_potential", keep=0.4, implicit_margin="dpo", beta=0.1)
    expected = 0.1 * (
        (pool.columns["policy_logp_chosen"] - pool.columns["reference_logp_chosen"])
        - (pool.columns["policy_logp_rejected"] - pool.columns["reference_logp_rejected"])
    )
    assert selection.implicit_margin_P == pytest.approx(expected)

    without = with_columns(pool, reference_logp_chosen=None, reference_logp_rejected=None)
    with pytest.raises(ConfigError, match="needs reference log-probs"):
        select(without, metric="random", keep=0.4, implicit_margin="dpo", beta=0.1)

    equal = with_columns(
        pool,
        reference_logp_chosen=pool.columns["policy_logp_chosen"],
        reference_logp_rejected=pool.columns["policy_logp_rejected"],
    )
    with pytest.raises(ConfigError, match="every implicit margin is 0"):
        select(equal, metric="alignment_potential", keep=0.4, implicit_margin="dpo", beta=0.1)
    # A metric that does not read the implicit margin goes on; so does a caller who knows, and both are on record.
    assert select(
        equal, metric="explicit_margin", keep=0.4, implicit_margin="dpo", beta=0.1
    ).summary.implicit_margin_all_zero
    allowed = select(
        equal, metric="alignment_potential", keep=0.4, implicit_margin="dpo", beta=0.1, allow_equal_reference=True
    )
    assert allowed.summary.implicit_margin_all_zero
    assert ids_kept(equal, allowed) == ids_kept(equal, select(equal, metric="explicit_margin", keep=0.4))


def test_settings_that_do_nothing_or_cannot_work_are_refused() -> None:
    pool = random_pool(5)
    with pytest.raises(ConfigError, match=r"keeps every pair, but keep is 0\.4"):
        select(pool, metric="full", keep=0.4)
    with pytest.raises(ConfigError, match="keeps every pair, but keep is 1"):
        select(pool, metric="full", keep=1)
    with pytest.raises(ConfigError, match=r"implicit_margin: simpo with beta 0\.1"):
        select(pool, metric="random", keep=0.4, beta=0.1)
    with pytest.raises(ConfigError, match="implicit_margin: dpo with beta None"):
        select(pool, metric="random", keep=0.4, implicit_margin="dpo")
    with pytest.raises(ConfigError, match="no metric 'explicit'"):
        select(pool, metric="explicit", keep=0.4)
    with pytest.raises(ValueError, match="differ in length"):
        with_columns(pool, reward_chosen=np.zeros(4))


def test_raw_form_and_a_persons_own_metric() -> None:
    pool = random_pool(30)
    raw = select(pool, metric="alignment_potential", keep=0.4, weight=2.0, standardize=False)
    assert raw.metric_value_P.tolist() == (np.abs(raw.explicit_margin_P) - 2 * np.abs(raw.implicit_margin_P)).tolist()
    assert raw.summary.effective_beta == 2.0

    own = Metric(
        "shortest", lambda num_tokens_chosen: -num_tokens_chosen, "-num_tokens_chosen", "short is kept", "here"
    )
    kept = select(pool, metric=own, keep=1)
    assert pool.columns["num_tokens_chosen"][kept.kept_P].tolist() == [pool.columns["num_tokens_chosen"].min()]


def test_summary_is_plain_json_and_complete() -> None:
    pool = random_pool(100)
    selection = select(pool, metric="alignment_potential", keep=0.4, weight=2.5, seed=3)
    summary = json.loads(json.dumps(dataclasses.asdict(selection.summary), allow_nan=False))
    explicit, size = selection.explicit_margin_P, np.abs(selection.implicit_margin_P)
    gap = pool.columns["num_tokens_chosen"] - pool.columns["num_tokens_rejected"]
    assert summary == {
        "metric": "alignment_potential",
        "options": {},
        "keep": 0.4,
        "seed": 3,
        "implicit_margin": "simpo",
        "weight": 2.5,
        "beta": None,
        "standardize": True,
        "num_pairs": 100,
        "num_groups": None,
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
        "notes": [],
        **dict.fromkeys(("keep_per_group", "min_per_group", "max_per_prompt", "keep_lowest", "keep_zero_margins")),
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
HERE = {"reward_chosen", "reward_rejected", "num_tokens_chosen", "num_tokens_rejected", *POLICY_LOGPS}
metrics = st.sampled_from(
    [name for name in METRICS if name != "full" and HERE.issuperset(columns_needed(METRICS[name]))]
)
keeps = st.one_of(st.integers(1, 30), st.floats(0, 1, exclude_min=True))


def pool_of(table) -> PairPool:
    columns = [np.array([row[i] for row in table], dtype=float) for i in range(6)]
    ids = [f"p{(7 * i) % 29:02d}" for i in range(len(table))]
    chosen, rejected, length_chosen, length_rejected, logp_chosen, logp_rejected = columns
    return PairPool(
        pair_id=ids,
        columns={
            "reward_chosen": chosen,
            "reward_rejected": rejected,
            "num_tokens_chosen": length_chosen.astype(np.int64),
            "num_tokens_rejected": length_rejected.astype(np.int64),
            "policy_logp_chosen": logp_chosen,
            "policy_logp_rejected": logp_rejected,
        },
        drop_reason_P=DropReasons.of([row[6] for row in table]),
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
    assert after.drop_reason_P.tolist() == before.drop_reason_P.at(np.array(order, dtype=np.int64)).tolist()
    # Sums over what was kept may differ in the last bit; the pool's statistics may not.
    inexact = {"length_gap_mean": None, "length_gap_kept_mean": None}
    assert dataclasses.replace(after.summary, **inexact) == dataclasses.replace(before.summary, **inexact)


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.5, 40.0]), st.sampled_from([-5.0, 0.0, 3.0]))
def test_affine_changes_of_the_reward_keep_the_same_pairs(seed: int, scale: float, shift: float) -> None:
    pool = random_pool(60, seed)
    changed = with_columns(
        pool,
        reward_chosen=scale * pool.columns["reward_chosen"] + shift,
        reward_rejected=scale * pool.columns["reward_rejected"] + shift,
    )
    before = select(pool, metric="alignment_potential", keep=0.4)
    after = select(changed, metric="alignment_potential", keep=0.4)
    assert before.rank_P.tolist() == after.rank_P.tolist()
    assert after.summary.effective_beta == pytest.approx(scale * before.summary.effective_beta)


def test_drop_reasons_are_counted() -> None:
    pool = random_pool(10)
    reasons = with_reason(no_reasons(10), np.arange(10) < 3, TOO_LONG_FOR_TRAINING)
    selection = select(dataclasses.replace(pool, drop_reason_P=reasons), metric="random", keep=2)
    assert selection.summary.drop_reasons == {"not_selected": 5, "too_long_for_training": 3}
    assert Counter(selection.drop_reason_P.tolist()) == {"not_selected": 5, "too_long_for_training": 3, None: 2}
    assert reasons.tolist().count(None) == 7  # the caller's array is left as it was


def test_a_metric_sees_the_pool_alone_and_the_others_have_no_value() -> None:
    pool = random_pool(20)
    seen: list[int] = []

    def mine(pair_id, reward_chosen):
        assert list(pair_id) == [f"p{i:05d}" for i in range(5, 20)]
        seen.append(len(reward_chosen))
        return reward_chosen

    reasons = with_reason(no_reasons(20), np.arange(20) < 5, TOO_LONG_FOR_TRAINING)
    selection = select(dataclasses.replace(pool, drop_reason_P=reasons), metric=Metric("m", mine, "", "", ""), keep=3)
    assert seen == [15]
    assert np.isnan(selection.metric_value_P).tolist() == [True] * 5 + [False] * 15


def test_minus_infinity_is_the_metrics_verdict_and_nan_a_fault() -> None:
    values = np.array([1.0, -math.inf, math.nan, math.inf, 2.0])
    metric = Metric("m", lambda reward_chosen: values, "", "", "")
    selection = select(random_pool(5), metric=metric, keep=1.0)
    assert selection.drop_reason_P.tolist() == [
        None, "excluded_by_metric", "metric_not_finite", "metric_not_finite", None,
    ]  # fmt: skip
    assert selection.summary.num_ranked == 2
    assert selection.rank_P.tolist() == [2, 0, 0, 0, 1]


def test_options_reach_the_metric_and_the_summary() -> None:
    pool = random_pool(30)
    chosen = select(pool, metric="rs_dpo", keep=1.0, options={"eta": 0.8})
    margin = chosen.explicit_margin_P
    assert np.flatnonzero(chosen.kept_P).tolist() == np.flatnonzero(1 / (1 + np.exp(-margin)) > 0.8).tolist()
    assert chosen.summary.options == {"tau": 1.0, "eta": 0.8}
    with pytest.raises(ConfigError, match="metric 'rs_dpo' has no option 'etta'") as caught:
        select(pool, metric="rs_dpo", keep=1.0, options={"etta": 0.8})
    assert "'eta'" in caught.value.hint
    with pytest.raises(ConfigError, match="'random' has no option 'eta'"):
        select(pool, metric="random", keep=1.0, options={"eta": 0.8})


def test_without_rewards_an_explicit_margin_of_the_input_is_taken_and_said() -> None:
    full = random_pool(10)
    margin = full.columns["reward_chosen"] - full.columns["reward_rejected"]
    pool = with_columns(full, reward_chosen=None, reward_rejected=None, explicit_margin=margin)
    selection = select(pool, metric="alignment_potential", keep=3)
    assert (
        selection.metric_value_P.tolist() == select(full, metric="alignment_potential", keep=3).metric_value_P.tolist()
    )
    assert len(selection.summary.notes) == 1 and "input's own column" in selection.summary.notes[0]
    bare = select(with_columns(pool, explicit_margin=None), metric="ask_llm", keep=3)
    assert bare.explicit_margin_P is None and bare.summary.num_kept == 3


def test_columns_of_an_earlier_selection_are_never_read() -> None:
    pool = random_pool(30)
    stale = np.zeros(30)
    old = with_columns(pool, implicit_margin=stale, alignment_potential=stale, dpo_implicit_margin=stale)
    for metric in ("alignment_potential", "implicit_margin_small", "dpo_gap"):
        new, again = select(pool, metric=metric, keep=5), select(old, metric=metric, keep=5)
        assert again.rank_P.tolist() == new.rank_P.tolist()


def test_an_implicit_margin_of_the_input_counts_where_it_cannot_be_computed() -> None:
    pool = random_pool(30)
    new = select(pool, metric="alignment_potential", keep=5)
    bare = with_columns(pool, policy_logp_chosen=None, policy_logp_rejected=None)
    with pytest.raises(ConfigError, match="needs alignment_potential"):
        select(bare, metric="alignment_potential", keep=5)
    mean = {
        f"policy_mean_logp_{side}": pool.columns[f"policy_logp_{side}"] / pool.columns[f"num_tokens_{side}"]
        for side in ("chosen", "rejected")
    }
    for columns in ({"implicit_margin": new.implicit_margin_P}, mean):
        again = select(with_columns(bare, **columns), metric="alignment_potential", keep=5)
        assert again.rank_P.tolist() == new.rank_P.tolist() and "implicit margin is the" in again.summary.notes[-1]


def test_length_gap_needs_token_counts() -> None:
    pool = with_columns(random_pool(10), num_tokens_chosen=None)
    summary = select(pool, metric="explicit_margin", keep=3).summary
    assert summary.length_gap_mean is None and summary.num_standardized == 0


def test_groups_are_standardised_each_by_itself() -> None:
    pool = random_pool(60)
    groups = np.arange(60) % 3
    scale = np.where(groups == 1, 100.0, 1.0)
    reward = pool.columns["reward_rejected"] + scale * (pool.columns["reward_chosen"] - pool.columns["reward_rejected"])
    loud = with_columns(pool, reward_chosen=reward)
    for metric in ("alignment_potential", "explicit_margin"):
        shares = np.bincount(groups[select(loud, metric=metric, keep=0.4).kept_P], minlength=3)
        assert shares[1] != 8
        grouped = select(dataclasses.replace(loud, group_P=groups), metric=metric, keep=0.4)
        quiet = select(dataclasses.replace(pool, group_P=groups), metric=metric, keep=0.4)
        # the scale of a group's rewards does not matter any more
        assert grouped.rank_P.tolist() == quiet.rank_P.tolist()
        assert grouped.summary.num_groups == 3 and grouped.summary.effective_beta is None
        assert grouped.explicit_margin_P.tolist() == select(loud, metric=metric, keep=0.4).explicit_margin_P.tolist()


def test_grouped_potential_is_that_of_each_group_alone() -> None:
    pool = random_pool(50)
    groups = np.array([0] * 20 + [7] * 29 + [3])
    grouped = select(dataclasses.replace(pool, group_P=groups), metric="alignment_potential", keep=5, weight=2.5)
    for code in (0, 7):
        rows = np.flatnonzero(groups == code).tolist()
        alone = select(rows_of(pool, rows), metric="alignment_potential", keep=5, weight=2.5)
        assert grouped.metric_value_P[rows] == pytest.approx(alone.metric_value_P, abs=1e-9)
    assert grouped.metric_value_P[49] == 0.0  # alone in its group
    assert grouped.alignment_potential_P.tolist() == grouped.metric_value_P.tolist()


def test_pair_ids_may_be_an_arrow_column() -> None:
    pool = random_pool(40)
    flat = with_columns(pool, ask_llm_yes=np.zeros(40))
    expected = {metric: select(flat, metric=metric, keep=7) for metric in ("random", "ask_llm")}
    ids = pa.array(pool.pair_id)
    for given_ids in (ids, ids.cast(pa.large_string()), pa.chunked_array([ids[:13], ids[13:]])):
        for metric, before in expected.items():
            found = select(dataclasses.replace(flat, pair_id=given_ids), metric=metric, keep=7)
            assert found.rank_P.tolist() == before.rank_P.tolist()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("metric", ["alignment_potential", "explicit_margin", "random", "implicit_margin_small"])
def test_a_pair_whose_margin_is_beyond_the_largest_float_is_never_kept(metric: str) -> None:
    pool = random_pool(20)
    chosen_P, rejected_P = pool.columns["reward_chosen"].copy(), pool.columns["reward_rejected"].copy()
    chosen_P[:3], rejected_P[:3] = [1e308, -1e308, 1.7e308], [-1e308, 1e308, 0.0]
    found = select(with_columns(pool, reward_chosen=chosen_P, reward_rejected=rejected_P), metric=metric, keep=1.0)
    assert found.drop_reason_P.tolist()[:3] == ["margin_not_finite", "margin_not_finite", None]
    assert found.explicit_margin_P is not None and np.isfinite(found.explicit_margin_P[found.kept_P]).all()
    json.dumps(dataclasses.asdict(found.summary), allow_nan=False)
