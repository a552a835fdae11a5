"""What a selection from a dataset reads beside its rows: models, functions and metric, found, checked and pinned."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from selfplay.config.named_files import is_own_metric
from selfplay.config.reward import RewardSource
from selfplay.config.schema import (  # fmt: skip
    Config,
    PairsConfig,
    PolicyConfig,
    PromptsConfig,
    SamplingConfig,
    SelectionConfig,
    TrainingConfig,
)
from selfplay.core.errors import ConfigError
from selfplay.dataset_selection.needs import Needs
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.inputs.metric_requirements import ENTROPY, Ranking
from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer, read_chat_template, stop_token_ids
from selfplay.inputs.models.files import model_digest
from selfplay.inputs.models.metric_prompts import AskLlm, start_token_id
from selfplay.inputs.models.preflight import check_policy, check_reward_model, generation_eos_ids
from selfplay.inputs.models.sizes import load_config, position_limit
from selfplay.inputs.models.trial import tried_renderer
from selfplay.inputs.pinning import PinnedModel, find_model
from selfplay.inputs.resolve import EmbeddingModel, Inputs
from selfplay.inputs.user_code.listing import Code, function_code
from selfplay.inputs.user_code.metrics import load_metric
from selfplay.inputs.user_code.rewards import RewardFunction
from selfplay.selection.metrics import Metric
from selfplay.store.durable import sha256_bytes

NO_MODEL = PinnedModel(Path(), "")
"""In the place of a policy where none is given: no stage that loads one is run then."""
_NO_LIMIT = 1 << 30


def run_config(settings: SelectSettings) -> Config:
    """The settings as those of a run of one round. They are not validated as such: sampling, training and what else a
    selection does not do have neutral values."""
    selection = SelectionConfig.model_construct(
        **settings.model_dump(
            include={"metric", "options", "group_column", "weight", "implicit_margin", "beta", "keep"}
        ),
        standardize=settings.standardize,
    )
    return Config.model_construct(
        policy=PolicyConfig.model_construct(
            model=settings.policy or "", revision=settings.policy_revision, chat_template=settings.chat_template
        ),
        prompts=PromptsConfig.model_construct(
            source=settings.dataset_name, split=settings.split, subset=settings.subset, revision=settings.revision
        ),
        sampling=SamplingConfig.model_construct(num_responses=2, shard_size=settings.shard_size),
        reward=settings.rewards(), pairs=settings.pairs or PairsConfig(), selection=selection,
        training=TrainingConfig.model_construct(loss="simpo"), cluster=settings.cluster, rounds=1, seed=settings.seed,
    )  # fmt: skip


def selected_code(settings: SelectSettings) -> tuple[Code, ...]:
    """The functions of the user's that the settings name, found and digested; none of them is loaded. Raises ConfigError."""
    functions = {"reward_function": (settings.reward_function, "reward function")}
    functions |= {section: (part.function, "reward function") for section, part in _parts(settings)}
    if is_own_metric(settings.metric):
        functions["metric"] = (settings.metric, "metric")
    base = Path.cwd()
    return tuple(
        function_code(name, spec, base, what=what) for name, (spec, what) in functions.items() if spec is not None
    )


def _parts(settings: SelectSettings) -> Iterable[tuple[str, RewardSource]]:
    """The parts of the reward, by the dotted names of their sections."""
    return settings.rewards().sources().items() if settings.reward is not None else ()


def resolve_metric(settings: SelectSettings) -> Metric:
    """The metric, with its options checked. Raises ConfigError."""
    metric = load_metric(settings.metric, Path.cwd())
    metric.check_options(settings.options)
    # a user's own metric is called by its file's name, wherever the file is
    if metric.where is None:
        return metric
    name = settings.identity()["metric"]
    return replace(metric, name=name, formula=name if metric.formula == metric.name else metric.formula)


def resolve_inputs(
    settings: SelectSettings, metric: Metric, revisions: Mapping[str, str], code: Sequence[Code]
) -> Inputs:
    """Find, check and digest what the settings name. `revisions`: see `inputs.resolve.resolve`; `code`: see `selected_code`.
    `Inputs.pins` and `Inputs.revisions` are by the names of the settings. Raises ConfigError and ModelError."""
    search_path, found = Path.cwd(), dict[str, str]()
    pins = {piece.setting: piece.pin for piece in code}

    def pinned(name: str, kind: type[PolicyConfig] | type[RewardSource] = PolicyConfig) -> PinnedModel | None:
        place, revision = getattr(settings, name), getattr(settings, f"{name}_revision")
        if place is None:
            return None
        folder = find_model(name, kind(model=place, revision=revision), revisions, found)
        if name == "reward_model":
            check_reward_model(folder)
        elif name != "embedding_model":
            check_policy(folder, chat_template_needed=False)
        pins[name] = model_digest(folder)
        return PinnedModel(folder, pins[name])

    policy, reference = pinned("policy"), pinned("reference")
    reward, embedding = pinned("reward_model", RewardSource), pinned("embedding_model")
    rewards = {"reward": reward} if reward is not None else {}
    for section, part in _parts(settings):
        if part.model is not None:
            folder = find_model(section, part, revisions, found)
            check_reward_model(folder)
            rewards[section] = PinnedModel(folder, model_digest(folder))
            pins[section] = rewards[section].digest
    renderer, stops, limit = _renderer(settings, policy, pins)
    if policy is not None and reference is not None:
        _check_reference(policy, reference, cast(ChatRenderer, renderer))
        limit = min(limit, _positions(reference.folder))
    if embedding is not None:
        positions = _positions(embedding.folder)
        tokenizer = load_tokenizer(embedding.folder)
        other = EmbeddingModel(embedding, tokenizer, positions if positions < _NO_LIMIT else None)
    return Inputs(
        policy=policy or NO_MODEL,
        policy_info=cast(Any, None),
        rewards=rewards,
        reward_infos={},
        prompts=cast(Any, None),
        evaluation=None,
        renderer=cast(Any, renderer),
        stop_token_ids=stops,
        context_length=limit,
        max_length=limit,
        prompt_limit=limit,
        evaluation_prompt_limit=limit,
        search_path=search_path,
        pins=pins,
        revisions=found,
        gold_lacks=(),
        ranking=Ranking(metric, metric, settings.implicit_margin),
        reference=reference,
        embedding=other if embedding is not None else None,
    )


def with_given(inputs: Inputs, given: Collection[str]) -> Inputs:
    """The inputs with the columns that the dataset has already, which no model makes again."""
    return replace(inputs, ranking=replace(inputs.ranking, given=frozenset({*given, ENTROPY})))


def check_function(settings: SelectSettings, columns: Sequence[str]) -> None:
    """Raise ConfigError when a reward function requires a column that the dataset does not have."""
    for source in settings.rewards().sources().values():
        if source.function is not None:
            with contextlib.redirect_stdout(sys.stderr):
                function = RewardFunction(source.function, Path.cwd(), batched=source.batched)
                function.check_columns(columns, settings.dataset_name)


def check_tokenizer(needs: Needs, inputs: Inputs) -> None:
    """Raise ConfigError where the policy's tokenizer cannot write what is needed (an answer, a start token)."""
    if needs.alone:
        start_token_id(inputs.renderer.tokenizer)
    if needs.yes:
        AskLlm(inputs.renderer, inputs.context_length)


def limit_of(inputs: Inputs) -> int | None:
    """The longest prompt with its response, in tokens of the policy; None: no limit."""
    return inputs.max_length if inputs.max_length < _NO_LIMIT else None


def _renderer(
    settings: SelectSettings, policy: PinnedModel | None, pins: dict[str, str]
) -> tuple[ChatRenderer | None, tuple[int, ...], int]:
    """The policy's renderer, the tokens that end a turn, and the longest prompt with its response."""
    if policy is None:
        return None, (), _NO_LIMIT
    tokenizer = load_tokenizer(policy.folder)
    template = read_chat_template(settings.chat_template, Path.cwd())
    if template is not None:
        pins["chat_template"] = sha256_bytes(template.encode())
    positions = _positions(policy.folder)
    if settings.max_length is not None and settings.max_length > positions:
        raise ConfigError(
            f"max_length is {settings.max_length}; the policy has positions for {positions} tokens",
            "Lower it, or leave it out: what is too long is dropped with a reason.",
        )
    stops = stop_token_ids(tokenizer, generation_eos_ids(policy.folder))
    return tried_renderer("policy", tokenizer, template), stops, settings.max_length or positions


def _check_reference(policy: PinnedModel, reference: PinnedModel, renderer: ChatRenderer) -> None:
    if reference.digest == policy.digest:
        raise ConfigError(
            "the reference is the policy: every implicit margin in the DPO form would be 0",
            "Give the model that the policy was trained from, or use --implicit-margin simpo, which has no reference.",
        )
    theirs, ours = load_tokenizer(reference.folder).get_vocab(), renderer.tokenizer.get_vocab()
    if theirs != ours:
        raise ConfigError(
            f"the reference {reference.folder} has another vocabulary than the policy",
            "Both read the policy's token ids: give the model that the policy was trained from.",
        )


def _positions(folder: Path) -> int:
    """The longest text that a model takes, in tokens; _NO_LIMIT where its config names none."""
    positions = position_limit(load_config(folder))
    return positions if positions is not None else _NO_LIMIT
