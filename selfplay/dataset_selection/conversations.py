"""The check that a selection's models can read the conversations of its dataset."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from selfplay.dataset_selection.needs import Needs
from selfplay.inputs.models.conversation_checks import ConversationCheck, check_of_folder
from selfplay.inputs.models.example_prompts import example_prompts
from selfplay.inputs.resolve import Inputs


def check_conversations(inputs: Inputs, needs: Needs, dataset: str, prompts: pa.Table) -> Iterator[str]:
    """Yields notes about the models that read the prompts (column `messages`). Raises ModelError for a tokenizer or a
    template that loses text or fails."""
    examples = example_prompts({dataset: prompts})
    if needs.rendered:
        yield from ConversationCheck("policy", inputs.renderer, None, inputs.policy.folder).prompts(examples)
    for section, model in inputs.rewards.items() if needs.rewards else ():
        name = "reward_model" if section == "reward" else section
        yield from check_of_folder(name, model.folder).conversations(examples)
