"""From file and overrides to a Config; places; errors that name the setting and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfplay.config.load import absolute_places, apply_override, fields, load_config, looks_like_path, validate
from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError

SMALL: dict[str, Any] = {
    "policy": {"model": "org/policy"},
    "prompts": {"source": "org/prompts", "per_round": 8},
    "sampling": {"max_tokens": 8},
    "reward": {"model": "org/reward"},
    "training": {"beta": 0.1, "learning_rate": 1e-5, "batch_size": 4},
    "rounds": 1,
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(folder: str = ".", **sections: Any) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "config.yaml"
        path.write_text(yaml.safe_dump(SMALL | sections))
        return path

    return write


def test_a_small_file_is_enough_and_overrides_win(write: Callable[..., Path]) -> None:
    config = load_config(write(), ["training.beta=0.5", "training.learning_rate=1e-6", "rounds=3"])
    assert (config.training.beta, config.training.learning_rate, config.rounds) == (0.5, 1e-6, 3)
    assert config.training.batch_size == 4


def test_an_override_opens_sections_that_are_not_there(write: Callable[..., Path]) -> None:
    config = load_config(write(), ["training.lora.r=4", "sampling.engine.max_num_seqs=8", "evaluation.source=held/out"])
    assert config.training.lora is not None
    assert config.training.lora.r == 4
    assert config.sampling.engine == {"max_num_seqs": 8}
    assert config.evaluation is not None
    assert load_config(write(), ["training.lora={}"]).training.lora is not None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("beta", "`beta` is not of the form key=value"),
        ("=3", "`=3` is not of the form key=value"),
        ("rounds.more=3", "`rounds` is a value, not a section"),
        ("rounds=[1", "the override rounds is not valid YAML"),
        ("rounds=", "`rounds` is None"),
    ],
)
def test_bad_overrides(write: Callable[..., Path], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(), [override])
    assert error.value.hint


def test_apply_override_changes_only_what_it_names() -> None:
    document = {"a": {"b": 1, "c": None}, "d": 2}
    apply_override(document, "a.c.e=[1, no]")
    assert document == {"a": {"b": 1, "c": {"e": [1, "no"]}}, "d": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.beta=1", "unknown setting `trainig`: did you mean `training`"),
        ("training.lerning_rate=1", "unknown setting `training.lerning_rate`: did you mean `training.learning_rate`"),
        ("training.lora.rank=1", "unknown setting `training.lora.rank`"),
        ("cluster.sampler.num_gpu=1", "did you mean `cluster.sampler.num_gpus`"),
        ("evaluation.num_promts=4", "did you mean `evaluation.num_prompts`"),
        ("temperature=1", "unknown setting `temperature`: did you mean `sampling.temperature`"),
        ("qqq=1", "unknown setting `qqq`$"),
        ("cluster.call_timeout=1", "`cluster.call_timeout` is not a setting; its name is `cluster.heartbeat_timeout`"),
    ],
)
def test_unknown_settings_name_the_nearest(write: Callable[..., Path], override: str, message: str) -> None:
    path = write(evaluation={"source": "held/out"})
    with pytest.raises(ConfigError) as error:
        load_config(path, [override])
    assert re.search(message, error.value.message)
    assert str(path) in error.value.message
    assert "config schema" in error.value.hint


def test_every_problem_is_told_at_once(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write(), ["rounds=0", "training.batch_size=none", "trainin.x=1"])
    for part in ("`rounds` is 0", "`training.batch_size` is 'none'", "unknown setting `trainin`"):
        assert part in error.value.message


def test_a_value_of_no_fitting_type_is_one_problem() -> None:
    with pytest.raises(ConfigError) as error:
        validate(SMALL | {"selection": {"keep": "half"}}, "here")
    assert error.value.message == "here: `selection.keep` is 'half': Input should be a valid number"


@pytest.mark.parametrize(("name", "value"), [("training.beta", '"0.1"'), ("rounds", "true"), ("rounds", "2.0")])
def test_numbers_are_not_made_of_other_things(write: Callable[..., Path], name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is "):
        load_config(write(), [f"{name}={value}"])


def test_a_flag_is_true_or_false(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"`training\.gradient_checkpointing` is 'no'"):
        load_config(write(), ["training.gradient_checkpointing=no"])


def test_missing_settings_and_files(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`policy\.model` is missing"):
        load_config(write(policy={}))
    with pytest.raises(ConfigError, match="no config file at") as error:
        load_config(tmp_path / "nowhere.yaml")
    assert "configs/" in error.value.hint
    for text, message in (
        ("- 1\n- 2\n", "contains no settings"),
        ("", "contains no settings"),
        ("rounds: 1\nrounds: 2", "twice"),
    ):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path / "odd.yaml")
    (tmp_path / "odd.yaml").write_bytes(b"rounds: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "odd.yaml")


def test_places_beside_the_config_come_first_then_the_working_directory(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd/model").mkdir(parents=True)
    (tmp_path / "cwd/other").mkdir()
    (tmp_path / "home/model").mkdir(parents=True)
    (tmp_path / "home/prompts.jsonl").touch()
    (tmp_path / "home/rewards.py").touch()
    (tmp_path / "cwd/judge.py").touch()
    monkeypatch.chdir(tmp_path / "cwd")
    config = load_config(
        write(
            "home",
            policy={"model": "model"},
            prompts={"source": "prompts.jsonl", "per_round": 8},
            reward={"function": "rewards:reward"},
            evaluation={"source": "other", "gold": "judge.py:gold"},
        )
    )
    assert config.policy.model == str(tmp_path / "home/model")
    assert config.prompts.source == str(tmp_path / "home/prompts.jsonl")
    assert config.reward.function == str(tmp_path / "home/rewards.py") + ":reward"
    assert config.evaluation is not None
    assert config.evaluation.source == str(tmp_path / "cwd/other")
    assert config.evaluation.gold == str(tmp_path / "cwd/judge.py") + ":gold"


def test_places_of_parts_and_their_overrides(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "home/model").mkdir(parents=True)
    (tmp_path / "home/rewards.py").touch()
    parts = {"helpful": {"model": "model"}, "short": {"function": "rewards:short"}, "hub": {"model": "org/reward"}}
    path = write("home", reward={"parts": parts})
    config = load_config(path, ["reward.parts.short.weight=-0.5", "reward.parts.long={function: rewards:long}"])
    found = {name: (part.model or part.function, part.weight) for name, part in config.reward.parts.items()}
    assert found == {
        "helpful": (str(tmp_path / "home/model"), 1.0), "short": (str(tmp_path / "home/rewards.py") + ":short", -0.5),
        "hub": ("org/reward", 1.0), "long": (str(tmp_path / "home/rewards.py") + ":long", 1.0),
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"unknown setting `reward\.parts\.short\.wieght`: did you mean `reward\.parts\.short\.w"
    ):
        load_config(path, ["reward.parts.short.wieght=2.0"])


def test_places_that_do_not_exist_stay_as_they_are(tmp_path: Path) -> None:
    document = SMALL | {
        "reward": {"function": "package.module:reward"},
        "evaluation": {"source": "org/held", "gold": "m:g"},
    }
    config = validate(document, "here")
    assert absolute_places(config, tmp_path) == config
    # a folder is no module, and a file no model folder's namesake inside a package
    (tmp_path / "m").mkdir()
    assert absolute_places(config, tmp_path) == config


def test_absolute_places_changes_nothing_twice(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = load_config(write(policy={"model": "model"}))
    assert absolute_places(config, tmp_path / "elsewhere") == config
    assert config.policy.model == str(tmp_path / "model")


def test_what_looks_like_a_path() -> None:
    assert all(map(looks_like_path, ("./x", "/x", "~/x", "a/b/c", "prompts.jsonl", "x.csv", "data.parquet")))
    assert not any(map(looks_like_path, ("org/name", "name", "gsm8k")))


def test_a_config_survives_its_own_json() -> None:
    training = {**SMALL["training"], "loss": "simpo", "simpo_gamma_beta_ratio": 0.5, "lora": {}}
    document = SMALL | {"selection": {"keep": 500}, "evaluation": {"source": "org/held"}, "training": training}
    config = validate(document, "here")
    assert validate(config.model_dump(mode="json"), "again") == config
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_fields_lists_every_setting_once() -> None:
    names = [name for name, _ in fields()]
    assert len({*names}) == len(names) > 60
    assert {"rounds", "policy.model", "training.lora.r", "evaluation.gold", "cluster.trainer.num_gpus"} <= {*names}
    assert not {"policy", "training.lora", "evaluation", "cluster.trainer"} & {*names}


def test_a_file_of_megabytes_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(ConfigError, match="has more than 1 MiB"):
        load_config(path)
