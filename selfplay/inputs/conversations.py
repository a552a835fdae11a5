"""What the conversations of a run look like to its models: checked with real prompts at the start of every attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from selfplay.config.reward import RewardSource
from selfplay.core.errors import ConfigError
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.conversation_checks import ConversationCheck, check_of_folder
from selfplay.inputs.models.example_prompts import Example, example_prompts
from selfplay.inputs.user_code.exits import model_code


@dataclass(frozen=True, slots=True)
class Conversations:
    """`stop_token_ids` are the policy's end tokens that its model has; `notes` and `warnings` are sentences for the plan."""

    stop_token_ids: tuple[int, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def check_conversations(
    renderer: ChatRenderer,
    stop_token_ids: Sequence[int],
    policy: Path,
    vocab_size: int,
    rewards: Mapping[str, tuple[RewardSource, Path]],
    sources: Mapping[str, pa.Table],
) -> Conversations:
    """Check what the policy is asked and what each reward model is given. `policy` is the folder of the policy, `rewards` are
    the reward models by their section, with their folders; `sources` are tables of prompts by the name of their source (see
    `example_prompts`).

    Raises ModelError for a tokenizer or a template that loses text or fails.
    """
    examples = example_prompts(sources)
    stops = tuple(token for token in stop_token_ids if token < vocab_size)
    with renderer.guard():
        warnings = [
            *ConversationCheck("policy.model", renderer, vocab_size, policy).prompts(examples),
            *_end_tokens(renderer, stop_token_ids, stops, vocab_size),
        ]
    notes: list[str] = []
    for section, (source, folder) in rewards.items():
        with model_code(f"{section}.model", runs=source.trust_remote_code):
            check = check_of_folder(f"{section}.model", folder, trust_remote_code=source.trust_remote_code)
            warnings += check.conversations(examples)
        if source.sees == "final" and (form := renderer.thinking.describe()):
            notes.append(
                f"{section}.sees: final: the policy thinks before it answers: {form}{_opened(renderer, examples)}"
            )
    return Conversations(stops, tuple(notes), tuple(dict.fromkeys(warnings)))


def _end_tokens(renderer: ChatRenderer, asked: Sequence[int], stops: Sequence[int], vocab_size: int) -> list[str]:
    """Warnings about the tokens that end a response."""
    if beyond := sorted({*asked} - {*stops}):
        if not stops:
            raise ConfigError(
                f"policy.model: the end token {beyond[0]} is not one of the model's {vocab_size} token ids: "
                "no response would end",
                "The tokenizer or generation_config.json belongs to another model: use those of this model.",
            )
        return [f"policy.model: the end tokens {beyond} are not among the model's {vocab_size} token ids"]
    if not stops:
        return [
            "policy.model: neither the tokenizer nor generation_config.json names an end token: every response is as long as "
            "sampling.max_tokens"
        ]
    ends = renderer.turn_ends
    if ends and not {*ends} & {*stops}:
        string = renderer.tokenizer.convert_ids_to_tokens(ends[0])
        return [
            f"policy.model: the chat template ends the assistant's turn with {string!r}, which is not an end token "
            "of the tokenizer or of generation_config.json: responses do not stop there"
        ]
    return []


def _opened(renderer: ChatRenderer, examples: Sequence[Example]) -> str:
    """Whether the prompts begin the response's first thought."""
    opened = bool(examples) and renderer.thinking.opened_by(renderer.prompt(examples[0].messages))
    return ", and the prompt opens the first one" if opened else ""
