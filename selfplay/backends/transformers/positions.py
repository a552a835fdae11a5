"""The longest input of a loaded model."""

from __future__ import annotations

from typing import Any

from torch import nn

from selfplay.inputs.models.sizes import position_limit


def usable_positions(model: Any) -> int | None:
    """The longest text in tokens: by the config, and by the rows of a learned position table, without those that belong to
    padding (RoBERTa and its kind). None where neither names a limit."""
    limits = [position_limit(model.config)]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            limits.append(module.num_embeddings - (module.padding_idx + 1 if module.padding_idx is not None else 0))
    return min((limit for limit in limits if limit is not None), default=None)
