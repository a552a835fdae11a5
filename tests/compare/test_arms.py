"""Arms as a command line says them."""

from __future__ import annotations

from typing import Any

import pytest

from selfplay.compare.arms import Arm, equal_steps, parse_arm, parse_arms
from selfplay.config.load import validate
from selfplay.core.errors import ConfigError

BASE: dict[str, Any] = {
    "policy": {"model": "p"},
    "prompts": {"source": "s", "per_round": 256},
    "sampling": {"max_tokens": 8},
    "reward": {"model": "r"},
    "training": {"beta": 0.1, "learning_rate": 1e-5, "batch_size": 16, "epochs": 3},
    "rounds": 2,
}


def test_arms_of_metrics_and_of_settings() -> None:
    found = parse_arms(["random, full", "my.py:mine"], ["w = 2.5:  selection.weight=2.5 training.beta=0.2"])
    names = ("group_column", "keep_per_group", "min_per_group", "max_per_prompt")
    nothing = ("selection.keep_lowest=false", *(f"selection.{name}=null" for name in names))
    assert found == [
        Arm("random", ("selection.metric=random",)),
        Arm("full", ("selection.metric=full", "selection.keep=1.0", *nothing)),
        Arm("mine", ("selection.metric=my.py:mine",)),
        Arm("w = 2.5", ("selection.weight=2.5", "training.beta=0.2")),
    ]
    assert [arm.folder for arm in found] == ["random", "full", "mine", "w-=-2.5"]
    assert parse_arm('x: policy.system_prompt="two words"').overrides == ("policy.system_prompt=two words",)


@pytest.mark.parametrize("text", ["name only", "name:", ": selection.keep=0.5", "x: keep", "x: a='b"])
def test_an_arm_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="--arm"):
        parse_arm(text)


@pytest.mark.parametrize(
    ("metrics", "arms", "message"),
    [
        (["random,random"], [], "given twice"),
        (["random"], ["Random: selection.keep=0.5"], "names of their own"),
        ([], ["a b: selection.keep=0.5", "a/b: selection.keep=0.4"], "names of their own"),
        ([], ["pool: selection.keep=0.5"], "cannot be called"),
        ([], ["Pool-2: selection.keep=0.5"], "cannot be called"),
        ([], ["x@epochs: selection.keep=0.5"], "cannot be called"),
    ],
)
def test_names_that_cannot_be(metrics: list[str], arms: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arms(metrics, arms)


@pytest.mark.parametrize(
    ("selection", "training", "steps"),
    [
        ({"keep": 0.5}, {}, 24),
        ({"keep": 0.4}, {}, 21),  # 102 pairs: 7 steps, the last with 6
        ({"keep": 100}, {}, 21),
        ({"keep": 1000}, {}, 48),
        ({}, {"epochs": 1}, 16),
        ({"keep": 0.5}, {"epochs": 1, "max_steps": 7}, 7),
    ],
)
def test_steps_that_all_arms_take(selection: dict[str, Any], training: dict[str, Any], steps: int) -> None:
    config = validate({**BASE, "selection": selection, "training": {**BASE["training"], **training}}, "here")
    assert equal_steps(config) == steps


def test_max_steps_and_epochs_are_not_both_given() -> None:
    with pytest.raises(ConfigError, match="both set the length of the training"):
        validate({**BASE, "training": {**BASE["training"], "max_steps": 7}}, "here")
