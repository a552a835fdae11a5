"""A person's own metric: found, imported, called, and every way in which it can be wrong said as theirs."""

from pathlib import Path

import numpy as np
import pytest

from selfplay.config.named_files import is_own_metric
from selfplay.core.errors import ConfigError
from selfplay.inputs.user_code.loading import source_digest
from selfplay.inputs.user_code.metrics import load_metric
from selfplay.selection.metrics import METRICS
from selfplay.selection.select import PairPool, select

POOL = PairPool(
    pair_id=["a", "b", "c"],
    columns={
        "reward_chosen": np.array([1.0, 2.0, 3.0]),
        "reward_rejected": np.zeros(3),
        "num_tokens_chosen": np.array([30, 10, 20]),
    },
)


def written(folder: Path, body: str) -> str:
    (folder / "mine.py").write_text(body)
    return "mine.py:short"


def test_one_function_is_a_metric(tmp_path: Path) -> None:
    spec = written(
        tmp_path,
        'def short(num_tokens_chosen, reward_chosen, *, power=1.0):\n    """R / n ** power.\n\n    More."""\n'
        "    return reward_chosen / num_tokens_chosen**power\n",
    )
    metric = load_metric(spec, tmp_path)
    assert (metric.name, metric.formula, metric.direction) == (spec, "R / n ** power.", "large is kept")
    assert metric.inputs == ("num_tokens_chosen", "reward_chosen") and metric.options == {"power": 1.0}
    assert metric.source == str(tmp_path / "mine.py")
    selection = select(POOL, metric=metric, keep=1, options={"power": 2.0})
    assert selection.metric_value_P.tolist() == [1 / 900, 2 / 100, 3 / 400]
    assert selection.kept_P.tolist() == [False, True, False]
    assert selection.summary.metric == spec and selection.summary.options == {"power": 2.0}


def test_seed_notes_and_ids_are_there_for_it(tmp_path: Path) -> None:
    spec = written(
        tmp_path,
        "def short(pair_id, seed, notes):\n    notes.append(f'{len(pair_id)} of seed {seed}')\n"
        "    return [ord(name) for name in pair_id]\n",
    )
    selection = select(POOL, metric=load_metric(spec, tmp_path), keep=1, seed=9)
    assert selection.summary.notes == ["3 of seed 9"] and selection.summary.options == {}
    assert selection.metric_value_P.tolist() == [97, 98, 99]
    assert load_metric(spec, tmp_path).formula == spec  # no docstring


def test_names_and_digests(tmp_path: Path) -> None:
    assert load_metric("bees", tmp_path) is METRICS["bees"]
    assert not is_own_metric("bees")
    spec = written(tmp_path, "def short(): return 0\n")
    assert is_own_metric(spec)
    before = source_digest(spec, tmp_path, what="metric")
    assert len(before) == 64
    written(tmp_path, "def short(): return 1\n")
    assert source_digest(spec, tmp_path, what="metric") != before
    with pytest.raises(ConfigError, match="no metric 'bee'"):
        load_metric("bee", tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1 +\n", "metric mine.py:short: importing .*mine.py failed: SyntaxError"),
        ("def shot(): pass\n", "mine.py has no function 'short'; it has shot"),
        ("short = 3\n", "mine.py:short is no function"),
        ("async def short(): pass\n", "mine.py:short is an async function"),
        ("def short(*columns): pass\n", r"parameter \*columns of .*mine.py names no column"),
        ("def short(**columns): pass\n", r"parameter \*\*columns of .*mine.py names no column"),
        ("def short(a, /): pass\n", "parameter a of .*mine.py names no column"),
        ("def short(mode='fast'): pass\n", "option 'mode' of .*mine.py has the default 'fast'"),
        ("def short(flag=True): pass\n", "option 'flag' of .*mine.py has the default True"),
    ],
)
def test_what_is_no_metric_is_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_metric(written(tmp_path, body), tmp_path)
    assert caught.value.hint and "reward function" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.py:short", "metric none.py:short: no such file"),
        ("mine.py", "metric 'mine.py' is not module:function"),
        ("mine.py:", "metric 'mine.py:' is not module:function"),
        ("nowhere:short", "metric nowhere:short: no module 'nowhere'"),
    ],
)
def test_what_cannot_be_found(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_metric(spec, tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return reward_chosen / 'x'", "short in .*mine.py failed: UFuncTypeError|short in .*mine.py failed: .*Error"),
        ("raise KeyError('lost')", "short in .*mine.py failed: KeyError: 'lost'"),
        ("return reward_chosen[:2]", r"returned an array of shape \(2,\), expected \(3,\)"),
        ("return None", "returned object values, not numbers"),
        ("return ['good', 'bad', 'good']", "returned <U4 values, not numbers"),
        (
            "import pandas; return pandas.Series(reward_chosen).sort_values(ascending=False)",
            "a pandas Series in another order",
        ),
    ],
)
def test_what_goes_wrong_inside_names_the_metric(tmp_path: Path, body: str, message: str) -> None:
    metric = load_metric(written(tmp_path, f"def short(reward_chosen):\n    {body}\n"), tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        select(POOL, metric=metric, keep=1)
    assert "mine.py:short" in caught.value.message and caught.value.hint


def test_what_a_metric_masks_has_no_value(tmp_path: Path) -> None:
    body = "import numpy\n    return numpy.ma.masked_array(reward_chosen, mask=[True, False, False])"
    metric = load_metric(written(tmp_path, f"def short(reward_chosen):\n    {body}\n"), tmp_path)
    assert np.isnan(select(POOL, metric=metric, keep=1).metric_value_P).tolist() == [True, False, False]


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    metric = load_metric(written(tmp_path, "def short(my_score): return my_score\n"), tmp_path)
    with pytest.raises(
        ConfigError, match=r"metric 'mine\.py:short' needs my_score, which these pairs do not have"
    ) as caught:
        select(POOL, metric=metric, keep=1)
    assert caught.value.hint == "Add a column 'my_score' to the pairs."
