"""Every file in configs/ loads, and says what the recipes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfplay.config.load import load_config
from selfplay.config.schema import Config
from selfplay.config.strict_yaml import parse
from selfplay.quickstart.recipe import run_config

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))
RECIPES = ["gemma2-9b-simpo", "llama3-8b-dpo", "qwen3-8b-lora"]


def load(name: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml")


def test_all_are_there() -> None:
    assert [path.stem for path in SHIPPED] == sorted([*RECIPES, "quickstart"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_loads_and_begins_with_what_it_is(path: Path) -> None:
    load_config(path)
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert head.startswith("# ")
    assert all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_released_one_where_they_can_be(name: str) -> None:
    config = load(name)
    sampling, training, selection = config.sampling, config.training, config.selection
    assert (sampling.num_responses, sampling.temperature, sampling.top_p) == (5, 0.8, 0.95)
    assert (selection.metric, selection.implicit_margin, selection.keep) == ("alignment_potential", "simpo", 0.4)
    assert selection.weight == 1.0
    assert (training.epochs, training.batch_size, training.max_length) == (1, 128, 2048)
    assert (training.schedule, training.warmup_ratio) == ("cosine", 0.1)
    assert sampling.max_tokens < 2048
    assert config.reward.model is not None
    assert config.reward.model.startswith("Skywork/Skywork-Reward-V2-")
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    assert "ArmoRM" in text
    assert "# Hardware:" in text


def test_losses_and_rates_of_each_recipe() -> None:
    llama, gemma, qwen = (
        load("llama3-8b-dpo").training,
        load("gemma2-9b-simpo").training,
        load("qwen3-8b-lora").training,
    )
    assert (llama.loss, llama.beta, llama.learning_rate, llama.lora) == ("dpo", 0.01, 3e-7, None)
    assert (gemma.loss, gemma.beta, gemma.simpo_gamma_beta_ratio, gemma.learning_rate) == ("simpo", 10, 0.5, 8e-7)
    assert qwen.loss == "dpo"
    assert qwen.lora is not None
    assert load("qwen3-8b-lora").policy.chat_template_kwargs == {"enable_thinking": False}


def test_quickstart_is_the_recipe_of_the_small_world() -> None:
    path = CONFIGS / "quickstart.yaml"
    document: dict[str, Any] = parse(path.read_text(encoding="utf-8"), str(path))
    world = "../runs/quickstart-world/"
    for section, key in (("policy", "model"), ("reward", "model"), ("prompts", "source"), ("evaluation", "source")):
        assert document[section][key].startswith(world)
        document[section][key] = document[section][key].removeprefix(world)
    assert document == run_config(0)
    # the command that makes the world is in the file, with the place the file expects
    assert "selfplay quickstart --prepare-only --world runs/quickstart-world\n" in path.read_text(encoding="utf-8")
