"""Which combinations the schema refuses, with what words; every field has its tag and a description."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from selfplay.config.load import fields, validate
from selfplay.config.schema import Config
from selfplay.config.tags import Tag
from selfplay.core.errors import ConfigError

SMALL: dict[str, Any] = {
    "policy": {"model": "org/policy"},
    "prompts": {"source": "org/prompts", "per_round": 8},
    "sampling": {"max_tokens": 8},
    "reward": {"model": "org/reward"},
    "training": {"beta": 0.1, "learning_rate": 1e-5, "batch_size": 4},
    "evaluation": {"source": "org/held"},
    "rounds": 1,
}
SHA = "0123456789abcdef" * 2 + "01234567"


def config(**sections: Any) -> Config:
    """The small config with keys of sections added or replaced."""
    document = {
        name: {**SMALL.get(name, {}), **value} if isinstance(value, dict) else value for name, value in sections.items()
    }
    return validate(SMALL | document, "here")


def parts(**sections: Any) -> dict[str, Any]:
    """A reward that is combined of these."""
    return {"reward": {"model": None, "parts": sections}}


def test_every_field_has_a_tag_and_a_description() -> None:
    for name, field in fields():
        assert (field.json_schema_extra or {}).get("tag") in get_args(Tag), name
        assert field.description, name


def test_defaults_are_neutral() -> None:
    small = config()
    sampling = small.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.0, 0.0, 0.0)
    assert small.selection.keep == 1.0
    assert not small.policy.trust_remote_code
    assert not small.reward.trust_remote_code


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().training.beta = 0.2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"reward": {"function": "m:f"}}, "exactly one of `model` and `function`"),
        ({"reward": {"model": None}}, "exactly one of `model` and `function`"),
        ({"reward": {"batched": True}}, "`batched` needs reward.function"),
        ({"reward": {"model": None, "function": "m:f", "sees": "full"}}, "`sees` needs reward.model"),
        ({"reward": {"model": None, "function": "m:f", "max_length": 9}}, "`max_length` needs reward.model"),
        ({"reward": {"model": None, "function": "m:f", "dtype": "float32"}}, "`dtype` needs reward.model"),
        ({"reward": {"model": None, "function": "m:f", "revision": SHA}}, "`revision` needs reward.model"),
        ({"reward": {"parts": {"a": {"function": "m:f"}}}}, "or several rewards under `parts`"),
        ({"reward": {"normalize": "none"}}, "`normalize` needs reward.parts"),
        (parts(a={}), "reward.parts.a: give exactly one of `model` and `function`"),
        (parts(a={"model": "org/r", "function": "m:f"}), "reward.parts.a: give exactly one"),
        (parts(a={"function": "m:f", "sees": "full"}), "reward.parts.a: `sees` needs"),
        (parts(a={"model": "org/r", "batched": True}), "reward.parts.a: `batched` needs"),
        (parts(a={"model": "org/r", "trust_remote_code": True}), "reward.parts.a: trust_remote_code needs `revision`"),
        (parts(a={"function": "m:f", "weight": 0}), "`weight: 0` gives the part no effect"),
        (parts(a={"function": "m:f", "weight": float("inf")}), "reward.parts.a.weight` is inf"),
        (
            parts(a={"function": "m:f", "wieght": 2.0}),
            "unknown setting `reward.parts.a.wieght`: did you mean `reward.parts.a.weight`",
        ),
        (parts(gold={"function": "m:f"}), "'gold' cannot be the name of a part"),
        (parts(reward={"function": "m:f"}), "'reward' cannot be the name of a part"),
        (parts(chosen={"function": "m:f"}), "'chosen' cannot be the name of a part"),
        (parts(**{"my part": {"function": "m:f"}}), "'my part' cannot be the name of a part"),
        (parts(**{"kürze": {"function": "m:f"}}), "'kürze' cannot be the name of a part"),
        (
            {"reward": {**parts(a={"function": "m:f"})["reward"], "dtype": "float32"}},
            "`dtype` belongs to a part: set it under reward.parts.NAME",
        ),
        ({"policy": {"trust_remote_code": True}}, "trust_remote_code needs `revision`"),
        ({"policy": {"trust_remote_code": True, "revision": "main"}}, "trust_remote_code needs `revision`"),
        ({"reward": {"trust_remote_code": True}}, "trust_remote_code needs `revision`"),
        ({"selection": {"keep": 0}}, "`keep` is a fraction above 0"),
        ({"selection": {"keep": -3}}, "`keep` is a fraction above 0"),
        (
            {"policy": {"chat_template": "none", "system_prompt": "Be brief."}},
            "`system_prompt` needs a chat template",
        ),
        ({"pairs": {"max_per_prompt": 3}}, "`max_per_prompt` needs build: all"),
        ({"pairs": {"build": "all", "max_per_prompt": 10}}, "5 responses give 10 pairs at most"),
        ({"pairs": {"build": "best"}}, "pairs.build` is 'best'"),
        ({"pairs": {"build": "sweet_spot"}}, "takes 6 or more responses a prompt (of five or fewer"),
        ({"pairs": {"build": "best_median"}, "sampling": {"num_responses": 2}}, "takes 3 or more responses a prompt"),
        ({"pairs": {"min_gap": -0.5}}, "pairs.min_gap` is -0.5"),
        ({"pairs": {"max_similarity": 0}}, "pairs.max_similarity` is 0"),
        ({"pairs": {"max_length_gap": -1}}, "pairs.max_length_gap` is -1"),
        ({"pairs": {"length_penalty": "on"}}, "pairs.length_penalty"),
        ({"selection": {"keep": 1}}, "write 1.0 for all pairs"),
        ({"selection": {"keep": 1.5}}, "is not a fraction up to 1.0"),
        ({"selection": {"keep": 500.0}}, "write a number of pairs without a point"),
        ({"selection": {"keep": True}}, "selection.keep` is True"),
        ({"selection": {"metric": "full", "keep": 0.5}}, "metric: full keeps every pair"),
        ({"selection": {"metric": "loudest"}}, "selection.metric` is 'loudest'"),
        ({"selection": {"form": "dpo"}}, "`selection.form` is not a setting; its name is `selection.implicit_margin`"),
        ({"selection": {"beta": 0.1}}, "`beta` needs implicit_margin: dpo"),
        ({"selection": {"first_round_metric": "random"}}, "`first_round_metric` needs implicit_margin: dpo"),
        ({"selection": {"implicit_margin": "dpo"}}, "needs a reference that differs from the policy"),
        (
            {"selection": {"logprobs": {"source": "engine"}}, "training": {"start": "initial"}},
            "source: engine needs training.start: previous",
        ),
        (
            {
                "selection": {"logprobs": {"source": "engine"}},
                "policy": {"dtype": "bfloat16"},
                "training": {"precision": "float32"},
            },
            "does not give the log-probs of a trainer in float32",
        ),
        ({"selection": {"implicit_margin": "dpo"}, "training": {"reference": "initial"}}, "not defined in round 1"),
        (
            {
                "selection": {"implicit_margin": "dpo", "first_round_metric": "random"},
                "training": {"reference": "initial", "start": "initial"},
            },
            "is always 0",
        ),
        (
            {
                "selection": {"implicit_margin": "dpo", "first_round_metric": "random"},
                "training": {"loss": "simpo", "simpo_gamma_beta_ratio": 0.3},
            },
            "needs a reference that differs from the policy",
        ),
        ({"training": {"loss": "simpo"}}, "needs `simpo_gamma_beta_ratio`"),
        ({"training": {"simpo_gamma_beta_ratio": 0.3}}, "`simpo_gamma_beta_ratio` needs loss: simpo"),
        (
            {"training": {"loss": "simpo", "simpo_gamma_beta_ratio": 0.3, "reference": "initial"}},
            "`reference` does nothing with loss: simpo",
        ),
        ({"training": {"micro_batch_tokens": 0}}, "training.micro_batch_tokens` is 0"),
        ({"training": {"beta": 0}}, "training.beta` is 0"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate` is nan"),
        ({"training": {"warmup_ratio": 1}}, "training.warmup_ratio` is 1"),
        ({"sampling": {"num_responses": 1}}, "a pair consists of two responses"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature` is 0"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p` is 0"),
        ({"cluster": {"trainer": {"replicas": 2}}}, "trainer.replicas is 1"),
        ({"cluster": {"sampler": {"replicas": 0}}}, "cluster.sampler.replicas` is 0"),
        ({"seed": -1}, "`seed` is -1"),
        ({"seed": 2**63}, "`seed` is"),
        ({"rounds": 0}, "`rounds` is 0"),
    ],
)
def test_refusals(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"policy": {"trust_remote_code": True, "revision": SHA}},
        {"reward": {"model": None, "function": "m:f", "batched": True}},
        parts(a={"function": "m:f"}),
        parts(a={"function": "m:f", "batched": True}, b={"model": "org/r", "weight": -0.5}),
        {"reward": {**parts(a={"function": "m:f"})["reward"], "normalize": "none", "batch_tokens": 64}},
        {"pairs": {"build": "all", "max_per_prompt": 9, "min_gap": 0.1, "max_similarity": 0.9, "max_length_gap": 0}},
        {"pairs": {"build": "sweet_spot"}, "sampling": {"num_responses": 6}},
        {"pairs": {"length_penalty": "auto", "min_reward_chosen": -1, "max_reward_rejected": 1.5}},
        {"pairs": {"length_penalty": -0.01, "allow_truncated": True}},
        {"selection": {"keep": 500}},
        {"selection": {"keep": 0.4}},
        {"selection": {"metric": "full"}},
        {
            "selection": {"implicit_margin": "dpo", "first_round_metric": "random", "beta": 0.2},
            "training": {"reference": "initial"},
        },
        {"training": {"loss": "simpo", "simpo_gamma_beta_ratio": 0.0}},
        {"training": {"micro_batch_size": 3}},
        {"evaluation": None},
        {"seed": 2**63 - 1},
    ],
)
def test_what_is_allowed(sections: dict[str, Any]) -> None:
    config(**sections)
