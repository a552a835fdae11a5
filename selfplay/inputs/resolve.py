"""What a run stands on, resolved once at the start of every attempt: models, prompts, functions, and the digests that pin them.

Cheap checks come first, so that a missing folder or a reward model without a score head is said before anything is loaded.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.config.diff import identity_document
from selfplay.config.schema import Config, EvaluationConfig, MixConfig, PolicyConfig, PromptsConfig, RewardSource
from selfplay.core.errors import ConfigError
from selfplay.core.records import Message
from selfplay.core.redaction import find_secret
from selfplay.inputs.conversations import check_conversations
from selfplay.inputs.metric_requirements import Ranking, ranking_pins, resolve_ranking
from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer, read_chat_template, stop_token_ids
from selfplay.inputs.models.files import (
    loaded_files,
    model_folder,
    refuse_adapter,
    refuse_foreign_code,
    snapshot_commit,
)
from selfplay.inputs.models.preflight import (
    PolicyInfo,
    RewardModelInfo,
    check_policy,
    check_reward_model,
    generation_eos_ids,
)
from selfplay.inputs.prompts import PromptSource, load_prompts
from selfplay.inputs.rows.source import source_digest as data_digest
from selfplay.inputs.user_code.rewards import RewardFunction, source_digest
from selfplay.store.durable import canonical_json, sha256_bytes, sha256_file


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model's local folder and the sha256 over its files' names and contents."""

    folder: Path
    digest: str


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
    `gold_lacks`: columns that the gold judge requires and only the evaluation's prompts have.
    `notes` and `warnings` are what the checks of the models' conversations found (see `conversations.py`).
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


KEEP_SECRETS_OUT = (
    "Settings are recorded with the run: take it out. Libraries and your functions read it from the environment."
)


def refuse_secrets(config: Config) -> None:
    """Raise ConfigError for a setting that holds the value of a secret of the environment: settings are recorded."""
    if name := find_secret(json.dumps(config.model_dump(mode="json"), ensure_ascii=False)):
        raise ConfigError(f"the configuration holds the value of the environment variable {name}", KEEP_SECRETS_OUT)


def resolve(config: Config, search_path: Path, revisions: Mapping[str, str] | None = None) -> Inputs:
    """Find, check and digest all inputs. `search_path` is the config's folder; `revisions` are those that an earlier attempt
    found (`Inputs.revisions`), so that a hub model stays the one it was. Raises ConfigError, ModelError, DataError."""
    refuse_secrets(config)
    policy_settings = config.policy
    known = dict(revisions or {})
    found: dict[str, str] = {}
    policy_folder = find_model("policy.model", policy_settings, known, found)
    template = read_chat_template(policy_settings.chat_template, search_path)
    info = check_policy(policy_folder, chat_template_needed=template is None)
    rewards: dict[str, PinnedModel] = {}
    reward_infos: dict[str, RewardModelInfo] = {}
    for section, source in config.reward.sources().items():
        if source.model is not None:
            folder = find_model(f"{section}.model", source, known, found)
            reward_infos[section] = check_reward_model(folder, trust_remote_code=source.trust_remote_code)
            rewards[section] = PinnedModel(folder, model_digest(folder))
    prompts = _load(config.prompts, policy_settings.system_prompt, search_path)
    evaluation = _load(config.evaluation, policy_settings.system_prompt, search_path) if config.evaluation else None
    pins = {"policy.model": model_digest(policy_folder)}
    pins["prompts.source"] = _data_pin(config.prompts, search_path)
    mix = _mixed_model(config, policy_folder, info, known, found)
    if mix is not None:
        pins["sampling.mix.model"] = mix.digest
    pins |= {f"{section}.model": model.digest for section, model in rewards.items()}
    if config.evaluation is not None:
        pins["evaluation.source"] = _data_pin(config.evaluation, search_path)
    pins |= _function_pins(config, search_path) | ranking_pins(config, search_path)
    gold_lacks = _check_functions(config, search_path, prompts, evaluation)
    if template is not None:
        pins["policy.chat_template"] = sha256_bytes(template.encode())
    tokenizer = load_tokenizer(policy_folder, trust_remote_code=policy_settings.trust_remote_code)
    lengths = _lengths(config, info)
    renderer = ChatRenderer(tokenizer, template, policy_settings.chat_template_kwargs)
    ranking = resolve_ranking(config, search_path, prompts, renderer, lengths["context_length"])
    sources = {"prompts.source": prompts, "evaluation.source": evaluation}
    conversations = check_conversations(
        renderer,
        stop_token_ids(tokenizer, generation_eos_ids(policy_folder)),
        policy_folder,
        info.vocab_size,
        {
            section: (source, rewards[section].folder)
            for section, source in config.reward.sources().items()
            if source.model
        },
        {name: source.prompts.table for name, source in sources.items() if source is not None},
    )
    return Inputs(
        policy=PinnedModel(policy_folder, pins["policy.model"]),
        policy_info=info,
        rewards=rewards,
        reward_infos=reward_infos,
        prompts=prompts,
        evaluation=evaluation,
        renderer=renderer,
        stop_token_ids=conversations.stop_token_ids,
        search_path=search_path,
        pins=pins,
        revisions=found,
        gold_lacks=gold_lacks,
        ranking=ranking,
        notes=conversations.notes,
        warnings=conversations.warnings,
        mix=mix,
        reference=None,
        embedding=None,
        **lengths,
    )


def _load(section: PromptsConfig | EvaluationConfig, system_prompt: str | None, base: Path) -> PromptSource:
    return load_prompts(
        section.source, section.column, split=section.split, subset=section.subset, revision=section.revision,
        id_column=section.id_column, system_prompt=system_prompt, base_dir=base,
    )  # fmt: skip


def _data_pin(section: PromptsConfig | EvaluationConfig, base: Path) -> str:
    return data_digest(section.source, section.split, base, subset=section.subset, revision=section.revision)


def _mixed_model(
    config: Config, policy_folder: Path, policy: PolicyInfo, known: Mapping[str, str], found: dict[str, str]
) -> PinnedModel | None:
    """The second model that responses are sampled from. It is another training of the policy: its token ids go through the
    policy for log-probs and training, and one engine serves both in turn. Raises ConfigError where it is not."""
    if config.sampling.mix is None:
        return None
    folder = find_model("sampling.mix.model", config.sampling.mix, known, found)
    info = check_policy(folder, chat_template_needed=False)
    tokenizers = [(path / "tokenizer.json").read_bytes() for path in (folder, policy_folder)]
    differs = [
        name for name in ("architecture", "num_params", "vocab_size") if getattr(info, name) != getattr(policy, name)
    ]
    if tokenizers[0] != tokenizers[1] or differs:
        raise ConfigError(
            f"sampling.mix.model {folder} differs from the policy in its {', '.join(differs) or 'tokenizer'}",
            "Its responses go through the policy token by token: take another training of the same model.",
        )
    return PinnedModel(folder, model_digest(folder))


def find_model(
    name: str, section: PolicyConfig | RewardSource | MixConfig, known: Mapping[str, str], found: dict[str, str]
) -> Path:
    """The folder of the model that a section names. That of a hub name is noted in `found`, and is the commit in `known`
    where this name was resolved before: a branch may have moved since."""
    assert section.model is not None, "the section names a model"
    model, _, commit = known.get(name, "").rpartition("@")
    is_known = model == section.model and not Path(model).expanduser().is_dir()
    folder = model_folder(section.model, commit if is_known else section.revision)
    refuse_adapter(folder)
    if getattr(section, "trust_remote_code", False):  # a second model of `mix` has no such setting
        refuse_foreign_code(folder)
    if not Path(section.model).expanduser().is_dir() and (commit := snapshot_commit(folder) or ""):
        found[name] = f"{section.model}@{commit}"
    return folder


def _function_pins(config: Config, search_path: Path) -> dict[str, str]:
    gold = config.evaluation.gold if config.evaluation else None
    functions = {f"{section}.function": source.function for section, source in config.reward.sources().items()}
    functions["evaluation.gold"] = gold
    # finding a module in a package runs the package, which may print; stdout is for data
    with contextlib.redirect_stdout(sys.stderr):
        return {name: source_digest(spec, search_path) for name, spec in functions.items() if spec is not None}


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


def model_digest(folder: Path) -> str:
    """sha256 over the names and contents of the files that loading a model may read (see `loaded_files`)."""
    return sha256_bytes(canonical_json([[path.name, sha256_file(path)] for path in loaded_files(folder)]))


def _lengths(config: Config, info: PolicyInfo) -> dict[str, int]:
    given = config.sampling.engine.get("max_model_len")
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 2):
        raise ConfigError(
            f"sampling.engine.max_model_len is {given!r}, which is no number of tokens",
            "Give a whole number of tokens, as in 4096, or leave it out for the policy's own.",
        )
    context = given or info.max_position_embeddings
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
