"""The attention implementation that a model needs, and the check that it computes what the model's own code defines.

transformers takes PyTorch's fused kernel (sdpa) for every model that allows it. That kernel has no soft cap on the attention
logits, and is given none: a model like Gemma 2 then computes another function, and nothing says so. Such a model gets eager
attention, which is the model's own code. Models with attention sinks (gpt-oss) do not allow sdpa, so transformers itself takes
eager attention for them. What no rule foresees is found by `check_attention`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from selfplay.backends.transformers.padding import pad_right
from selfplay.core.errors import BackendError

_EAGER = "eager"
# Part of the name of the soft cap on attention logits: attn_logit_softcapping (Gemma 2, Gemma 3, VaultGemma, T5Gemma),
# attention_logit_cap (Gemma 3n). A cap on the output logits (final_logit_softcapping) is no matter of attention.
_CAPS = ("softcap", "soft_cap", "logit_cap", "logits_cap")
# Names of settings by which attention depends on how far apart tokens lie (GPT-Neo, Longformer, Falcon)
_OF_DISTANCE = ("attention_types", "attention_window", "window_size", "alibi")
_MAX_TOKENS = 1024
_NUM_ROWS = 2
# Largest relative error of a token's last hidden state in float32, where two exact implementations agree to about 1e-5, and
# the mean over the tokens in a narrower dtype, where single tokens scatter.
_MAX_ERROR_FLOAT32 = 1e-3
_MEAN_ERROR_NARROW = 0.05


def sub_configs(config: Any) -> Iterator[Any]:
    """`config` and all configs inside it (of a composite model: text, vision, ...)."""
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_diff_dict"):
            yield from sub_configs(value)


def needed_attention(config: Any) -> str | None:
    """The implementation to ask transformers for: "eager" where a config soft-caps attention logits, else None (its default)."""
    for part in sub_configs(config):
        for name, value in vars(part).items():
            is_cap = name.startswith("att") and any(cap in name for cap in _CAPS)
            if is_cap and isinstance(value, int | float) and value:
                return _EAGER
    return None


def has_full_causal_attention(model: Any) -> bool:
    """Whether each token of a causal model of transformers attends to all earlier ones and to no later one, wherever they lie in
    the batch, so that rows may share the tokens that they begin with. What says otherwise: a window, biases by distance in the
    batch (ALiBi, and whatever takes no position ids), attention in both directions, code of the model's own."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if (window is not None and not kinds) or {*(kinds or ())} - {"full_attention"}:
        return False
    if any(getattr(config, name, None) for name in _OF_DISTANCE) or config.is_encoder_decoder:
        return False
    return (
        type(model).__module__.startswith("transformers.")
        and "position_ids" in inspect.signature(model.base_model.forward).parameters
        and all(getattr(module, "is_causal", True) for module in model.modules())
    )


def check_attention(model: Any, folder: str, rows: Sequence[Sequence[int]]) -> None:
    """Compare the last hidden states of a few of `rows` (token ids) with those of eager attention, in the model's dtype.

    Raises BackendError that names both implementations if they differ by more than rounding.
    """
    chosen = model.config._attn_implementation
    if chosen == _EAGER or not rows:
        return
    # the first and the longest that eager attention, which is quadratic in memory, can take; a longer one is cut
    fitting = [row for row in rows if len(row) <= _MAX_TOKENS] or [rows[0][:_MAX_TOKENS]]
    few = [fitting[0], *sorted(fitting[1:], key=len)[-(_NUM_ROWS - 1) :]]
    input_ids, mask = pad_right(few, 0, model.get_input_embeddings().weight.device)
    found = _hidden_states(model, input_ids, mask)
    _set_attention(model, _EAGER)
    try:
        exact = _hidden_states(model, input_ids, mask)
    finally:
        _set_attention(model, chosen)
    errors = (found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-12)
    if errors.shape == mask.shape:
        errors = errors[mask.bool()]
    wide = model.dtype == torch.float32
    seen, allowed = (errors.max(), _MAX_ERROR_FLOAT32) if wide else (errors.mean(), _MEAN_ERROR_NARROW)
    # what is not finite is reported by the caller, with the name of the response
    if bool(torch.isfinite(exact).all()) and not float(seen) <= allowed:
        raise BackendError(
            f"the attention implementation {chosen!r} computes another function than {_EAGER!r} for the model in {folder}: its "
            f"hidden states differ by {float(seen):.3g} of their size ({allowed:g} is allowed in {model.dtype})",
            f'Put "attn_implementation": "{_EAGER}" into the config.json of a copy of the model, and use that.',
        )


def _set_attention(model: Any, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    if model.config._attn_implementation != implementation:
        # transformers declines (Falcon); the model's code reads its config
        model.config._attn_implementation = implementation


def _hidden_states(model: Any, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Last hidden states of a padded batch, B x T x D in float32; of an encoder-decoder its output, B x labels."""
    body = model if model.config.is_encoder_decoder else model.base_model
    options = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
    with torch.inference_mode():
        hidden: torch.Tensor = body(input_ids=input_ids, attention_mask=mask, **options)[0]
        return hidden.float()
