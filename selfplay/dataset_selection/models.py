"""The models and functions of one selection, resolved and checked before anything is computed: places, digests, tokenizers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.errors import ConfigError, DataError
from selfplay.core.records import Message
from selfplay.dataset_selection.needs import Needs
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer, read_chat_template, stop_token_ids
from selfplay.inputs.models.files import model_folder, read_json, snapshot_commit
from selfplay.inputs.models.preflight import check_policy, check_reward_model, generation_eos_ids
from selfplay.inputs.resolve import PinnedModel, model_digest
from selfplay.inputs.user_code.rewards import RewardFunction, source_digest
from selfplay.store.durable import sha256_bytes


@dataclass(frozen=True)
class Models:
    """What is there to compute with; None where it was not given. `limit`: the longest prompt with its response in the
    policy's tokens. `search_path` is the folder in which a function's module is looked for. `commits` are those that hub models
    resolved to, `pins` the digests of all content, both by the setting's name."""

    policy: PinnedModel | None = None
    reference: PinnedModel | None = None
    reward: PinnedModel | None = None
    reward_function: str | None = None
    embedding: PinnedModel | None = None
    renderer: ChatRenderer | None = None
    stop_token_ids: tuple[int, ...] = ()
    limit: int | None = None
    embedding_tokenizer: Any = None
    embedding_limit: int | None = None
    search_path: Path = Path()
    commits: tuple[tuple[str, str], ...] = ()
    pins: tuple[tuple[str, str], ...] = ()


def resolve_models(settings: SelectSettings) -> Models:
    """Find, check and digest what the settings name. Raises ConfigError and ModelError."""
    search_path = Path.cwd()
    pins: dict[str, str] = {}
    commits: dict[str, str] = {}
    found: dict[str, Any] = {}
    for name in ("policy", "reference", "reward_model", "embedding_model"):
        place = getattr(settings, name)
        if place is None:
            continue
        folder = model_folder(place, getattr(settings, f"{name}_revision"))
        # a hub model's folder is named by the commit that its revision resolved to
        if (commit := snapshot_commit(folder)) is not None and not Path(place).expanduser().is_dir():
            commits[name] = commit
        if name == "reward_model":
            check_reward_model(folder)
        elif name != "embedding_model":
            check_policy(folder, chat_template_needed=False)
        pins[name] = model_digest(folder)
        found[name.removesuffix("_model")] = PinnedModel(folder, pins[name])
    if settings.reward_function is not None:
        with contextlib.redirect_stdout(sys.stderr):  # finding a module runs its package
            pins["reward_function"] = source_digest(settings.reward_function, search_path)
    if "policy" in found:
        found |= _renderer(settings, found["policy"].folder, pins)
    if "reference" in found:
        _check_reference(found["policy"], found["reference"], found["renderer"])
        found["limit"] = _smallest(found["limit"], _positions(found["reference"].folder))
    if "embedding" in found:
        folder = found["embedding"].folder
        found["embedding_tokenizer"] = load_tokenizer(folder)
        found["embedding_limit"] = _positions(folder)
    return Models(
        **found, reward_function=settings.reward_function, search_path=search_path,
        commits=tuple(sorted(commits.items())), pins=tuple(sorted(pins.items())),
    )  # fmt: skip


def check_function(models: Models, columns: Sequence[str], source: str) -> None:
    """Raise ConfigError when the reward function requires a column that the dataset does not have."""
    if models.reward_function is not None:
        with contextlib.redirect_stdout(sys.stderr):
            RewardFunction(models.reward_function, models.search_path).check_columns(columns, source)


def _renderer(settings: SelectSettings, folder: Path, pins: dict[str, str]) -> dict[str, Any]:
    tokenizer = load_tokenizer(folder)
    template = read_chat_template(settings.chat_template, Path.cwd())
    if template is not None:
        pins["chat_template"] = sha256_bytes(template.encode())
    positions = _positions(folder)
    if settings.max_length is not None and positions is not None and settings.max_length > positions:
        raise ConfigError(
            f"max_length is {settings.max_length}; the policy has positions for {positions} tokens",
            "Lower it, or leave it out: what is too long is dropped with a reason.",
        )
    return {
        "renderer": ChatRenderer(tokenizer, template),
        "stop_token_ids": stop_token_ids(tokenizer, generation_eos_ids(folder)),
        "limit": _smallest(settings.max_length, positions),
    }


def _check_reference(policy: PinnedModel, reference: PinnedModel, renderer: ChatRenderer) -> None:
    if reference.digest == policy.digest:
        raise ConfigError(
            "the reference is the policy: every implicit margin in the DPO form would be 0",
            "Give the model that the policy was trained from, or say --implicit-margin simpo, which has no reference.",
        )
    theirs, ours = load_tokenizer(reference.folder).get_vocab(), renderer.tokenizer.get_vocab()
    if theirs != ours:
        raise ConfigError(
            f"the reference {reference.folder} has another vocabulary than the policy",
            "Both are given the policy's token ids: take the model that the policy was trained from.",
        )


def needed_text(needs: Needs, models: Models) -> None:
    """Raise ConfigError where what is needed cannot be made of what was given (a tokenizer that can write no answer, ...)."""
    from selfplay.inputs.models.metric_prompts import AskLlm, start_token_id

    if needs.alone:
        assert models.renderer is not None
        start_token_id(models.renderer.tokenizer)
    if needs.yes:
        assert models.renderer is not None
        AskLlm(models.renderer, models.limit or 1 << 30)


def _positions(folder: Path) -> int | None:
    config = read_json(folder / "config.json")
    text = config.get("text_config") or config
    positions = text.get("max_position_embeddings")
    return int(positions) if positions is not None else None


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def embedding_ids(models: Models, messages: Sequence[Message], response: str) -> list[int]:
    """Token ids of a conversation for an embedding model of its own: the turns as plain text, with the special tokens that its
    tokenizer puts around a text. Raises DataError where they are too many."""
    text = "\n\n".join([*(message["content"] for message in messages), response])
    ids = list(models.embedding_tokenizer(text, verbose=False)["input_ids"])
    if models.embedding_limit is not None and len(ids) > models.embedding_limit:
        raise DataError(f"{len(ids)} tokens, the embedding model takes {models.embedding_limit}", "")
    return ids
