"""Settings from flags, from a file, and from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfplay.core.errors import ConfigError
from selfplay.dataset_selection.settings import SelectSettings, load_settings

BASE = {"dataset": "a.jsonl", "out": "result", "keep": 0.4}


def settings(**flags: Any) -> SelectSettings:
    return load_settings({**BASE, **flags})[0]


def test_defaults_are_the_released_rule() -> None:
    found = settings()
    assert (found.metric, found.weight, found.implicit_margin, found.standardize) == (
        "alignment_potential",
        1.0,
        "simpo",
        True,
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"keep": 0}, "keep"),
        ({"keep": 0.0}, "keep"),
        ({"keep": -0.5}, "keep"),
        ({"keep": -3}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"keep": 1}, "one pair or all"),
        ({"keep": True}, "keep"),
        ({"keep": "most"}, "`keep` is 'most': give a fraction above 0"),
        ({"keep": "40%"}, "as 0.4"),
        ({"keep": "7.5 %"}, "as 0.075"),
        ({"keep": True}, "`keep` is True"),
        ({"form": "dpo"}, "`form` is not a setting; its name is `implicit_margin`"),
        ({"implicit_margin": "dpo"}, "beta"),
        ({"beta": 0.1}, "implicit_margin: dpo"),
        ({"implicit_margin": "dpo", "beta": 0.0}, "beta"),
        ({"weight": -1.0}, "weight"),
        ({"reward_model": "a", "reward_function": "b:c"}, "one of"),
        ({"reward_function": "b:c", "reward_engine": "vllm"}, "needs `reward_model`"),
        ({"reference": "a"}, "is about the tokenizer and context of `policy`"),
        ({"max_length": 10}, "is about the tokenizer and context of `policy`"),
        ({"chat_template": "none"}, "is about the tokenizer and context of `policy`"),
        ({"pairs": {"build": "bestworst"}}, "bestworst"),
        ({"pairs": "sweetspot"}, "sweetspot"),
        ({"options": {"tau": "high"}}, "tau"),
        ({"group_column": "topic", "columns": {"group": "source"}}, "different"),
        ({"metrik": "random"}, "did you mean `metric`"),
        ({"cluster": {"scorer": {"replica": 2}}}, "unknown setting `cluster.scorer.replica`"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(**flags)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigError) as found:
        load_settings({})
    assert all(f"`{name}` is missing" in found.value.message for name in ("keep", "out", "dataset"))


def test_full_keeps_all_without_saying_so() -> None:
    assert load_settings({"dataset": "a", "out": "b", "metric": "full"})[0].keep == 1.0


def test_a_file_says_the_same_as_flags(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "mine.py").write_text("def mine(reward_chosen):\n    return reward_chosen\n")
    path = tmp_path / "select.yaml"
    path.write_text(
        "dataset: a.jsonl\nout: result\nkeep: 0.4\nmetric: mine.py:mine\npairs: all\ncolumns: {reward: score}\n"
        "options: {tau: 1.0}\ncluster: {scorer: {replicas: 2}}\nreward_function: mine:mine\n"
    )
    found, notes = load_settings({}, [], path)
    assert notes == []
    # places in a file are relative to its folder
    assert found.dataset == str(tmp_path / "a.jsonl")
    assert found.metric == f"{tmp_path / 'mine.py'}:mine"
    assert found.reward_function == f"{tmp_path / 'mine.py'}:mine"
    assert found.pairs is not None
    assert found.pairs.build == "all"
    assert found.cluster.scorer.replicas == 2
    # what makes a selection what it is does not depend on where it lies
    assert found.identity()["metric"] == "mine.py:mine"
    assert str(tmp_path) not in str(found.identity())


def test_a_flag_wins_over_the_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "select.yaml"
    path.write_text("dataset: a.jsonl\nout: result\nkeep: 0.4\ncolumns: {reward_chosen: a}\n")
    found, notes = load_settings(
        {"keep": 0.2, "columns": {"reward_rejected": "b"}}, ["cluster.scorer.replicas=3"], path
    )
    assert found.keep == 0.2
    assert found.columns == {"reward_chosen": "a", "reward_rejected": "b"}
    assert found.cluster.scorer.replicas == 3
    assert any(note.startswith("keep") for note in notes)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config file"):
        load_settings({}, [], tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds no settings"):
        load_settings({}, [], tmp_path / "list.yaml")


def test_resources_are_no_part_of_the_identity() -> None:
    other = settings(cluster={"logprobs": {"replicas": 4}}, max_failed=0.5, out="elsewhere")
    assert other.identity() == settings().identity()
    assert settings(seed=1).identity() != settings().identity()


def test_one_nested_key_on_the_command_line_leaves_the_others_of_the_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "mine.py"):
        (tmp_path / name).touch()
    (tmp_path / "s.yaml").write_text(
        "sources: {a: a.jsonl, b: {dataset: b.jsonl}}\n"
        "reward: {parts: {one: {function: 'mine.py:f'}, two: {function: 'mine.py:g', weight: 2.0}}}\n"
        f"metric: explicit_margin\nkeep: 0.5\nout: {tmp_path / 'out'}\n"
    )
    found, _ = load_settings({}, ["sources.a.split=train", "reward.parts.two.weight=3.0"], tmp_path / "s.yaml")
    assert found.sources["a"].split == "train"
    assert [Path(str(source.dataset)).name for source in found.sources.values()] == ["a.jsonl", "b.jsonl"]
    assert found.reward is not None
    assert {name: (part.weight, part.function) for name, part in found.reward.parts.items()} == {
        "one": (1.0, f"{tmp_path / 'mine.py'}:f"),
        "two": (3.0, f"{tmp_path / 'mine.py'}:g"),
    }
