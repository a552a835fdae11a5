"""Each metric against a slow, obvious reference; the table of metrics; options, unknown names and missing inputs."""

import hashlib
import json
import math
import random
import statistics

import numpy as np
import pytest

from selfplay.core.errors import ConfigError
from selfplay.selection.metrics import HOW_TO_GET, METRICS, Metric, columns_needed, find_metric, how_to_get
from selfplay.selection.metrics import density as density_module

NUM = 300
IDS = [f"pair-{i}" for i in range(NUM)]
GENERATOR = np.random.default_rng(0)
COLUMNS = {
    "pair_id": IDS,
    "explicit_margin": GENERATOR.normal(size=NUM),
    "implicit_margin": GENERATOR.normal(size=NUM),
    "alignment_potential": GENERATOR.normal(size=NUM),
    "dpo_implicit_margin": GENERATOR.normal(size=NUM),
    "seed_implicit_margin": GENERATOR.normal(size=NUM),
    "prompt_entropy": GENERATOR.exponential(20, size=NUM),
    "reward_chosen": GENERATOR.normal(size=NUM),
    "reward_fresh": GENERATOR.normal(size=NUM),
    "prompt_reward_mean": GENERATOR.normal(size=NUM),
    "prompt_reward_std": GENERATOR.exponential(size=NUM),
    "validation_loss": GENERATOR.exponential(size=NUM),
    "policy_logp_chosen": -GENERATOR.exponential(30, size=NUM),
    "policy_logp_chosen_alone": -GENERATOR.exponential(40, size=NUM),
    "ask_llm_yes": GENERATOR.random(NUM),
    "embedding": GENERATOR.normal(size=(NUM, 5)).astype(np.float32),
}
# what is hard to get right: both ends of clipping, contradictions, exact thresholds
COLUMNS["explicit_margin"][:6] = [0.0, 1.0, 2.0, -3.0, 0.5, 1.0]
COLUMNS["seed_implicit_margin"][:6] = [1.0, 0.0, -1.0, 4.0, 0.5, 1.0]
COLUMNS["reward_fresh"][:3] = COLUMNS["reward_chosen"][:3]
COLUMNS["policy_logp_chosen_alone"][:3] = COLUMNS["policy_logp_chosen"][:3]

MASK = 2**64 - 1


def slow_random(name: str, seed: int) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) / 2**52


def column(name: str) -> list[float]:
    return [float(value) for value in COLUMNS[name]]


def slow_z(values: list[float]) -> list[float]:
    mean, std = statistics.fmean(values), statistics.pstdev(values)
    return [(value - mean) / std for value in values]


def slow_bees(i: int) -> float:
    p, q = (min(max(COLUMNS[name][i], 0.0), 1.0) for name in ("explicit_margin", "seed_implicit_margin"))
    both, neither = p * q, (1 - p) * (1 - q)
    return both / (both + neither) if both + neither else 0.5


def slow_apl(i: int) -> float:
    middle = statistics.median(column("prompt_entropy"))
    size = abs(COLUMNS["implicit_margin"][i])
    return size if COLUMNS["prompt_entropy"][i] >= middle else -1 / (1 + size)


def above(value: float, threshold: float, metric_value: float) -> float:
    return metric_value if value > threshold else -math.inf


def slow_ifd(i: int) -> float:
    ratio = COLUMNS["policy_logp_chosen"][i] / COLUMNS["policy_logp_chosen_alone"][i]
    return ratio if ratio <= 1 else -math.inf


def slow_distance(i: int, j: int) -> float:
    return math.dist(COLUMNS["embedding"][i].tolist(), COLUMNS["embedding"][j].tolist())


WIDTH = statistics.median(slow_distance(i, j) for i in range(NUM) for j in range(i))


def slow_density(i: int) -> float:
    kernel = statistics.fmean(math.exp(-(slow_distance(i, j) ** 2) / (2 * WIDTH**2)) for j in range(NUM))
    return math.log(slow_random(IDS[i], 7)) * kernel


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


SLOW = {
    "random": lambda i: slow_random(IDS[i], 7),
    "full": lambda i: 0.0,
    "explicit_margin": lambda i: COLUMNS["explicit_margin"][i],
    "implicit_margin_small": lambda i: -abs(COLUMNS["implicit_margin"][i]),
    "implicit_margin_large": lambda i: abs(COLUMNS["implicit_margin"][i]),
    "alignment_potential": lambda i: COLUMNS["alignment_potential"][i],
    "bees": slow_bees,
    "dpo_gap": lambda i: -COLUMNS["dpo_implicit_margin"][i],
    "apl": slow_apl,
    "fdpo": lambda i: above(
        COLUMNS["reward_chosen"][i],
        COLUMNS["reward_fresh"][i],
        COLUMNS["reward_chosen"][i] - COLUMNS["reward_fresh"][i],
    ),
    "rs_dpo": lambda i: above(sigmoid(COLUMNS["explicit_margin"][i]), 0.5, sigmoid(COLUMNS["explicit_margin"][i])),
    "minimum_gap": lambda i: above(COLUMNS["explicit_margin"][i], 0.0, -COLUMNS["explicit_margin"][i]),
    "high_mean_low_variance": lambda i: (
        slow_z(column("prompt_reward_mean"))[i] - slow_z(column("prompt_reward_std"))[i]
    ),
    "selective_dpo": lambda i: -COLUMNS["validation_loss"][i],
    "ifd": slow_ifd,
    "ask_llm": lambda i: COLUMNS["ask_llm_yes"][i],
    "density": slow_density,
}


def test_every_metric_has_a_reference() -> None:
    assert SLOW.keys() == METRICS.keys()


@pytest.mark.parametrize("name", METRICS)
def test_metric_equals_its_reference(name: str) -> None:
    values = METRICS[name].values(COLUMNS, seed=7)
    assert values.dtype == np.float64
    expected = [SLOW[name](i) for i in range(NUM)]
    # density works in float32 with distances
    assert values == pytest.approx(expected, rel=1e-4 if name == "density" else 1e-12, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.inputs
    assert set(metric.inputs) <= COLUMNS.keys()
    assert metric.formula and metric.direction and metric.source and metric.function.__doc__
    assert all(type(default) is float for default in metric.options.values())
    json.dumps([metric.name, metric.formula, metric.inputs, metric.source, metric.direction, metric.options])


def test_random_is_uniform_and_depends_on_seed_and_id_alone() -> None:
    ids = [f"pair-{i}" for i in range(20_000)]
    values = METRICS["random"].values({"pair_id": ids}, seed=1)
    assert ((values >= 0) & (values < 1)).all()
    assert np.histogram(values, bins=10, range=(0, 1))[0] == pytest.approx(2000, abs=250)
    order = list(range(len(ids)))
    random.Random(0).shuffle(order)
    shuffled = METRICS["random"].values({"pair_id": [ids[i] for i in order[:100]]}, seed=1)
    assert shuffled.tolist() == values[order[:100]].tolist()
    assert abs(np.corrcoef(values, METRICS["random"].values({"pair_id": ids}, seed=2))[0, 1]) < 0.03


def test_unknown_metric_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'alignment_potential'"):
        find_metric("alignement_potential")
    with pytest.raises(ConfigError, match="There are: random, full, "):
        find_metric("zzz")


def test_missing_input_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(ConfigError, match="'implicit_margin_small' needs implicit_margin") as caught:
        METRICS["implicit_margin_small"].values({"pair_id": IDS}, seed=0)
    assert "policy" in caught.value.hint


def test_a_persons_own_metric_is_a_function_of_named_columns() -> None:
    def mine(explicit_margin, implicit_margin, seed):
        return explicit_margin * implicit_margin + seed

    own = Metric("mine", mine, "R * L", "large is kept", "own file")
    assert own.inputs == ("explicit_margin", "implicit_margin")
    expected = COLUMNS["explicit_margin"] * COLUMNS["implicit_margin"] + 3
    assert own.values(COLUMNS, seed=3).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda margin: margin.mean(), r"shape \(\), expected \(300,\)"),
        (lambda margin: margin[:-1], r"shape \(299,\), expected \(300,\)"),
        (lambda margin: margin.astype(str), "returned <U32 values, not numbers"),
        (lambda margin: None, "returned object values, not numbers"),
        (lambda margin: [[1.0], [1.0, 2.0]], "returned something that is not an array"),
    ],
)
def test_a_result_that_is_not_one_number_a_pair_is_refused(result, message: str) -> None:
    wrong = Metric("wrong", lambda explicit_margin: result(explicit_margin), "", "", "")
    with pytest.raises(ConfigError, match=f"metric 'wrong' {message}|{message}"):
        wrong.values(COLUMNS, seed=0)


def test_truth_values_and_integers_are_numbers() -> None:
    own = Metric("positive", lambda explicit_margin: explicit_margin > 0, "", "", "")
    assert own.values(COLUMNS, seed=0).tolist() == [float(value > 0) for value in COLUMNS["explicit_margin"]]


@pytest.mark.parametrize("value", [True, "1", math.nan, math.inf, None])
def test_options_are_finite_numbers(value) -> None:
    with pytest.raises(ConfigError, match="option 'tau' of metric 'rs_dpo' is"):
        METRICS["rs_dpo"].values(COLUMNS, 0, {"tau": value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rs_dpo", {"tau": 0.0}),
        ("rs_dpo", {"eta": 1.0}),
        ("rs_dpo", {"eta": -0.1}),
        ("apl", {"entropy_quantile": 1.5}),
        ("density", {"bandwidth": -1.0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}' of metric '{name}' is"):
        METRICS[name].values(COLUMNS, 0, options)


def test_options_do_what_they_say() -> None:
    margin = column("explicit_margin")
    rs_dpo = METRICS["rs_dpo"].values(COLUMNS, 0, {"tau": 2.0, "eta": 0.7})
    assert rs_dpo == pytest.approx([above(sigmoid(m / 2), 0.7, sigmoid(m / 2)) for m in margin])
    gap = METRICS["minimum_gap"].values(COLUMNS, 0, {"threshold": 0.5})
    assert gap.tolist() == [above(m, 0.5, -m) for m in margin]
    assert gap[4] == -math.inf  # exactly the threshold
    everyone = METRICS["apl"].values(COLUMNS, 0, {"entropy_quantile": 0.0})
    assert everyone.tolist() == np.abs(COLUMNS["implicit_margin"]).tolist()
    best = METRICS["apl"].values(COLUMNS, 0, {"entropy_quantile": 1.0})
    assert np.flatnonzero(best >= 0).tolist() == [int(np.argmax(COLUMNS["prompt_entropy"]))]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("random", "full")])
def test_an_input_that_is_not_finite_makes_the_pair_unrankable_and_no_other(name: str, bad: float) -> None:
    metric = METRICS[name]
    for wrong in metric.inputs:
        if wrong == "pair_id":
            continue
        columns = {key: value if key == "pair_id" else value.copy() for key, value in COLUMNS.items()}
        columns[wrong][11] = bad
        found = metric.values(columns, seed=7)
        assert np.isnan(found[11])
        others = np.delete(found, 11)
        assert not np.isnan(others).any()
        rest = {key: [*v[:11], *v[12:]] if key == "pair_id" else np.delete(v, 11, axis=0) for key, v in COLUMNS.items()}
        assert others == pytest.approx(metric.values(rest, seed=7), rel=1e-5)


def test_a_pool_without_a_finite_value_has_no_ranking_but_no_error() -> None:
    nothing = {k: v[:3] if k == "pair_id" else np.full_like(v[:3], math.nan) for k, v in COLUMNS.items()}
    empty = {key: value[:0] for key, value in COLUMNS.items()}
    for name, metric in METRICS.items():
        if name not in ("random", "full"):
            assert np.isnan(metric.values(nothing, seed=0)).all()
        assert metric.values(empty, seed=0).tolist() == []


def test_density_draws_with_probability_inverse_to_density() -> None:
    """Two heaps, one four times as dense: over many seeds each pair of the thin one is drawn about as often in total."""
    generator = np.random.default_rng(1)
    heaps = np.where(np.arange(100)[:, None] < 80, 0.0, 100.0) + generator.normal(0, 0.01, (100, 2))
    columns = {"pair_id": IDS[:100], "embedding": heaps.astype(np.float32)}
    first = [int(np.argmax(METRICS["density"].values(columns, seed, {"bandwidth": 1.0}))) for seed in range(800)]
    # densities 0.8 and 0.2: the first draw falls on each heap with probability 80 / 0.8 : 20 / 0.2 = 1 : 1
    assert np.mean(np.array(first) < 80) == pytest.approx(0.5, abs=0.06)


def test_density_says_its_bandwidth_and_when_it_is_approximate(monkeypatch) -> None:
    notes: list[str] = []
    METRICS["density"].values(COLUMNS, 7, {}, notes)
    assert notes == [f"density: Gaussian kernel of bandwidth {WIDTH:.4g}, the median distance of its pairs; exact."]
    notes.clear()
    exact = METRICS["density"].values(COLUMNS, 7, {"bandwidth": 2.5}, notes)
    assert notes == ["density: Gaussian kernel of bandwidth 2.5; exact."]
    notes.clear()
    monkeypatch.setattr(density_module, "EXACT_UP_TO", NUM - 1)
    monkeypatch.setattr(density_module, "NUM_ANCHORS", NUM)
    all_anchors = METRICS["density"].values(COLUMNS, 7, {"bandwidth": 2.5}, notes)
    assert all_anchors == pytest.approx(exact, rel=1e-4)
    assert notes == [
        "density: Gaussian kernel of bandwidth 2.5; approximate, from 300 anchors, since there are more than 299 pairs."
    ]
    monkeypatch.setattr(density_module, "NUM_ANCHORS", 150)
    estimate = METRICS["density"].values(COLUMNS, 7, {"bandwidth": 2.5})
    assert np.corrcoef(estimate, exact)[0, 1] > 0.98
    assert estimate.sum() == pytest.approx(exact.sum(), rel=0.1)


def test_density_needs_vectors() -> None:
    with pytest.raises(ConfigError, match=r"'embedding' is an array of shape \(300,\)"):
        METRICS["density"].values(COLUMNS | {"embedding": np.zeros(NUM)}, 0)


def test_density_of_equal_points() -> None:
    columns = {"pair_id": IDS[:4], "embedding": np.ones((4, 3), dtype=np.float32)}
    assert METRICS["density"].values(columns, 7) == pytest.approx([math.log(slow_random(name, 7)) for name in IDS[:4]])


def test_each_input_says_how_to_get_it() -> None:
    for metric in METRICS.values():
        assert set(metric.inputs) - {"pair_id"} <= HOW_TO_GET.keys()
        assert set(columns_needed(metric)) <= HOW_TO_GET.keys()
    assert how_to_get("my_column") == "Add a column 'my_column' to the pairs."


def test_columns_needed_are_those_the_margins_are_made_of() -> None:
    assert columns_needed(METRICS["random"]) == ()
    assert columns_needed(METRICS["explicit_margin"]) == ("reward_chosen", "reward_rejected")
    simpo = ("policy_logp_chosen", "policy_logp_rejected", "num_tokens_chosen", "num_tokens_rejected")
    dpo = ("policy_logp_chosen", "policy_logp_rejected", "reference_logp_chosen", "reference_logp_rejected")
    assert columns_needed(METRICS["implicit_margin_small"], "simpo") == simpo
    assert columns_needed(METRICS["implicit_margin_small"], "dpo") == dpo
    assert columns_needed(METRICS["dpo_gap"], "simpo") == dpo
    assert columns_needed(METRICS["alignment_potential"]) == ("reward_chosen", "reward_rejected", *simpo)
