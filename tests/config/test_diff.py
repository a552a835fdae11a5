"""What a change of each setting means: the table of all tags, frozen here."""

from __future__ import annotations

from typing import Any

import pytest

from selfplay.config.diff import Change, changes, flatten, identity_document, tag_of
from selfplay.config.load import setting_names
from selfplay.config.pass_through import ENGINE_KEYS, TRL_KEYS
from selfplay.config.tags import Tag
from tests.helpers.changed_settings import (
    BASE,
    FUNCTION,
    FUNCTION_PART,
    NOT_TO_BE_CHANGED,
    PARTS,
    SETTINGS,
    TOGETHER,
    config,
)


def test_the_table_has_every_setting() -> None:
    assert {*SETTINGS} | NOT_TO_BE_CHANGED == {*setting_names()}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_is_found_with_its_tag(name: str) -> None:
    tag, value, sections = SETTINGS[name]
    base = BASE | sections
    before, after = config(base), config(base, **{name: value, **TOGETHER.get(name, {})})
    found = {change.name: change for change in changes(before, after)}
    assert found[name] == Change(name, flatten(before)[name], value, tag)
    assert tag_of(name) == tag
    assert {*found} - {name} <= {*TOGETHER.get(name, {})}
    # only what is identity makes another run
    assert (identity_document(before) != identity_document(after)) is (tag == "identity")
    assert changes(before, before) == []


@pytest.mark.parametrize(
    ("section", "key", "tag"),
    [
        *(("sampling.engine", key, tag) for key, tag in ENGINE_KEYS.items()),
        *(("training.trl", key, tag) for key, tag in TRL_KEYS.items()),
        ("sampling.engine", "max_model_len", "identity"),
        ("sampling.engine", "quantization", "identity"),
        ("sampling.engine", "unheard_of", "identity"),
        ("training.trl", "unheard_of", "identity"),
    ],
)
def test_keys_that_pass_through_have_a_tag_each(section: str, key: str, tag: Tag) -> None:
    before = config(BASE, **{section: {}})
    after = config(BASE, **{section: {key: 5}})
    again = config(BASE, **{section: {key: 6}})
    assert changes(before, after) == [Change(f"{section}.{key}", None, 5, tag)]
    assert changes(after, again) == [Change(f"{section}.{key}", 5, 6, tag)]
    assert changes(after, before) == [Change(f"{section}.{key}", 5, None, tag)]


@pytest.mark.parametrize("value", [1, 1.0])
def test_what_python_takes_for_equal_is_another_setting(value: float) -> None:
    """It is one to the run's fingerprint, too."""
    before, after = (config(BASE, **{"sampling.engine": {"enable_prefix_caching": each}}) for each in (True, value))
    (found,) = changes(before, after)
    assert (found.name, found.tag) == ("sampling.engine.enable_prefix_caching", "identity")


def test_a_section_with_its_defaults_is_not_no_section() -> None:
    training = {key: value for key, value in BASE["training"].items() if key != "lora"}
    without = config(BASE | {"training": training})
    found = {change.name: change for change in changes(without, config(BASE))}
    assert found["training.lora"] == Change("training.lora", False, True, "identity")
    gone = {change.name: change.tag for change in changes(config(BASE), config(BASE | {"evaluation": None}))}
    assert gone["evaluation"] == "identity"


def test_the_kind_of_reward_cannot_change_unseen() -> None:
    found = {change.name: change.tag for change in changes(config(BASE), config(BASE | FUNCTION))}
    assert found == {"reward.model": "content", "reward.function": "content", "reward.revision": "identity"}


@pytest.mark.parametrize(
    ("name", "sections"), [("reward.function", FUNCTION), ("reward.parts.NAME.function", FUNCTION_PART)]
)
def test_another_function_of_the_same_file_is_another_reward(name: str, sections: dict[str, Any]) -> None:
    """The pin is that of the file, so it cannot tell them apart."""
    before, after = config(BASE | sections), config(BASE | sections, **{name: "m:other"})
    assert changes(before, after) == [Change(name, "m:reward", "m:other", "identity")]


def test_each_part_of_a_reward_is_compared_by_its_name() -> None:
    before = config(BASE | PARTS)
    heavier = config(BASE | PARTS, **{"reward.parts.short.weight": -2.0})
    assert changes(before, heavier) == [Change("reward.parts.short.weight", 1.0, -2.0, "identity")]
    moved = config(BASE | PARTS, **{"reward.parts.short.function": "n:short"})
    assert changes(before, moved) == [Change("reward.parts.short.function", "m:short", "n:short", "content")]
    assert identity_document(moved) == identity_document(before)
    # a part more, less, or of another name makes another reward
    more = config(BASE | PARTS, **{"reward.parts.long.function": "m:long"})
    for one, other in ((before, more), (more, before)):
        found = {change.name: change.tag for change in changes(one, other)}
        assert found["reward.parts.long.weight"] == "identity"
        assert {name.rpartition(".")[0] for name in found} == {"reward.parts.long"}
    reward = PARTS["reward"]["parts"]
    turned = config(BASE | {"reward": {"parts": {name: reward[name] for name in reversed(reward)}}})
    assert changes(before, turned) == []
    assert identity_document(turned) == identity_document(before)
    assert {change.tag for change in changes(config(BASE), before)} == {"identity", "content"}
