"""Log-probs of response tokens in a training forward pass (stage *train*): TRL's fused LM head, given only the positions that
predict a token of a response. TRL by itself projects every position where there is no Triton, prompts and padding included.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from selfplay.backends.trl.pair_rows import share_prompts
from selfplay.backends.trl.rows import IGNORED_LABEL

# Outputs of the fused head that a loss reads; what TRL only logs is left out.
_OF_LOSSES = ("log_probs", "log_sum_sq_probs")


class ResponseHead:
    """The forward pass of a causal language model for TRL's losses; see `add_response_head`. `shares_prompts` may be set at any
    time: it decides whether a prompt is computed once for both of its responses."""

    def __init__(self, model: Any, outputs: tuple[str, ...]) -> None:
        add_fused_lm_head(model, outputs=tuple(name for name in outputs if name in _OF_LOSSES))
        self._model, self._fused, self._outputs = model, model.forward, outputs
        self.shares_prompts = False

    def __call__(
        self,
        *args: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model's own forward unless `fused_lm_head`."""
        if not fused_lm_head:
            return self._fused(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        assert labels is not None and not args
        if self.shares_prompts:
            shared = share_prompts(kwargs["input_ids"], labels, self._model.dtype)
            kwargs |= {name: getattr(shared, name) for name in ("input_ids", "position_ids", "attention_mask")}
            needed = shared.targets_BL != IGNORED_LABEL
            targets, places = shared.targets_BL, (shared.source_BL[needed], shared.position_ids[needed])
        else:
            targets = labels[:, 1:]
            needed = targets != IGNORED_LABEL
            places = needed.nonzero(as_tuple=True)

        def keep_needed(module: Any, inputs: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[:, : needed.shape[1]][needed][None]
            return output

        hook = self._model.base_model.register_forward_hook(keep_needed)
        try:
            found = self._fused(fused_lm_head=True, shift_labels=targets[needed][None], **kwargs)
        finally:
            hook.remove()
        nothing = torch.zeros((len(labels), labels.shape[1] - 1), device=labels.device)
        for name in self._outputs:
            found[name] = nothing.index_put(places, found[name][0]) if name in _OF_LOSSES else nothing
        if "is_top1" in self._outputs:
            found.is_top1 = nothing.bool()
        return found


def add_response_head(model: Any, outputs: tuple[str, ...] = ("log_probs",)) -> None:
    """As TRL's `add_fused_lm_head`, for calls with labels (B rows of T tokens). Outputs have shape (B, T - 1) and are 0 where no
    token of a response is predicted; outputs that no loss reads are 0 everywhere. The head is `model.response_head`."""
    model.response_head = ResponseHead(model, outputs)

    # a method, as accelerate expects when it wraps a forward pass and unwraps it again
    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.response_head(*args, **kwargs)

    model.forward = types.MethodType(forward, model)
