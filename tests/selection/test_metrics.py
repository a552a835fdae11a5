"""Each metric against a slow, obvious reference; the table of metrics; unknown names and missing inputs."""

import hashlib
import json
import random

import numpy as np
import pytest

from selfplay.errors import ConfigError
from selfplay.selection.metrics import METRICS, Metric, find_metric

IDS = [f"pair-{i}" for i in range(500)]
GENERATOR = np.random.default_rng(0)
COLUMNS = {
    "pair_id": IDS,
    "explicit_margin": GENERATOR.normal(size=500),
    "implicit_margin": GENERATOR.normal(size=500),
    "alignment_potential": GENERATOR.normal(size=500),
}


def slow_random(name: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


SLOW = {
    "random": lambda i: slow_random(IDS[i], 7),
    "full": lambda i: 0.0,
    "explicit_margin": lambda i: COLUMNS["explicit_margin"][i],
    "implicit_margin_small": lambda i: -abs(COLUMNS["implicit_margin"][i]),
    "implicit_margin_large": lambda i: abs(COLUMNS["implicit_margin"][i]),
    "alignment_potential": lambda i: COLUMNS["alignment_potential"][i],
}


def test_every_metric_has_a_reference() -> None:
    assert SLOW.keys() == METRICS.keys()


@pytest.mark.parametrize("name", METRICS)
def test_metric_equals_its_reference(name: str) -> None:
    values = METRICS[name].values(COLUMNS, seed=7)
    assert values.dtype == np.float64
    assert values.tolist() == [SLOW[name](i) for i in range(len(IDS))]


@pytest.mark.parametrize("name", METRICS)
def test_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.inputs
    assert set(metric.inputs) <= COLUMNS.keys()
    assert metric.formula and metric.direction and metric.source and metric.function.__doc__
    json.dumps([metric.name, metric.formula, metric.inputs, metric.source, metric.direction])


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

    wrong = Metric("wrong", lambda explicit_margin: explicit_margin.mean(), "", "", "")
    with pytest.raises(ConfigError, match=r"shape \(\), expected \(500,\)"):
        wrong.values(COLUMNS, seed=0)
