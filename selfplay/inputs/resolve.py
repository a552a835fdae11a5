"""The inputs of a run, resolved at the start of every attempt: models, prompts, functions, and the digests that pin them.

`pinning.py` finds and digests, and runs nothing. Here functions are imported and tokenizers loaded, when it is known that they
are those that the run was started with.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.config.diff import identity_document
from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError
from selfplay.core.records import Message
from selfplay.inputs.conversations import check_conversations
from selfplay.inputs.metric_requirements import Ranking, resolve_ranking
from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer, stop_token_ids
from selfplay.inputs.models.loading_check import check_policy_loads, check_reward_model_loads
from selfplay.inputs.models.lora_targets import check_lora_targets
from selfplay.inputs.models.preflight import PolicyInfo, RewardModelInfo, generation_eos_ids
from selfplay.inputs.models.trial import tried_renderer
from selfplay.inputs.pinning import Pinned, PinnedModel, pin
from selfplay.inputs.prompts import PromptSource
from selfplay.inputs.user_code.exits import model_code
from selfplay.inputs.user_code.listing import Code
from selfplay.inputs.user_code.rewards import RewardFunction
from selfplay.store.durable import canonical_json, sha256_bytes


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model that only embeds. `limit` is the longest text in its tokens (None: its config names no limit)."""

    model: PinnedModel
    tokenizer: Any
    limit: int | None

    def token_ids(self, messages: Sequence[Message], response: str) -> list[int] | None:
        """Token ids of a conversation: the turns as plain text, with the special tokens that the tokenizer puts around a
        text. None where they are too many."""
        text = "\n\n".join([*(message["content"] for message in messages), response])
        ids = list(self.tokenizer(text, verbose=False)["input_ids"])
        return ids if self.limit is None or len(ids) <= self.limit else None


@dataclass(frozen=True)
class Inputs:
    """Everything outside the run directory that a run reads. Lengths are in tokens.

    `pins` maps a setting's name to the sha256 of what it named, `revisions` to NAME@COMMIT where that was a hub model.
    `rewards` are the reward models by their section (`reward`, or `reward.parts.NAME`); functions are none of them.
    `gold_lacks`: columns that the gold judge requires and only the evaluation's prompts have. `code` is the code of users and
    models that is run.
    `notes` and `warnings` are what the checks of the models and of their conversations found (see `conversations.py`).
    `reference` and `embedding` are models that only a selection from a dataset has beside its policy.
    """

    policy: PinnedModel
    policy_info: PolicyInfo
    rewards: dict[str, PinnedModel]
    reward_infos: dict[str, RewardModelInfo]
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
    revisions: dict[str, str]
    gold_lacks: tuple[str, ...]
    ranking: Ranking
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    code: tuple[Code, ...] = ()
    mix: PinnedModel | None = None
    reference: PinnedModel | None = None
    embedding: EmbeddingModel | None = None

    @property
    def gold_on_training(self) -> bool:
        """Whether the gold judge can judge training responses too (beside the held-out ones, for which it is there)."""
        return not self.gold_lacks

    def fingerprint(self, config: Config) -> str:
        """Identity of the run: its identity settings and the content of its inputs."""
        return sha256_bytes(canonical_json({"config": identity_document(config), "pins": self.pins}))


def resolve(
    config: Config, search_path: Path, revisions: Mapping[str, str] | None = None, pinned: Pinned | None = None
) -> Inputs:
    """All inputs, found and digested (see `pin`, which is called where its result is not given), with functions and tokenizers
    loaded and checked. Raises ConfigError, ModelError, DataError."""
    pinned = pinned or pin(config, search_path, revisions)
    with contextlib.chdir(Path.cwd()):  # a user's file may go to another folder while it is imported
        return _resolve(pinned)


def _resolve(pinned: Pinned) -> Inputs:
    config, search_path = pinned.config, pinned.search_path
    gold_lacks = _check_functions(config, search_path, pinned.prompts, pinned.evaluation)
    trust = config.policy.trust_remote_code
    with model_code("policy.model", runs=trust):
        left_out = _check_policy_loads(config, pinned)
        tokenizer = load_tokenizer(pinned.policy.folder, trust_remote_code=trust)
    for section, reward in pinned.rewards.items():
        own_code = config.reward.sources()[section].trust_remote_code
        with model_code(f"{section}.model", runs=own_code):
            left_out += check_reward_model_loads(reward.folder, trust_remote_code=own_code).warnings
    lengths = _lengths(config, pinned.policy_info)
    renderer = tried_renderer(
        "policy.model", tokenizer, pinned.template, config.policy.chat_template_kwargs, own_code=trust
    )
    ranking = resolve_ranking(config, search_path, pinned.prompts, renderer, lengths["context_length"])
    tables = {"prompts.source": pinned.prompts, "evaluation.source": pinned.evaluation}
    conversations = check_conversations(
        renderer,
        stop_token_ids(tokenizer, generation_eos_ids(pinned.policy.folder)),
        pinned.policy.folder,
        pinned.policy_info.vocab_size,
        {
            section: (source, pinned.rewards[section].folder)
            for section, source in config.reward.sources().items()
            if source.model
        },
        {name: source.prompts.table for name, source in tables.items() if source is not None},
    )
    return Inputs(
        policy=pinned.policy,
        policy_info=pinned.policy_info,
        rewards=pinned.rewards,
        reward_infos=pinned.reward_infos,
        prompts=pinned.prompts,
        evaluation=pinned.evaluation,
        renderer=renderer,
        stop_token_ids=conversations.stop_token_ids,
        search_path=search_path,
        pins=pinned.pins,
        revisions=pinned.revisions,
        gold_lacks=gold_lacks,
        ranking=ranking,
        notes=conversations.notes,
        warnings=(*left_out, *conversations.warnings),
        code=pinned.code,
        mix=pinned.mix,
        reference=None,
        embedding=None,
        **lengths,
    )


def _check_policy_loads(config: Config, pinned: Pinned) -> tuple[str, ...]:
    """Warnings about the policy's tensors. Raises ModelError for a policy that its library would refuse, ConfigError for LoRA
    targets that cannot be trained."""
    loaded = check_policy_loads(pinned.policy.folder, trust_remote_code=config.policy.trust_remote_code)
    if config.training.lora is not None:
        check_lora_targets(config.training.lora.target_modules, loaded.model)
    return loaded.warnings


def _check_functions(
    config: Config, search_path: Path, prompts: PromptSource, evaluation: PromptSource | None
) -> tuple[str, ...]:
    """Check the user's functions against each source whose responses they are given. Returns the columns that the gold judge
    lacks in the training prompts: it is there for the held-out ones, and left out of training then."""
    training = columns_of(prompts, config.prompts.column)
    with contextlib.redirect_stdout(sys.stderr):
        for source in config.reward.sources().values():
            if source.function is None:
                continue
            function = RewardFunction(source.function, search_path, batched=source.batched)
            function.check_columns(training, f"prompts.source ({config.prompts.source})")
            if config.evaluation is not None and evaluation is not None:
                held_out = columns_of(evaluation, config.evaluation.column)
                function.check_columns(held_out, f"evaluation.source ({config.evaluation.source})")
        if config.evaluation is None or evaluation is None or config.evaluation.gold is None:
            return ()
        gold = RewardFunction(config.evaluation.gold, search_path)
    held_out = columns_of(evaluation, config.evaluation.column)
    gold.check_columns(held_out, f"evaluation.source ({config.evaluation.source})")
    return tuple(gold.lacking(training))


def columns_of(source: PromptSource, column: str) -> set[str]:
    """Names of the columns that a source's rows have beside that of the prompt."""
    return {*source.columns} - {column}


def _lengths(config: Config, info: PolicyInfo) -> dict[str, int]:
    given = config.sampling.engine.get("max_model_len")
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 2):
        raise ConfigError(
            f"sampling.engine.max_model_len is {given!r}, which is not a number of tokens",
            "Give a whole number of tokens, as in 4096, or leave it out for the policy's own.",
        )
    context = given or info.max_position_embeddings
    if context is None:
        raise ConfigError("the policy's config does not give its longest context", "Set sampling.engine.max_model_len.")
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
