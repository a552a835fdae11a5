"""Which modules of a policy may carry LoRA adapters (`training.lora.target_modules`)."""

from __future__ import annotations

import re
from typing import Any

from selfplay.core.errors import ConfigError

ALL_LINEAR = "all-linear"


def check_lora_targets(targets: str | list[str], model: Any) -> None:
    """Raises ConfigError unless every target (a list of names, or one regular expression, as in peft) meets a module that can
    be adapted. The output layer cannot: the fused log-probs read its weight without any adapter. Neither can tied
    embeddings: merged, their adapter would change the output layer too, which was trained without it."""
    if targets == ALL_LINEAR:  # peft leaves the output layer out
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        met = {targets: [name for name in names if re.fullmatch(targets, name)]}
    else:
        met = {want: [name for name in names if name == want or name.endswith(f".{want}")] for want in targets}
    fixed = _cannot_be_adapted(model)
    for want, found in met.items():
        if not found or (why := next((fixed[name] for name in found if name in fixed), "")):
            raise ConfigError(
                f"training.lora.target_modules: {want} cannot be adapted in this policy: "
                + (why if found else "it has no such module"),
                f"Use {ALL_LINEAR} or a list from {', '.join(sorted(_linear(model) - {name.split('.')[-1] for name in fixed}))}.",
            )


def _cannot_be_adapted(model: Any) -> dict[str, str]:
    """Names of modules, and why."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = bool(model.all_tied_weights_keys)
    return {
        name: "it is the output layer" if module is output else "its weight is tied to the output layer's"
        for name, module in model.named_modules()
        if module is output or (tied and module is embedding)
    }


def _linear(model: Any) -> set[str]:
    """Last parts of the names of linear layers (GPT-2 has them as Conv1D)."""
    kinds = ("Linear", "Conv1D")
    return {name.split(".")[-1] for name, module in model.named_modules() if type(module).__name__ in kinds}
