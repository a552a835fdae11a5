"""The checks that a selection's models load, and that they can read the conversations of its dataset."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from selfplay.dataset_selection.needs import Needs
from selfplay.inputs.models.conversation_checks import ConversationCheck, check_of_folder
from selfplay.inputs.models.example_prompts import example_prompts
from selfplay.inputs.models.loading_check import check_language_model_loads, check_reward_model_loads
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


def check_models_load(inputs: Inputs, needs: Needs) -> Iterator[str]:
    """Yields which tensors of the models that are run have no place in them. Raises ModelError for one that does not load."""
    for model in inputs.rewards.values() if needs.rewards else ():
        yield from check_reward_model_loads(model.folder).warnings
    if needs.policy_logps or needs.alone or needs.yes:
        yield from check_language_model_loads(inputs.policy.folder, "policy").warnings
    if needs.reference_logps and inputs.reference is not None:
        yield from check_language_model_loads(inputs.reference.folder, "reference").warnings
