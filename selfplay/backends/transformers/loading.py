"""Loads models with transformers, and refuses broken models that transformers would silently accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from selfplay.backends.transformers.attention import needed_attention
from selfplay.backends.transformers.dropout import switch_off_in_config, switch_off_in_modules
from selfplay.core.timing import part
from selfplay.inputs.models.loading_check import does_not_load, refuse_missing
from selfplay.inputs.models.sizes import load_config


@part("loading")
def load_complete(
    kind: Any,
    folder: str | Path,
    dtype: torch.dtype,
    name: str,
    *,
    trust_remote_code: bool = False,
    optional: tuple[str, ...] = (),
    for_training: bool = False,
) -> Any:
    """The model in `folder` by `kind.from_pretrained`, on the CPU, with the attention that it needs; `for_training` without
    dropout. `name` ("policy", "reward model") is used in messages; weights whose names begin with one of `optional` may be
    missing.

    Raises ModelError if the model does not load or lacks weights, which transformers would fill with random numbers.
    """
    config = load_config(folder, trust_remote_code=trust_remote_code)
    if for_training:
        switch_off_in_config(config)
    attention = needed_attention(config)
    try:
        model, loading = kind.from_pretrained(
            folder,
            config=config,
            **({"attn_implementation": attention} if attention else {}),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise does_not_load(folder, name, error) from error
    refuse_missing(folder, name, (weight for weight in loading["missing_keys"] if not weight.startswith(optional)))
    if for_training:
        switch_off_in_modules(model)
    return model
