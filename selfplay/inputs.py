"""What a run stands on, resolved once at the start of every attempt: models, prompts, functions, and the digests that pin them.

Cheap checks come first, so that a missing folder or a reward model without a score head is said before anything is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from selfplay.backends.chat import ChatRenderer, load_tokenizer, read_chat_template, stop_token_ids
from selfplay.backends.model_files import model_folder
from selfplay.backends.preflight import (
    PolicyInfo,
    RewardModelInfo,
    check_policy,
    check_reward_model,
    generation_eos_ids,
)
from selfplay.backends.reward_function import RewardFunction, source_digest
from selfplay.config.diff import identity_document
from selfplay.config.schema import Config, EvaluationConfig, PromptsConfig
from selfplay.errors import ConfigError
from selfplay.source_rows import digest as data_digest
from selfplay.sources import PromptSource, load_prompts
from selfplay.store.durable import canonical_json, sha256_bytes, sha256_file


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model's local folder and the sha256 over its files' names and contents."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Inputs:
    """Everything outside the run directory that a run reads. Lengths are in tokens; `pins` maps a setting's name to the sha256
    of what it named."""

    policy: PinnedModel
    policy_info: PolicyInfo
    reward: PinnedModel | None
    reward_info: RewardModelInfo | None
    prompts: PromptSource
    evaluation: PromptSource | None
    renderer: ChatRenderer
    stop_token_ids: tuple[int, ...]
    context_length: int
    max_length: int
    prompt_limit: int
    evaluation_prompt_limit: int
    search_path: Path
    pins: dict[str, str]

    def fingerprint(self, config: Config) -> str:
        """Identity of the run: its identity settings and the content of its inputs."""
        return sha256_bytes(canonical_json({"config": identity_document(config), "pins": self.pins}))


def resolve(config: Config, search_path: Path) -> Inputs:
    """Find, check and digest all inputs. `search_path` is the config's folder. Raises ConfigError, ModelError, DataError."""
    policy_settings = config.policy
    policy_folder = model_folder(policy_settings.model, policy_settings.revision)
    template = read_chat_template(policy_settings.chat_template, search_path)
    info = check_policy(policy_folder, chat_template_needed=template is None)
    reward = reward_info = None
    if config.reward.model is not None:
        reward_folder = model_folder(config.reward.model, config.reward.revision)
        reward_info = check_reward_model(reward_folder, trust_remote_code=config.reward.trust_remote_code)
        reward = PinnedModel(reward_folder, model_digest(reward_folder))
    prompts = _load(config.prompts, policy_settings.system_prompt, search_path)
    evaluation = _load(config.evaluation, policy_settings.system_prompt, search_path) if config.evaluation else None
    pins = {"policy.model": model_digest(policy_folder)}
    pins["prompts.source"] = _data_pin(config.prompts, search_path)
    if reward is not None:
        pins["reward.model"] = reward.digest
    if config.reward.function is not None:
        pins["reward.function"] = source_digest(config.reward.function, search_path)
        RewardFunction(config.reward.function, search_path, batched=config.reward.batched).check_columns(
            columns_of(prompts) | (columns_of(evaluation) if evaluation else set())
        )
    if config.evaluation is not None and evaluation is not None:
        pins["evaluation.source"] = _data_pin(config.evaluation, search_path)
        if config.evaluation.gold is not None:
            pins["evaluation.gold"] = source_digest(config.evaluation.gold, search_path)
            RewardFunction(config.evaluation.gold, search_path).check_columns(columns_of(evaluation))
    if template is not None:
        pins["policy.chat_template"] = sha256_bytes(template.encode())
    tokenizer = load_tokenizer(policy_folder, trust_remote_code=policy_settings.trust_remote_code)
    lengths = _lengths(config, info)
    return Inputs(
        policy=PinnedModel(policy_folder, pins["policy.model"]),
        policy_info=info,
        reward=reward,
        reward_info=reward_info,
        prompts=prompts,
        evaluation=evaluation,
        renderer=ChatRenderer(tokenizer, template, policy_settings.chat_template_kwargs),
        stop_token_ids=stop_token_ids(tokenizer, generation_eos_ids(policy_folder)),
        search_path=search_path,
        pins=pins,
        **lengths,
    )


def _load(section: PromptsConfig | EvaluationConfig, system_prompt: str | None, base: Path) -> PromptSource:
    return load_prompts(
        section.source, section.column, split=section.split, subset=section.subset, revision=section.revision,
        id_column=section.id_column, system_prompt=system_prompt, base_dir=base,
    )  # fmt: skip


def _data_pin(section: PromptsConfig | EvaluationConfig, base: Path) -> str:
    return data_digest(section.source, section.split, base, subset=section.subset, revision=section.revision)


def columns_of(source: PromptSource) -> set[str]:
    """Names of the other columns that the prompts of a source have."""
    return {name for prompt in source.prompts[:100] for name in json.loads(prompt.columns_json)}


def model_digest(folder: Path) -> str:
    """sha256 over the names and contents of a model folder's files (hidden ones and caches left out)."""
    files = sorted(
        path for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )  # fmt: skip
    return sha256_bytes(canonical_json([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files]))


def _lengths(config: Config, info: PolicyInfo) -> dict[str, int]:
    context = config.sampling.engine.get("max_model_len") or info.max_position_embeddings
    if context is None:
        raise ConfigError("the policy's config names no longest context", "Say it with sampling.engine.max_model_len.")
    if info.max_position_embeddings is not None and context > info.max_position_embeddings:
        raise ConfigError(
            f"sampling.engine.max_model_len is {context}; the policy has positions for {info.max_position_embeddings} tokens",
            "Lower it, or leave it out.",
        )
    max_length = config.training.max_length or context
    if max_length > context:
        raise ConfigError(
            f"training.max_length is {max_length}, but the context has {context} tokens", "Lower it, or leave it out."
        )
    lengths = {"context_length": int(context), "max_length": int(max_length)}
    evaluation = config.evaluation
    for name, tokens, limit in (
        ("prompt_limit", config.sampling.max_tokens, max_length),
        (
            "evaluation_prompt_limit",
            (evaluation.max_tokens if evaluation else None) or config.sampling.max_tokens,
            context,
        ),
    ):
        if tokens >= limit:
            raise ConfigError(
                f"max_tokens {tokens} leaves no room for a prompt in {limit} tokens "
                f"(the smaller of the policy's context and training.max_length)",
                "Lower sampling.max_tokens (and evaluation.max_tokens).",
            )
        lengths[name] = int(limit - tokens)
    return lengths
