"""Diagnostics of a selection against slow, obvious references; empty, tiny and damaged pools; each warning fires and not."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from selfplay.selection.diagnostics.agreement import correlation, overlap
from selfplay.selection.diagnostics.diagnose import diagnose
from selfplay.selection.diagnostics.distributions import distribution
from selfplay.selection.diagnostics.groups import Grouping, group_shares
from selfplay.selection.diagnostics.records import Diagnostics
from selfplay.selection.keep import Quotas
from selfplay.selection.reasons import TOO_LONG_FOR_TRAINING, no_reasons, with_reason
from selfplay.selection.select import PairPool, Selection, select

KEYS = [
    "on", "num_seen", "funnel", "cut", "margins", "distributions", "lengths", "labels", "prompts", "groups", "overlaps",
    "warnings",
]  # fmt: skip
SKILLS = ("a", "b", "c", "d")


def make_pool(num_pairs: int, seed: int = 0, scales: tuple[float, ...] = (1.0,) * 4, **changes: Any) -> PairPool:
    """Best-versus-worst pairs of four skills in turn, whose reward margins have these scales."""
    generator = np.random.default_rng(seed)
    scale = np.resize(np.array(scales), num_pairs)
    rejected = generator.normal(size=num_pairs)
    tokens = generator.integers(5, 60, (2, num_pairs))
    logps = -generator.random((2, num_pairs)) * tokens
    columns = {
        "reward_chosen": rejected + 0.05 + scale * generator.random(num_pairs),
        "reward_rejected": rejected,
        "num_tokens_chosen": tokens[0],
        "num_tokens_rejected": tokens[1],
        "policy_logp_chosen": logps[0],
        "policy_logp_rejected": logps[1],
    }
    columns = {name: value for name, value in (columns | changes).items() if value is not None}
    return PairPool(pair_id=[f"p{row:05d}" for row in range(num_pairs)], columns=columns)


def skills(num_pairs: int) -> Grouping:
    return Grouping.of([SKILLS[row % 4] for row in range(num_pairs)])


def examined(pool: PairPool, metric: str = "alignment_potential", keep: float = 0.4, **asked: Any) -> Diagnostics:
    return diagnose(pool, select(pool, metric=metric, keep=keep, **asked), groups={"skill": skills(len(pool))})


def warned(found: Diagnostics) -> set[str]:
    return {warning.name for warning in found.warnings}


# ---------------------------------------------------------------------------------------------------- the whole


@pytest.mark.parametrize("num_pairs", [0, 1, 2, 3, 200])
@pytest.mark.parametrize("metric", ["alignment_potential", "explicit_margin", "random"])
def test_every_pool_gives_json(num_pairs: int, metric: str) -> None:
    found = examined(make_pool(num_pairs), metric)
    document = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    assert list(document) == KEYS
    assert document["funnel"]["num_kept"] == round(0.4 * num_pairs)
    assert (document["cut"] is None) == (round(0.4 * num_pairs) == 0)


def test_what_is_not_finite_is_counted_and_changes_nothing_else() -> None:
    whole = make_pool(200)
    holes = {name: np.array(values, dtype=np.float64) for name, values in whole.columns.items()}
    for row, name in enumerate(("reward_chosen", "policy_logp_chosen", "policy_logp_rejected", "num_tokens_chosen")):
        holes[name][row] = (math.nan, math.inf, -math.inf, math.nan)[row]
    found = diagnose(PairPool(pair_id=whole.pair_id, columns=holes), _ranked(whole.pair_id, holes))
    document = json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert "NaN" not in document
    assert found.funnel.left_out == {"metric_not_finite": 4}
    assert (found.funnel.num_pool, found.funnel.num_ranked) == (200, 196)
    assert found.distributions["explicit_margin"].pool.num == 199
    assert found.margins is not None
    assert found.margins.explicit_and_implicit is not None
    assert found.margins.explicit_and_implicit.num == 196


def _ranked(ids: Any, columns: dict[str, Any]) -> Selection:
    return select(PairPool(pair_id=ids, columns=columns), metric="alignment_potential", keep=0.4)


def test_parts_without_inputs_are_absent() -> None:
    pool = PairPool(pair_id=["a", "b", "c"], columns={"explicit_margin": np.array([0.1, 0.5, 0.3])})
    found = diagnose(pool, select(pool, metric="explicit_margin", keep=2))
    assert found.lengths is None
    assert found.labels is None
    assert found.prompts is None
    assert found.margins is not None
    assert found.margins.implicit_mean is None
    assert [one.metric for one in found.overlaps] == ["rs_dpo", "minimum_gap"]
    bare = PairPool(pair_id=["a", "b"], columns={})
    assert examined_bare(bare).margins == dataclasses.replace(
        examined_bare(bare).margins, explicit_mean=None, implicit_mean=None, explicit_and_implicit=None
    )


def examined_bare(pool: PairPool) -> Any:
    return diagnose(pool, select(pool, metric="random", keep=1))


def test_funnel_counts_every_row_once() -> None:
    pool = make_pool(100)
    pool.columns["reward_chosen"][:7] = pool.columns["reward_rejected"][:7]
    long = np.arange(100) >= 90
    pool = dataclasses.replace(pool, drop_reason_P=with_reason(no_reasons(100), long, TOO_LONG_FOR_TRAINING))
    selection = select(pool, metric="minimum_gap", keep=0.5, options={"threshold": 0.2})
    found = diagnose(pool, selection, num_read=103, bad={"empty": 3}).funnel
    assert found.filtered == {"too_long_for_training": 10, "zero_margin": 7}
    assert found.num_pairs == found.num_pool + sum(found.filtered.values()) == 100
    assert found.num_pool == found.num_ranked + sum(found.left_out.values())
    assert found.left_out.keys() == {"excluded_by_metric"}
    assert found.num_read == found.num_pairs + sum(found.bad.values())
    assert found.num_kept == int(selection.kept_P.sum())


def test_large_pools_are_seen_through_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(4000)
    selection = select(pool, metric="alignment_potential", keep=0.4)
    everything = diagnose(pool, selection, groups={"skill": skills(4000)})
    monkeypatch.setattr("selfplay.selection.diagnostics.diagnose.SAMPLE", 1000)
    sampled = diagnose(pool, selection, groups={"skill": skills(4000)})
    assert (everything.on, everything.num_seen) == ("all", 4000)
    assert (sampled.on, sampled.num_seen) == ("sample", 1000)
    assert (sampled.funnel, sampled.groups, sampled.cut) == (
        everything.funnel,
        everything.groups,
        everything.cut and dataclasses.replace(everything.cut, num_distinct_rewards=2000),
    )
    for part, whole in zip(sampled.overlaps, everything.overlaps, strict=True):
        assert part.share == pytest.approx(whole.share, abs=0.06)
    assert sampled == diagnose(pool, selection, groups={"skill": skills(4000)})


# ---------------------------------------------------------------------------------------------------- distributions


def test_moments_are_of_finite_values() -> None:
    found = distribution(np.array([1.0, math.nan, 3.0, math.inf]), np.array([True, True, False, False]))
    assert (found.pool.num, found.pool.mean, found.pool.std) == (2, 2.0, 1.0)
    assert found.pool.quantiles == {"0.05": pytest.approx(1.1), "0.5": 2.0, "0.95": pytest.approx(2.9)}
    assert (found.kept.num, found.kept.mean) == (1, 1.0)
    nothing = distribution(np.array([math.nan]), np.array([True]))
    assert (nothing.pool.num, nothing.pool.mean, nothing.pool.quantiles) == (0, None, None)


# ---------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("levels", [3, 10_000])
def test_correlation_as_numpy_has_it(levels: int) -> None:
    generator = np.random.default_rng(levels)
    one = generator.integers(0, levels, 300).astype(np.float64)
    two = one + generator.integers(0, levels, 300)
    ranks = [
        [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values] for values in (one, two)
    ]
    found = correlation(one, two)
    assert found.pearson == pytest.approx(np.corrcoef(one, two)[0, 1])
    assert found.spearman == pytest.approx(np.corrcoef(ranks[0], ranks[1])[0, 1])


def test_correlation_without_spread_is_none() -> None:
    flat, steep = np.full(5, 0.1), np.arange(5.0)
    assert correlation(flat, steep).pearson is None
    assert correlation(flat + 1e-17 * steep, steep).spearman is None
    assert correlation(steep[:1], steep[:1]).pearson is None
    assert correlation(np.full(5, np.nan), steep) is None
    assert correlation(1e200 * steep, -1e-200 * steep).pearson == pytest.approx(-1.0)


def test_overlap_is_with_what_select_would_keep() -> None:
    pool = make_pool(60)
    mine = select(pool, metric="alignment_potential", keep=0.3)
    found = {one.metric: one for one in diagnose(pool, mine).overlaps}
    for name in ("explicit_margin", "implicit_margin_small", "implicit_margin_large"):
        theirs = select(pool, metric=name, keep=0.3)
        one, two = ({row for row in range(60) if side.kept_P[row]} for side in (mine, theirs))
        assert found[name].share == pytest.approx(len(one & two) / len(one))
        assert found[name].jaccard == pytest.approx(len(one & two) / len(one | two))
        assert found[name].expected_at_random == pytest.approx(0.3)
    assert "alignment_potential" not in found
    assert {"random", "full", "bees", "fdpo"}.isdisjoint(found)


def test_overlap_is_within_groups_where_the_ranking_is() -> None:
    pool = dataclasses.replace(make_pool(80, scales=(0.1, 1.0, 5.0, 20.0)), group_P=np.arange(80) % 4)
    found = examined(pool, "implicit_margin_small")
    theirs = select(pool, metric="explicit_margin", keep=0.4).kept_P
    mine = select(pool, metric="implicit_margin_small", keep=0.4).kept_P
    assert found.overlaps[0].metric == "explicit_margin"
    assert found.overlaps[0].share == pytest.approx((mine & theirs).sum() / 32)


def test_a_metric_that_leaves_pairs_out_keeps_fewer() -> None:
    pool = make_pool(40, reward_rejected=np.arange(40.0), reward_chosen=np.arange(40.0) + np.resize([1.0, -1.0], 40))
    found = {one.metric: one for one in examined(pool, keep=0.75).overlaps}
    assert found["rs_dpo"].num_kept == 20
    assert found["rs_dpo"].expected_at_random == 0.5


def test_overlap_of_nothing() -> None:
    none, some = np.zeros(3, dtype=np.bool_), np.array([True, False, False])
    assert dataclasses.astuple(overlap("m", none, some)) == ("m", 1, None, None, None)


# ---------------------------------------------------------------------------------------------------- groups


def test_unevenness_and_its_size_by_chance() -> None:
    groups = ["x"] * 5 + ["y"] * 3 + ["z"] * 2
    kept = np.array([True, True, True, True] + [False] * 6)
    found = group_shares(Grouping.of(groups), np.ones(10, dtype=np.bool_), kept)
    assert found is not None
    assert found.unevenness == pytest.approx((0.5 + 0.3 + 0.2) / 2)
    assert (found.num_groups, found.num_groups_kept, found.effective_kept) == (3, 1, pytest.approx(1.0))
    assert found.effective_pool == pytest.approx(math.exp(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2))))
    assert [(share.group, share.num_kept, share.ratio) for share in found.shares] == [
        ("x", 4, pytest.approx(2.0)), ("y", 0, 0.0), ("z", 0, 0.0)
    ]  # fmt: skip

    def uneven(rows: tuple[int, ...]) -> float:
        return sum(abs(sum(groups[row] == g for row in rows) / 4 - groups.count(g) / 10) for g in "xyz") / 2

    every = [uneven(rows) for rows in combinations(range(10), 4)]
    assert found.unevenness_random_mean == pytest.approx(np.mean(every), abs=0.015)
    assert found.unevenness_random_q99 == pytest.approx(np.quantile(every, 0.99), abs=0.06)


def test_one_group_and_very_many_have_no_unevenness_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    every = np.ones(8, dtype=np.bool_)
    kept = np.arange(8) < 4
    one = group_shares(Grouping.of(["g"] * 8), every, kept)
    assert one is not None
    assert (one.unevenness, one.unevenness_random_mean) == (0.0, None)
    monkeypatch.setattr("selfplay.selection.diagnostics.groups.MOST_GROUPS", 5)
    many = group_shares(Grouping.of([str(row) for row in range(8)]), every, kept)
    assert many is not None
    assert many.unevenness_random_q99 is None
    assert group_shares(Grouping.of(["g"] * 8), ~every, ~every) is None
    nothing = group_shares(Grouping.of(["g"] * 8), every, ~every)
    assert nothing is not None
    assert (nothing.unevenness, nothing.effective_kept, nothing.shares[0].ratio) == (None, None, None)


def test_only_the_largest_groups_are_listed() -> None:
    groups = [f"g{row:02d}" for row in range(30)] + ["large"] * 3
    found = group_shares(Grouping.of(groups), np.ones(33, dtype=np.bool_), np.arange(33) < 10)
    assert found is not None
    assert (found.num_groups, len(found.shares), found.shares[0].group) == (31, 20, "large")


# ---------------------------------------------------------------------------------------------------- numbers


def test_parts_of_the_potentials_variance() -> None:
    pool = make_pool(500)
    for asked in ({"weight": 2.5}, {"weight": 0.5}, {"weight": 2.0, "standardize": False}):
        selection = select(pool, metric="alignment_potential", keep=0.4, **asked)
        found = diagnose(pool, selection).margins
        assert found is not None
        assert selection.explicit_margin_P is not None
        assert selection.implicit_margin_P is not None
        one, two = selection.explicit_margin_P, np.abs(selection.implicit_margin_P)
        if asked.get("standardize", True):
            one, two = (one - one.mean()) / one.std(), (two - two.mean()) / two.std()
        parts = np.cov(np.stack((one, -asked["weight"] * two)))
        assert found.potential_explicit_share == pytest.approx(parts[0].sum() / parts.sum())
        assert found.potential_implicit_share == pytest.approx(parts[1].sum() / parts.sum())


def test_lengths_labels_and_prompts() -> None:
    pool = make_pool(
        4,
        num_tokens_chosen=np.array([10, 20, 30, 5]),
        num_tokens_rejected=np.array([5, 25, 30, 1]),
        gold_reward_chosen=np.array([1.0, 0.0, math.nan, 1.0]),
        gold_reward_rejected=np.array([0.0, 1.0, 1.0, 1.0]),
    )
    selection = select(pool, metric="random", keep=2)
    selection = dataclasses.replace(selection, kept_P=np.array([True, True, False, False]))
    found = diagnose(pool, selection, prompt=Grouping.of(["x", "x", "y", "z"]))
    assert found.lengths is not None
    assert (found.lengths.gap_mean_pool, found.lengths.gap_mean_kept) == (1.0, 0.0)
    assert (found.lengths.chosen_longer_pool, found.lengths.chosen_longer_kept) == (0.5, 0.5)
    assert dataclasses.astuple(found.labels) == (3, 2, pytest.approx(1 / 3), 0.5)  # type: ignore[call-overload]
    assert dataclasses.astuple(found.prompts) == (3, 1, 2)  # type: ignore[call-overload]


# ---------------------------------------------------------------------------------------------------- warnings


def test_an_ordinary_pool_has_no_warning() -> None:
    for seed in range(20):
        for metric in ("alignment_potential", "explicit_margin", "random"):
            assert warned(examined(make_pool(300, seed), metric)) == set()


def test_rewards_of_different_scales_take_the_pairs_of_few_groups() -> None:
    pool = make_pool(400, scales=(0.3, 0.4, 9.0, 9.0))
    found = examined(pool, "explicit_margin")
    (warning,) = found.warnings
    assert warning.name == "few_groups"
    assert "2.0 equal groups, the pool as 4.0; hardly any of a, b:" in warning.message
    grouped = dataclasses.replace(pool, group_P=np.arange(400) % 4)
    assert warned(examined(grouped, "explicit_margin")) == set()
    assert warned(examined(pool, "random")) == set()


def test_a_group_that_is_left_out_of_many() -> None:
    found = examined(make_pool(400, scales=(0.1, 1.0, 1.0, 1.0)), "explicit_margin")
    assert found.groups["skill"].effective_kept == pytest.approx(3.0, abs=0.1)
    (warning,) = found.warnings
    assert "hardly any of a:" in warning.message


def test_small_pools_are_not_judged() -> None:
    for seed in range(20):
        assert warned(examined(make_pool(12, seed), "explicit_margin")) <= {"few_groups"}


FLAT = np.full(100, 0.5)
ONE = np.arange(100.0)


@pytest.mark.parametrize(
    ("name", "metric", "keep", "changes"),
    [
        ("nothing_kept", "random", 0.001, {}),
        ("everything_kept", "explicit_margin", 1.0, {}),
        ("implicit_margin_flat", "alignment_potential", 0.4, {"policy_logp_chosen": -ONE - 1,
            "policy_logp_rejected": -2 * ONE - 2,
            "num_tokens_chosen": np.arange(1, 101), "num_tokens_rejected": np.arange(1, 101)}),
        ("implicit_margin_zero", "implicit_margin_small", 0.4, {"policy_logp_chosen": -ONE, "policy_logp_rejected": -ONE,
            "num_tokens_chosen": np.full(100, 9), "num_tokens_rejected": np.full(100, 9)}),
        ("implicit_margin_narrow", "alignment_potential", 0.4, {"policy_logp_chosen": -ONE / 10,
            "policy_logp_rejected": -ONE / 10 + 0.001 * (ONE % 7), "num_tokens_chosen": np.full(100, 9),
            "num_tokens_rejected": np.full(100, 9)}),
        ("explicit_margin_flat", "alignment_potential", 0.4, {"reward_chosen": FLAT + 0.5, "reward_rejected": FLAT}),
        ("negative_margins", "alignment_potential", 0.4, {"reward_chosen": np.sin(ONE), "reward_rejected": FLAT}),
        ("more_wrong_labels", "explicit_margin", 0.4, {"reward_chosen": ONE + 1, "reward_rejected": 0 * ONE,
            "gold_reward_chosen": -1.0 * (ONE > 60), "gold_reward_rejected": 0 * ONE}),
        ("reward_follows_length", "explicit_margin", 0.4, {"reward_chosen": ONE + 1, "reward_rejected": 0 * ONE,
            "num_tokens_chosen": np.arange(5, 105), "num_tokens_rejected": np.full(100, 50)}),
        ("length_gap_wider", "explicit_margin", 0.4, {"reward_chosen": ONE + 1, "reward_rejected": 0 * ONE,
            "num_tokens_chosen": np.arange(5, 105), "num_tokens_rejected": np.full(100, 50)}),
        ("chosen_longer", "explicit_margin", 0.4, {"reward_chosen": ONE + 1, "reward_rejected": 0 * ONE,
            "num_tokens_chosen": 50 + (np.arange(100) > 50), "num_tokens_rejected": np.full(100, 50)}),
        ("ties_at_cut", "explicit_margin", 0.4, {"reward_chosen": 1 + (ONE % 3), "reward_rejected": 0 * ONE}),
    ],
)  # fmt: skip
def test_each_warning(name: str, metric: str, keep: float, changes: dict[str, Any]) -> None:
    pool = make_pool(100, **changes)
    found = examined(pool, metric, keep)
    assert name in warned(found)
    assert all(warning.message and warning.hint for warning in found.warnings)
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_lengths_that_the_selection_did_not_change_give_no_warning() -> None:
    lengths = {"num_tokens_chosen": np.full(100, 90), "num_tokens_rejected": np.full(100, 50)}
    for changes in (lengths, {"num_tokens_chosen": 50 + np.arange(100) % 9, "num_tokens_rejected": np.full(100, 50)}):
        assert not warned(examined(make_pool(100, **changes), "random")) & {"length_gap_wider", "chosen_longer"}


def test_what_quotas_and_caps_leave_out_is_in_the_funnel() -> None:
    pool = dataclasses.replace(make_pool(100), prompt_P=np.arange(100) // 2)
    groups = skills(100)
    quotas = Quotas(group_P=groups.code_P, names=groups.names, most=3)
    found = examined(pool, "explicit_margin", 1.0, quotas=quotas, max_per_prompt=1)
    assert found.funnel.left_out == {"over_max_per_prompt": 50}
    assert (found.funnel.num_pool, found.funnel.num_ranked, found.funnel.num_kept) == (100, 50, 12)
    assert found.cut is None and found.overlaps == ()
    assert {share.num_kept for share in found.groups["skill"].shares} == {3}


def test_full_keeps_everything_and_says_nothing() -> None:
    assert "everything_kept" not in warned(examined(make_pool(100), "full", 1.0))


def test_dpo_form_without_a_difference_says_what_to_do() -> None:
    pool = make_pool(100)
    same = {f"reference_logp_{side}": pool.columns[f"policy_logp_{side}"] for side in ("chosen", "rejected")}
    pool = dataclasses.replace(pool, columns={**pool.columns, **same})
    found = examined(pool, implicit_margin="dpo", beta=0.1, allow_equal_reference=True)
    (warning,) = (one for one in found.warnings if one.name == "implicit_margin_zero")
    assert "another reference" in warning.hint
    assert {one.metric: one.share for one in found.overlaps}["explicit_margin"] == 1.0
