"""Checks requests before sampling: refuses those that an engine would cut silently or that would fail a whole call.

`sampler.py` calls them before anything reaches its engine. Nothing here imports vllm.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfplay.core.errors import ConfigError, DataError
from selfplay.core.protocols import SampleRequest, SamplingSettings

_COLDEST = 0.01  # vLLM raises a lower temperature to this one without failing


def check_settings(settings: SamplingSettings) -> None:
    """Raises ConfigError for settings that vLLM would change or refuse only in combination."""
    if settings.temperature == 0 and settings.num_responses != 1:
        raise ConfigError(
            "greedy sampling gives one response for each prompt", "Set num_responses to 1, or set a temperature."
        )
    if 0 < settings.temperature < _COLDEST:
        raise ConfigError(f"temperature {settings.temperature} is below {_COLDEST}", "Set 0 for greedy sampling.")


def check_requests(requests: Sequence[SampleRequest], max_tokens: int, *, max_model_len: int, vocab_size: int) -> None:
    """Raises DataError that names a prompt which is empty, leaves no room for `max_tokens`, or has unknown ids."""
    for request in requests:
        ids = request.prompt_token_ids
        if not ids:
            raise DataError(f"prompt {request.prompt_id} is empty", "Drop it before sampling.")
        if len(ids) + max_tokens > max_model_len:
            raise DataError(
                f"prompt {request.prompt_id} has {len(ids)} tokens; with max_tokens {max_tokens} it exceeds "
                f"the engine's max_model_len of {max_model_len}",
                "Drop the prompt, lower sampling.max_tokens or raise sampling.engine.max_model_len.",
            )
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise DataError(
                f"prompt {request.prompt_id} has token ids outside of the model's vocabulary of {vocab_size}",
                "Tokenize it with the policy's own tokenizer.",
            )
